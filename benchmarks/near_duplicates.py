"""How often the near-duplicate rule is wrong, and which altered copies it still finds, on real chest films.

python benchmarks/near_duplicates.py                       # the films beside the project
python benchmarks/near_duplicates.py --films DIR           # images named in DIR/metadata.jsonl; patient = its url

False positives are counted over all pairs of films of different patients, for a 64-bit hash alone, for the 256-bit hash
alone and for the whole rule. Found pairs are printed by number, so that a person can look: a film that two sites publish
is a true duplicate, whatever their patients are called.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from medclm.corpus.fingerprints import (
    SAME_CORRELATION,
    Fingerprints,
    aligned_correlation,
    correlation,
    fingerprint,
    thumbnail,
)
from medclm.corpus.leaks import wilson_upper
from medclm.corpus.near_duplicates import SHORTLIST_BITS
from medclm.corpus.pixels import read_picture

FILMS = Path(__file__).resolve().parents[2] / "shared" / "data" / "covid_cxr_lungs"
SHORT_HASH_LIMITS = (6, 8, 10)
LONG_HASH_LIMITS = (40, 48, 56, 64, 72, 80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, default=FILMS, help="folder with metadata.jsonl")
    films, patients = read_films(parser.parse_args().films)
    start = time.process_time()
    prints = Fingerprints.stack(fingerprint(film) for film in films)
    print(f"{len(films)} films, {(time.process_time() - start) / len(films) * 1e3:.1f} ms of one core for a fingerprint")
    thumbnails = [thumbnail(film) for film in films]
    print_false_positives(films, patients, prints, thumbnails)
    print_recall(films, prints, thumbnails)


def read_films(folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """Pixels, and what names the patient: the page that a film was published on."""
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [read_picture(folder / row["image"]).pixels for row in rows], [row["url"].partition("?")[0] for row in rows]


def print_false_positives(
    films: list[np.ndarray], patients: list[str], prints: Fingerprints, thumbnails: list[np.ndarray]
) -> None:
    first, second = np.triu_indices(len(films), 1)
    owners = np.unique(patients, return_inverse=True)[1]
    different = owners[first] != owners[second]
    first, second = first[different], second[different]
    short = np.stack([short_hash(film) for film in films])
    short_bits = (short[first] != short[second]).sum(axis=1)
    long_bits = np.bitwise_count(prints.bits[first] ^ prints.bits[second]).sum(axis=1, dtype=np.int64)
    aligned = np.array([aligned_correlation(thumbnails[i], thumbnails[j]) for i, j in zip(first, second, strict=True)])
    same = aligned >= SAME_CORRELATION
    print(f"\npairs of different patients called duplicates, of {len(first)} (95 % Wilson upper bound)")
    for title, bits, limits in (("64-bit hash", short_bits, SHORT_HASH_LIMITS), ("256-bit hash", long_bits, LONG_HASH_LIMITS)):
        for limit in limits:
            print(f"  {title:<13} at most {limit:2d} bits  {_rate(bits <= limit)}")
    print(f"  correlation at least {SAME_CORRELATION}, aligned  {_rate(same)}")
    called = same & (long_bits <= SHORTLIST_BITS)
    print(f"  the rule: {SHORTLIST_BITS} bits, then correlation  {_rate(called)}")
    for i, j, bits, found in zip(first[called], second[called], long_bits[called], aligned[called], strict=True):
        print(f"    films {i} and {j}: {bits} bits, correlation {found:.5f}")
    print(f"  highest correlation of a pair not called: {aligned[~called].max():.3f}")


def _rate(called: np.ndarray) -> str:
    return f"{int(called.sum()):5d}  (at most {wilson_upper(int(called.sum()), len(called)):.2e})"


def print_recall(films: list[np.ndarray], prints: Fingerprints, thumbnails: list[np.ndarray]) -> None:
    print(f"\naltered copies found, share of {len(films)}")
    print(f"  {'copy':<28}{'same pixels':>12}{'shortlist':>11}{'plain corr.':>13}{'aligned':>9}{'the rule':>10}")
    for title, alter in ALTERATIONS.items():
        copies = [alter(film) for film in films]
        others = Fingerprints.stack(fingerprint(copy) for copy in copies)
        pairs = [(thumbnails[number], thumbnail(copy)) for number, copy in enumerate(copies)]
        equal = (prints.exact == others.exact).all(axis=1)
        near = np.bitwise_count(prints.bits ^ others.bits).sum(axis=1, dtype=np.int64) <= SHORTLIST_BITS
        plain = np.array([correlation(*pair) for pair in pairs]) >= SAME_CORRELATION
        aligned = np.array([aligned_correlation(*pair) for pair in pairs]) >= SAME_CORRELATION
        shares = [equal.mean(), near.mean(), plain.mean(), aligned.mean(), (equal | (near & aligned)).mean()]
        print(
            f"  {title:<28}" + "".join(f"{share:>{width}.3f}" for share, width in zip(shares, (12, 11, 13, 9, 10), strict=True))
        )


def short_hash(pixels: np.ndarray) -> np.ndarray:
    """(64,) bool: the customary 64-bit perceptual hash, signs of 8 x 8 cosine frequencies of a 32-px picture."""
    n, k = np.arange(32), np.arange(8)
    basis = np.cos(np.pi / 32 * (n[None, :] + 0.5) * k[:, None])
    small = np.asarray(Image.fromarray(pixels).convert("F").resize((32, 32), Image.Resampling.BOX), np.float64)
    low = (basis @ small @ basis.T).ravel()
    return np.asarray(low > np.median(low[1:]))


def _encoded(pixels: np.ndarray, kind: str, quality: int = 75) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, quality=quality)
    return np.asarray(Image.open(buffer))


def _resized(pixels: np.ndarray, scale: float) -> np.ndarray:
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC))


def _linear(pixels: np.ndarray, gain: float, offset: float) -> np.ndarray:
    return np.clip(np.rint(pixels * float(gain) + offset), 0, 255).astype(np.uint8)


def _cropped(pixels: np.ndarray, share: float, corner: float) -> np.ndarray:
    """Without `share` of each side; `corner` of it is taken from the upper left, 0.5 = in equal parts."""
    height, width = pixels.shape[:2]
    top, left = round(height * share * corner), round(width * share * corner)
    return pixels[top : top + round(height * (1 - share)), left : left + round(width * (1 - share))]


def _padded(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, *pixels.shape[2:]), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


ALTERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "PNG": lambda film: _encoded(film, "PNG"),
    "JPEG, quality 60": lambda film: _encoded(film, "JPEG", 60),
    "resized to 0.75": lambda film: _resized(film, 0.75),
    "resized to 0.5": lambda film: _resized(film, 0.5),
    "resized to 224 x 224": lambda film: np.asarray(Image.fromarray(film).resize((224, 224))),
    "brighter by 30": lambda film: _linear(film, 1, 30),
    "contrast 0.7, offset 20": lambda film: _linear(film, 0.7, 20),
    "contrast 1.3, offset -30": lambda film: _linear(film, 1.3, -30),
    "gamma 0.7": lambda film: np.rint(255 * (film / 255) ** 0.7).astype(np.uint8),
    "cropped by 2 %, middle": lambda film: _cropped(film, 0.02, 0.5),
    "cropped by 2 %, corner": lambda film: _cropped(film, 0.02, 1),
    "cropped by 4 %, middle": lambda film: _cropped(film, 0.04, 0.5),
    "cropped by 4 %, corner": lambda film: _cropped(film, 0.04, 1),
    "padded to a square": _padded,
    "mirrored": lambda film: film[:, ::-1],
    "inverted": lambda film: 255 - film,
}

if __name__ == "__main__":
    main()
