"""How fast phantoms are drawn, how they are spread, and contact sheets to look at.

python benchmarks/phantoms.py                     # images/s on one core, shares, floor of the median box
python benchmarks/phantoms.py --sheet sheets/     # also PNG contact sheets, at full size and at 64 pixels
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from medclm.corpus.phantom_anatomy import CLASSES
from medclm.corpus.phantoms import Phantom, draw_phantom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="images to draw")
    parser.add_argument("--size", type=int, default=128, help="image side in pixels")
    parser.add_argument("--small-lesions", action="store_true")
    parser.add_argument("--sheet", type=Path, help="folder for contact sheets")
    options = parser.parse_args()
    start = time.process_time()
    phantoms = [
        draw_phantom(seed=0, index=index, size=options.size, small_lesions=options.small_lesions)
        for index in range(options.count)
    ]
    seconds = time.process_time() - start
    print(
        f"{options.count / seconds:.0f} images/s of {options.size} px on one core ({seconds:.1f} s of processor time for {options.count})"
    )
    print_shares(phantoms)
    print_floor(phantoms, size=options.size)
    if options.sheet:
        options.sheet.mkdir(parents=True, exist_ok=True)
        for shown, zoom in ((options.size, 1), (64, 2)):
            path = options.sheet / f"phantoms_{shown}px.png"
            contact_sheet(phantoms[:60], shown=shown, zoom=zoom).save(path)
            print(f"wrote {path}")


def print_shares(phantoms: list[Phantom]) -> None:
    """Class by host organ, lesions an image, pictures by modality."""
    pairs = Counter((lesion.lesion_class, lesion.organ) for phantom in phantoms for lesion in phantom.lesions)
    organs = sorted({organ for _, organ in pairs})
    print(f"{'lesions':<14}" + "".join(f"{organ:>9}" for organ in organs))
    for name in CLASSES:
        print(f"{name:<14}" + "".join(f"{pairs[name, organ]:>9}" for organ in organs))
    for title, values in (
        ("lesions an image", [len(phantom.lesions) for phantom in phantoms]),
        ("modality", [phantom.look.modality for phantom in phantoms]),
        ("mirrored", [phantom.mirrored for phantom in phantoms]),
    ):
        counts = Counter(values)
        print(f"{title}: " + ", ".join(f"{value} {counts[value] / len(phantoms):.3f}" for value in sorted(counts)))


def print_floor(phantoms: list[Phantom], *, size: int) -> None:
    """Mean IoU of the median box with every box."""
    boxes = np.array([lesion.box_px for phantom in phantoms for lesion in phantom.lesions])
    sides = (boxes[:, 2:] - boxes[:, :2]) / size
    print(f"box sides over the image side: {sides.min():.3f} to {sides.max():.3f}, median {np.median(sides):.3f}")
    print(f"median box floor: mean IoU {median_box_iou(boxes):.4f} over {len(boxes)} boxes")


def median_box_iou(boxes: np.ndarray) -> float:
    """boxes (K, 4) x0, y0, x1, y1 -> mean over K of the IoU with their coordinate-wise median."""
    guess = np.median(boxes, axis=0)
    low, high = np.maximum(boxes[:, :2], guess[:2]), np.minimum(boxes[:, 2:], guess[2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return float(np.mean(shared / (areas + np.prod(guess[2:] - guess[:2]) - shared)))


def contact_sheet(phantoms: list[Phantom], *, shown: int, zoom: int, columns: int = 10) -> Image.Image:
    """Pictures scaled to `shown` pixels and enlarged `zoom` times, with what is on them underneath."""
    side, caption, gap = shown * zoom, 34, 3
    rows = -(-len(phantoms) // columns)
    sheet = Image.new("RGB", (columns * (side + gap), rows * (side + caption + gap)), (60, 60, 60))
    pen = ImageDraw.Draw(sheet)
    for number, phantom in enumerate(phantoms):
        row, column = divmod(number, columns)
        x, y = column * (side + gap), row * (side + caption + gap)
        picture = Image.fromarray(phantom.pixels).resize((shown, shown), Image.Resampling.BICUBIC)
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST).convert("RGB"), (x, y))
        lines = [f"{phantom.look.modality} {phantom.directions or ''}"] + [
            f"{one.lesion_class}/{one.organ_mask}" for one in phantom.lesions
        ]
        pen.text((x + 2, y + side), "\n".join(lines), fill=(255, 255, 0), font_size=8, spacing=0)
    return sheet


if __name__ == "__main__":
    main()
