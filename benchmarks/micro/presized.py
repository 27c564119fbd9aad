"""What storing pictures at the model's side saves and changes (`corpus.py build --longest-side 336`): `python benchmarks/micro/presized.py`.

Grey levels are those of the square that the model sees, of the shrunk picture against the full one. A shrunk picture is stored as PNG,
as a build does; the full one as a corpus may hold it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # only medclm is installed

from benchmarks.micro.stored import KINDS, SIDE, arguments, encoded
from benchmarks.timing import report, take_turns
from medclm.config import DataSection
from medclm.corpus.longest_side import shown_part
from medclm.corpus.pixels import encode_png
from medclm.data.frame import ImageFrame
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.testing import write_small_corpus
from medclm.testing import tiny_processor, tiny_section
from medclm.types import Stage

IMAGES, TRIED = 8, (SIDE, 2 * SIDE)


def main() -> None:
    chosen = arguments(__doc__, "presized")
    processor = tiny_processor(tiny_section(image_size=SIDE, patch_size=14))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            renderers, sizes = {}, {}
            full = write_small_corpus(
                Path(folder) / kind.name, IMAGES, splits=["train"], no_finding_every=0, pictures=[encoded(kind)]
            )
            renderers["as it came"] = Renderer(Corpus(full), processor, DataSection(), seed=0)
            sizes["as it came"] = len(encoded(kind))
            picture = Corpus(full).picture(0, keep_grey=True)
            for side in TRIED:
                if side >= max(picture.size):
                    continue
                frame = ImageFrame(*picture.size, side=side, fit="pad")
                stored = frame.place(picture).crop(shown_part(frame))
                data, name = encode_png(np.asarray(stored)), f"{stored.width} x {stored.height} PNG"
                small = write_small_corpus(
                    Path(folder) / f"{kind.name} {side}", IMAGES, splits=["train"], no_finding_every=0, pictures=[data]
                )
                renderers[name], sizes[name] = Renderer(Corpus(small), processor, DataSection(), seed=0), len(data)
            times = take_turns(
                {
                    name: lambda number, one=renderer: one.render(number % IMAGES, number, Stage(number % 2))
                    for name, renderer in renderers.items()
                },
                turns=chosen.turns,
                seconds=chosen.seconds,
            )
            true = grey_of(renderers["as it came"].picture(0)[0])
            for name, renderer in renderers.items():
                off = np.abs(grey_of(renderer.picture(0)[0]) - true)
                rows.append(
                    {
                        "picture": kind.name,
                        "stored": name,
                        "KB": sizes[name] / 1024,
                        "samples/s a core": 1e3 / times[name].cpu_ms,
                        "times as fast": times["as it came"].cpu_ms / times[name].cpu_ms,
                        "grey levels off, mean": float(off.mean()),
                        "most": float(off.max()),
                    }
                )
    report(f"pictures stored shrunk, for a square of {SIDE} px", rows, chosen.out)


def grey_of(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), np.float32)


if __name__ == "__main__":
    main()
