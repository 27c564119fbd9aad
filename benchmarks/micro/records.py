"""Rows, texts and tokens: `python benchmarks/micro/records.py`. All of a sample but its picture, and what the curriculum asks of a batch.

The curriculum's own exchange is measured by benchmarks/curriculum/service.py.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # only medclm is installed

from benchmarks.micro.stored import SIDE, arguments
from benchmarks.timing import report, take_turns
from medclm.config import DataSection
from medclm.data.loader import collate
from medclm.data.order import global_batch
from medclm.data.render import Renderer, with_instruction
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.data.testing import write_small_corpus
from medclm.testing import tiny_processor, tiny_section
from medclm.types import Stage

IMAGES, GLOBAL, MICRO = 512, 48, 24
FIELDS = ["record_id", "domain", "image_row", "easy_image_row", "hard_image_row", "annotation_rows"]
FIELDS += ["question_easy", "rationale_easy", "answer_easy"]


def main() -> None:
    chosen = arguments(__doc__, "records")
    with tempfile.TemporaryDirectory() as folder:
        write_small_corpus(Path(folder), IMAGES, splits=["train"], no_finding_every=0, rows_per_file=256, batch_rows=256)
        corpus = Corpus(Path(folder))
        processor = tiny_processor(tiny_section(image_size=SIDE, patch_size=14))
        renderer = Renderer(corpus, processor, DataSection(), seed=0)
        stream = Stream(corpus, split="train", seed=0, window=256, min_side=0, image_size=SIDE, fit="pad")
        sample = renderer.sample(0, 0, Stage.EASY)
        rendered = [(sample, renderer.encode(sample))] * MICRO
        question = with_instruction("What does the red box show?", "reason")
        pieces: dict[str, tuple[int, Callable[[int], object]]] = {
            "a record's row, 9 columns": (1, lambda i: corpus.row("records", i * 7 % IMAGES, FIELDS)),
            "its two boxes": (
                1,
                lambda i: corpus.rows("annotations", [2 * (i % IMAGES), 2 * (i % IMAGES) + 1], ["box_xyxy_unit"]),
            ),
            "its picture's bytes": (1, lambda i: corpus.image_bytes(i * 7 % IMAGES)),
            "tokens of the prompt": (1, lambda _: processor.prompt_ids(question)),
            "tokens of the rationale": (1, lambda _: processor.text_ids(sample.rationale)),
            "encode: tokens, segments, pixel values": (1, lambda _: renderer.encode(sample)),
            f"record_rows of a batch of {GLOBAL}": (GLOBAL, lambda i: stream.record_rows(global_batch(i, GLOBAL))),
            f"describe a batch of {GLOBAL}": (GLOBAL, lambda i: stream.describe(i, GLOBAL)),
            f"collate a micro-batch of {MICRO}": (MICRO, lambda _: collate(rendered)),
        }
        times = take_turns({name: piece for name, (_, piece) in pieces.items()}, turns=chosen.turns, seconds=chosen.seconds)
        tokens = len(rendered[0][1].input_ids)
        rows = [{"piece": name, "cpu ms a sample": times[name].cpu_ms / samples} for name, (samples, _) in pieces.items()]
    report(f"rows, texts and tokens; a sample of {tokens} tokens", rows, chosen.out)


if __name__ == "__main__":
    main()
