"""Train: the one entry point of the deepspeed launcher, torchrun and srun.

    deepspeed launch/train.py --deepspeed ds_configs/zero3.json                                   the built-in demo
    deepspeed launch/train.py --deepspeed ds_configs/zero3.json --config train/configs/vip_llava_7b.yaml --data.corpus=DIR
    deepspeed launch/train.py --deepspeed ds_configs/zero3.json --dry-run                         plan, and exit

Own flags: --deepspeed FILE, --config FILE, --resume=auto|never, --dry-run, --help. Everything else is --section.key=value.
"""

import os
import sys
import traceback

# `deepspeed launch/train.py` puts launch/ first on the path, where `import train` would find this very file.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from typing import TYPE_CHECKING

from train.main import main

if TYPE_CHECKING:
    from eval.in_loop import Exam
    from medclm.config import Recipe
    from medclm.data.shards import Corpus


def make_exam(recipe: "Recipe", corpus: "Corpus") -> "Exam":
    """What asks the model questions in words while it learns (`validation.questions`)."""
    from eval.in_loop import Exam

    section = recipe.validation
    return Exam(
        corpus,
        split=section.split,
        questions=section.questions,
        data=recipe.data,
        batch_size=recipe.train.micro_batch_size,
        max_new_tokens=section.max_new_tokens,
    )


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:], make_exam)
    except Exception:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)  # at once: a thread may still be waiting for a rank that is gone
    sys.exit(status)
