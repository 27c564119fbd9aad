"""How often a lesion finds its organ: our rule beside the overlap of boxes and plain containment, and what linking costs.

python benchmarks/host_organs.py                                   # phantoms: punched out of masks, and behind the heart
python benchmarks/host_organs.py --ct DIR --films DIR              # also real organs (folders as the shared data has them)
python benchmarks/host_organs.py --speed                           # milliseconds per image of 512 x 512

A synthetic lesion is a disc cut out of one organ's mask, so that the masks lack it as a segmenter's would; the right answer is
the organ it was cut from. Behind the heart it is cut from the heart, and the right answer is the lung that reaches there.
--ct: ct_seg.nii.gz with TotalSegmentator's labels (needs nibabel). --films: images/, lung_masks/ of frontal chest radiographs;
they have lungs alone, so there the numbers say how often an answer is given at all.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from medclm.corpus.anatomy import link
from medclm.corpus.class_maps import TOTALSEGMENTATOR
from medclm.corpus.contract import SourceAnnotation, SourceImage
from medclm.corpus.organs import read_name
from medclm.corpus.phantoms import draw_phantom
from medclm.corpus.regions import Region
from medclm.corpus.sources.label_maps import split_labels
from medclm.types import Box

METHODS = ("ours", "box overlap", "containment")
LEAST_ORGAN_PX = 60
FRONTAL = {"modality": "DX", "plane": "frontal", "patient_directions": "L\\F"}


class Case(NamedTuple):
    """One lesion with the organs that a segmenter would give, and the organ it belongs to."""

    kind: str
    image: SourceImage
    truth: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400, help="phantoms to draw (default %(default)s)")
    parser.add_argument("--ct", type=Path, metavar="DIR", help="folder with ct_seg.nii.gz")
    parser.add_argument("--films", type=Path, metavar="DIR", help="folder with lung_masks/")
    parser.add_argument("--speed", action="store_true", help="time linking instead")
    options = parser.parse_args()
    if options.speed:
        print_speed()
        return
    print_accuracy(accuracy(phantom_cases(options.count)))
    if options.ct:
        print_accuracy(accuracy(ct_cases(options.ct)))
    if options.films:
        print_accuracy(accuracy(film_cases(options.films)))


def accuracy(cases: Iterator[Case]) -> dict[str, Counter[str]]:
    """Kind of case -> cases, and right answers by method."""
    found: dict[str, Counter[str]] = {}
    for case in cases:
        counts = found.setdefault(case.kind, Counter())
        counts["cases"] += 1
        for method in METHODS:
            counts[method] += answer(method, case.image) == case.truth
    return found


def answer(method: str, image: SourceImage) -> str | None:
    """The organ of the image's one lesion by a method, without its side."""
    annotation = image.annotations[0]
    if method == "ours":
        linked = link(image, seed=0).annotations
        return linked[0].organ if linked else None
    if method == "box overlap":
        return read_name(max(image.organs, key=lambda name: box_overlap(annotation.box_px, image.organs[name])))[0]
    region = annotation.mask if annotation.mask is not None else _filled(annotation.box_px, image.pixels.shape)
    shares = {name: int(np.count_nonzero(region & mask)) for name, mask in image.organs.items()}
    best = max(shares, key=lambda name: shares[name])
    return read_name(best)[0] if shares[best] else None


def box_overlap(box_px: Box, mask: np.ndarray) -> float:
    """Intersection over union with the mask's own box."""
    top, bottom, left, right = Region(mask).window
    width, height = min(box_px.x1, right) - max(box_px.x0, left), min(box_px.y1, bottom) - max(box_px.y0, top)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (box_px.area + (right - left) * (bottom - top) - shared)


