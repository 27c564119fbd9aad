"""Normalisation, layout and collation: `python benchmarks/micro/pixel_values.py`.

Would a batch of bytes, normalised where the model is, be better than one of float32? Bytes are what is held ahead, pinned and copied.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # only medclm is installed

from benchmarks.micro.stored import SIDE, arguments, grey
from benchmarks.timing import report, take_turns
from medclm.testing import tiny_processor, tiny_section

BATCH = 16


def main() -> None:
    chosen = arguments(__doc__, "pixel_values")
    torch.set_num_threads(1)
    processor = tiny_processor(tiny_section(image_size=SIDE, patch_size=14))
    picture = Image.fromarray(grey(SIDE, SIDE)).convert("RGB")
    inner = processor.inner.image_processor
    std, mean = np.asarray(inner.image_std), np.asarray(inner.image_mean)
    scale, shift = (inner.rescale_factor / std).astype(np.float32), (-mean / std).astype(np.float32)
    floats, bytes_hwc = processor.pixel_values(picture), np.asarray(picture)
    batch = torch.from_numpy(np.stack([bytes_hwc] * BATCH))
    scale_t, shift_t = torch.from_numpy(scale)[:, None, None], torch.from_numpy(shift)[:, None, None]
    slot = np.empty((BATCH, *floats.shape), np.float32)

    def interleaved(_: int) -> np.ndarray:
        return np.ascontiguousarray((np.asarray(picture, dtype=np.float32) * scale + shift).transpose(2, 0, 1))

    def at_the_model(_: int) -> torch.Tensor:
        return batch.permute(0, 3, 1, 2).float() * scale_t + shift_t

    def into_slots(_: int) -> None:
        for row in slot:
            row[:] = floats

    assert np.array_equal(interleaved(0), floats)
    times = take_turns(
        {
            "float32: pixel_values": lambda _: processor.pixel_values(picture),
            "float32: interleaved, then turned around": interleaved,
            "uint8: bytes of the picture": lambda _: np.asarray(picture),
            "float32: stacked to a batch": lambda _: np.stack([floats] * BATCH),
            "float32: copied into a batch made once": into_slots,
            "uint8: stacked to a batch": lambda _: np.stack([bytes_hwc] * BATCH),
            "uint8: batch normalised by the model (here: this CPU)": at_the_model,
        },
        turns=chosen.turns,
        seconds=chosen.seconds,
    )
    rows = []
    for name, time in times.items():
        samples = BATCH if "batch" in name else 1
        held = floats.nbytes if name.startswith("float32") else bytes_hwc.nbytes
        rows.append({"piece": name, "cpu ms a sample": time.cpu_ms / samples, "KB a sample": held / 1024})
    report(f"pixel values of {SIDE} px, batches of {BATCH}", rows, chosen.out)


if __name__ == "__main__":
    main()
