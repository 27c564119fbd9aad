"""Train: the one entry point of the deepspeed launcher, torchrun and srun.

    deepspeed launch/train.py --deepspeed ds_configs/zero3.json                                   the built-in demo
    deepspeed launch/train.py --deepspeed ds_configs/zero3.json --config train/configs/vip_llava_7b.yaml --data.corpus=DIR
    deepspeed launch/train.py --deepspeed ds_configs/zero3.json --dry-run                         plan, and exit

Own flags: --deepspeed FILE, --config FILE, --resume=auto|never, --dry-run, --help. Everything else is --section.key=value.
"""

import os
import sys

# `deepspeed launch/train.py` puts launch/ first on the path, where `import train` would find this very file.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from train.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