def phantom_cases(count: int) -> Iterator[Case]:
    """Lesions punched out of every organ of a phantom, and out of its heart where a lung reaches behind it."""
    rng = np.random.default_rng(0)
    for index in range(count):
        phantom = draw_phantom(seed=1, index=index, size=128, small_lesions=False)
        look = phantom.look
        shown = {"modality": look.modality, "plane": look.plane, "patient_directions": phantom.directions}
        for name in phantom.organs:
            yield from punched("phantom: punched out", rng, phantom.organs, name, read_name(name)[0], phantom.pixels, **shown)
        lungs = [mask for name, mask in phantom.organs.items() if read_name(name)[0] == "lung"]
        if lungs and "heart" in phantom.organs:
            hidden = hull(np.logical_or.reduce(lungs)) & phantom.organs["heart"]
            yield from behind("phantom: behind the heart", rng, phantom.organs, hidden, phantom.pixels, **shown)


def ct_cases(folder: Path) -> Iterator[Case]:
    """Lesions punched out of every organ of CT slices in three planes."""
    import nibabel

    volume = nibabel.as_closest_canonical(nibabel.load(folder / "ct_seg.nii.gz"))
    values = np.asarray(volume.dataobj)
    rng = np.random.default_rng(0)
    for plane, axis, directions in (("axial", 2, "R\\A"), ("coronal", 1, "R\\H"), ("sagittal", 0, "A\\H")):
        shown = {"modality": "CT", "plane": plane, "patient_directions": directions}
        for at in range(4, values.shape[axis] - 4, 4):
            labels = np.take(values, at, axis=axis).T
            organs, _ = split_labels(labels, TOTALSEGMENTATOR)
            pixels = np.full(labels.shape, 90, np.uint8)
            for name in organs:
                yield from punched(f"CT {plane}: punched out", rng, organs, name, read_name(name)[0], pixels, **shown)


def film_cases(folder: Path, *, every: int = 1) -> Iterator[Case]:
    """Lesions punched out of real lung masks, and between the lungs where the masks leave the heart out."""
    rng = np.random.default_rng(0)
    for path in sorted((folder / "lung_masks").glob("*.png"))[::every]:
        picture = Image.open(path).convert("L")
        scale = 256 / max(picture.size)
        size = round(picture.width * scale), round(picture.height * scale)
        lungs = np.asarray(picture.resize(size, Image.Resampling.NEAREST)) > 0
        pixels = np.full(lungs.shape, 90, np.uint8)
        yield from punched("films: punched out", rng, {"lungs": lungs}, "lungs", "lung", pixels, "nodule", **FRONTAL)
        rows = np.arange(len(lungs)) > np.flatnonzero(lungs.any(axis=1)).mean()  # the heart lies in the lower half
        yield from behind(
            "films: behind the heart", rng, {"lungs": lungs}, hull(lungs) & ~lungs & rows[:, None], pixels, **FRONTAL
        )


def punched(
    kind: str,
    rng: np.random.Generator,
    organs: Mapping[str, np.ndarray],
    name: str,
    truth: str,
    pixels: np.ndarray,
    lesion_class: str = "blob",
    **shown: str | None,
) -> Iterator[Case]:
    """A disc of at most a third of the organ around one of its pixels, cut out of its mask."""
    organ = organs[name]
    if np.count_nonzero(organ) < LEAST_ORGAN_PX:
        return
    spot = disc(rng, organ, most=0.33 * float(np.count_nonzero(organ)))
    given = {**organs, name: organ & ~spot}
    if not given[name].any():
        return
    yield Case(kind, make(spot, given, pixels, lesion_class, with_mask=bool(rng.random() < 0.5), **shown), truth)


def behind(
    kind: str,
    rng: np.random.Generator,
    organs: Mapping[str, np.ndarray],
    hidden: np.ndarray,
    pixels: np.ndarray,
    **shown: str | None,
) -> Iterator[Case]:
    """A nodule of the lung where its mask ends at another organ's shadow."""
    if np.count_nonzero(hidden) < LEAST_ORGAN_PX:
        return
    spot = disc(rng, hidden, most=0.33 * float(np.count_nonzero(hidden)))
    yield Case(kind, make(spot, organs, pixels, "nodule", with_mask=bool(rng.random() < 0.5), **shown), "lung")


def disc(rng: np.random.Generator, within: np.ndarray, *, most: float) -> np.ndarray:
    """(H, W) bool: the pixels of a mask in a disc of random radius around one of them, about `most` of them at most."""
    ys, xs = np.nonzero(within)
    at = int(rng.integers(len(ys)))
    radius = min(rng.uniform(2.0, 0.08 * min(within.shape)), float(np.sqrt(most / np.pi)))
    rows, columns = np.ogrid[: within.shape[0], : within.shape[1]]
    return within & ((rows - ys[at]) ** 2 + (columns - xs[at]) ** 2 <= radius**2)


def hull(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: what lies between pixels of the mask along rows."""
    before = np.logical_or.accumulate(mask, axis=1)
    return before & np.logical_or.accumulate(mask[:, ::-1], axis=1)[:, ::-1]


def make(
    spot: np.ndarray,
    organs: Mapping[str, np.ndarray],
    pixels: np.ndarray,
    lesion_class: str,
    *,
    with_mask: bool,
    modality: str | None,
    plane: str | None,
    patient_directions: str | None,
) -> SourceImage:
    """An image with one lesion, stated by its mask or by its box alone."""
    top, bottom, left, right = Region(spot).window
    box_px = Box(float(left), float(top), float(right), float(bottom))
    annotation = SourceAnnotation("annotations[0]", lesion_class, lesion_class, box_px, spot if with_mask else None)
    return SourceImage(
        index="images[0]",
        key="a",
        pixels=pixels,
        source="benchmark",
        licence="none",
        shareable=True,
        annotations=(annotation,),
        modality=modality,
        plane=plane,
        patient_directions=patient_directions,
        organs=organs,
    )


def _filled(box_px: Box, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape[:2], bool)
    mask[int(box_px.y0) : int(box_px.y1), int(box_px.x0) : int(box_px.x1)] = True
    return mask


def print_accuracy(found: Mapping[str, Counter[str]]) -> None:
    for kind, counts in found.items():
        shares = ", ".join(f"{method} {counts[method] / counts['cases']:.3f}" for method in METHODS)
        print(f"{kind} ({counts['cases']} lesions): {shares}")


def print_speed() -> None:
    """Processor milliseconds of `link`, least of 30 runs, for images of 512 x 512 with drawn organs."""
    rows, columns = np.mgrid[:512, :512]
    rng = np.random.default_rng(0)

    def ellipse(x: float, y: float, a: float, b: float) -> np.ndarray:
        return np.asarray(((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 < 1)

    names = list(TOTALSEGMENTATOR.values())
    for organ_count, lesion_count, scope in (
        (5, 1, ()),
        (5, 3, ()),
        (5, 3, ("blob",)),
        (30, 3, ()),
        (30, 3, ("blob",)),
        (30, 8, ()),
    ):
        grid = 3 if organ_count == 5 else 6
        step = 512 / grid
        organs = {
            name: ellipse(step * (k % grid + 0.5), step * (k // grid + 0.5), 0.48 * step, 0.42 * step)
            & ~ellipse(step * (k % grid + 0.9), step * (k // grid + 0.5), 0.2 * step, 0.2 * step)
            for k, name in enumerate(names[:organ_count])
        }
        spots = [ellipse(*rng.uniform(60, 450, 2), *rng.uniform(6, 25, 2)) for _ in range(lesion_count)]
        made = [
            make(
                spot,
                organs,
                np.full((512, 512), 90, np.uint8),
                "blob",
                with_mask=True,
                **(FRONTAL | {"plane": "coronal", "modality": "CT"}),
            )
            for spot in spots
        ]
        image = SourceImage(
            **{**vars(made[0]), "annotations": tuple(one.annotations[0] for one in made), "label_scope": scope}
            | {"intensity": rng.normal(size=(512, 512)).astype(np.float32), "spacing_mm": (1.0, 1.0)}
        )
        times = []
        for _ in range(30):
            start = time.process_time()
            link(image, seed=0)
            times.append(time.process_time() - start)
        print(f"{organ_count} organs, {lesion_count} lesions{', with a control' if scope else ''}: {min(times) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
