"""The corpora of the evidence runs, made on the spot: phantoms of a given seed, clean or spoiled in one way.

A name is PHANTOMS-COUNT or PHANTOMS-COUNT-VARIANT. The clean corpus of 8,000 judges all variants of its PHANTOMS: a rewritten or noisy
one has the same patients in the same splits; one with fewer pictures has fewer patients and may split them otherwise, so each run
checks that no patient it learns from is judged (runs.py). What is written here changes with `CODE` alone.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.curriculum.rewriting import REWRITES, rewrite
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.contract import Reject, SourceAnnotation, SourceImage
from medclm.corpus.ids import phantom_ids
from medclm.corpus.phantom_anatomy import CLASSES
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.schema import MANIFEST
from medclm.draws import generator, uniforms

ROOT = Path(__file__).resolve().parents[2]
CODE = 1
"""Raised when a change that no recipe shows (a policy, the phantoms, the corpora's constants) makes finished runs stale."""
KINDS = ("what", "which_organ", "where")
PHANTOM_SEEDS = {"tune": 101, "report": 202, "confirm": 303}
"""Tuning never sees the phantoms that are reported; `confirm` is for what was changed after a look at `report`."""
NOISE = 0.3
"""Share of annotations with a wrong class, and of annotations with a moved box."""
CONTRASTS = (20, 40)
"""Percent that `contrast20` and `contrast40` leave of a lesion's difference from its surroundings."""
TAIL = 0.7
"""Images of the domain of rank r are kept with chance (r + 1)^-TAIL."""


def corpus_folder(name: str, work: Path) -> Path:
    """The corpus `name`, built under `work` when it is not there yet.

    Raises:
        ValueError: no such corpus, or MEDCLM_DATA is not set for the real one.
    """
    out = work / f"corpora-{CODE}" / name
    if (out / MANIFEST).is_file():
        return out
    phantoms, count, *variant = name.split("-")
    if phantoms == "brats":
        _build_brats(int(count), out)
        return out
    if phantoms not in PHANTOM_SEEDS:
        raise ValueError(f"corpus {name}: unknown phantoms; known: {', '.join(PHANTOM_SEEDS)}, brats")
    seed = PHANTOM_SEEDS[phantoms]
    source: PhantomSource | SpoiledSource = PhantomSource(count=int(count), seed=seed)
    if variant and variant[0] in REWRITES:
        rewrite(corpus_folder(f"{phantoms}-{count}", work), out, variant[0])
        return out
    if variant:
        if variant[0] not in SPOILED:
            raise ValueError(f"corpus {name}: unknown variant; known: {', '.join((*SPOILED, *REWRITES))}")
        source = SPOILED[variant[0]](source, seed)
    options = BuildOptions(ids=phantom_ids(seed), workers=len(os.sched_getaffinity(0)), near_duplicates=False)
    build(source, TemplateWriter(kinds=KINDS), out, options)
    return out


@dataclass
class SpoiledSource:
    """Phantoms made worse in one way; subclasses say which."""

    clean: PhantomSource
    seed: int
    name: str = field(default="phantoms", init=False)
    rejects: tuple[Reject, ...] = field(default=(), init=False)

    def __len__(self) -> int:
        return len(self.clean)


class NoisySource(SpoiledSource):
    """The labels err: the class of 30 % of the lesions, the box of 30 % of them by half its sides."""

    def read(self, index: int) -> SourceImage:
        """The picture at `index` with its spoiled labels."""
        image = self.clean.read(index)
        height, width = image.pixels.shape[:2]
        spoiled = [self._spoiled(one, index, k, (width, height)) for k, one in enumerate(image.annotations)]
        found = {one.lesion_class for one in spoiled}
        labels = {
            **{name: "present" if name in found else "absent" for name in CLASSES},
            "no finding": "absent" if found else "present",
        }
        return dataclasses.replace(image, annotations=tuple(spoiled), image_labels=labels, report={})

    def _spoiled(self, one: SourceAnnotation, index: int, k: int, size: tuple[int, int]) -> SourceAnnotation:
        draw = generator(self.seed, "evidence.noise", index, k)
        if draw.random() < NOISE:
            other = str(draw.choice([name for name in CLASSES if name != one.lesion_class]))
            one = dataclasses.replace(one, lesion_class=other, class_source=other)
        if draw.random() < NOISE:
            box, angle = one.box_px, draw.uniform(0, 2 * np.pi)
            x = np.clip(0.5 * box.width * np.cos(angle), -box.x0, size[0] - box.x1)
            y = np.clip(0.5 * box.height * np.sin(angle), -box.y0, size[1] - box.y1)
            moved = type(box)(box.x0 + x, box.y0 + y, box.x1 + x, box.y1 + y)
            one = dataclasses.replace(one, box_px=moved, mask=None)
        return one


@dataclass
class TailSource(SpoiledSource):
    """Few domains are common: a picture stays with the chance of its first lesion's class and modality."""

    kept: list[int] = field(init=False)

    def __post_init__(self) -> None:
        draw = uniforms(self.seed, "evidence.tail", np.arange(len(self.clean)))
        self.kept = [index for index in range(len(self.clean)) if draw[index] < self._chance(self.clean.read(index))]

    def _chance(self, image: SourceImage) -> float:
        if not image.annotations:
            return 0.0
        named = f"{image.annotations[0].lesion_class} / {image.modality}"
        rank = int(generator(self.seed, f"evidence.tail of {named}").integers(25))
        return float((rank + 1) ** -TAIL)

    def __len__(self) -> int:
        return len(self.kept)

    def read(self, index: int) -> SourceImage:
        """The `index`-th picture that stayed."""
        return self.clean.read(self.kept[index])


@dataclass
class FaintSource(SpoiledSource):
    """Lesions hardly stand out. Plain phantoms' lesions shout, so that a drawn box tells little."""

    percent: int
    """Of their contrast, what is left."""

    def read(self, index: int) -> SourceImage:
        """The picture at `index`, each lesion drawn towards the mean of a ring around it."""
        image = self.clean.read(index)
        pixels = image.pixels.astype(np.float32)
        lesions = np.any([one.mask for one in image.annotations], axis=0) if image.annotations else None
        for one in image.annotations:
            assert one.mask is not None
            assert lesions is not None
            ring = ndimage.binary_dilation(one.mask, iterations=3) & ~lesions
            level = pixels[ring].mean(axis=0) if ring.any() else pixels.mean(axis=(0, 1))
            pixels[one.mask] = level + self.percent / 100 * (pixels[one.mask] - level)
        return dataclasses.replace(image, pixels=np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


SPOILED: dict[str, Callable[[PhantomSource, int], SpoiledSource]] = {
    "noise": NoisySource,
    "tail": TailSource,
    **{f"contrast{percent}": functools.partial(FaintSource, percent=percent) for percent in CONTRASTS},
}


def _build_brats(fold: int, out: Path) -> None:
    """The real MR slices with patient `fold` of 4 as test split; needs MEDCLM_DATA, the folder that holds brats_mri_slices."""
    if "MEDCLM_DATA" not in os.environ:
        raise ValueError("corpus brats: set MEDCLM_DATA to the folder that holds brats_mri_slices, or choose other --study")
    data = Path(os.environ["MEDCLM_DATA"]) / "brats_mri_slices"
    command = [sys.executable, str(ROOT / "launch" / "corpus.py"), "build", "--source", "coco"]
    command += ["--annotations", str(data / "boxes_coco.json"), "--image-root", str(data / "images"), "--name", "brats"]
    command += ["--modality", "MR", "--plane", "axial", "--patient-field", "patient", "--technique-field", "sequence"]
    command += [
        "--organ",
        "brain={brain_mask_file}",
        "--visible-on",
        "whole tumor=flair",
        "--visible-on",
        "enhancing tumor=t1c",
    ]
    command += ["--licence", "CC BY-NC-SA 3.0", "--split-fold", f"{fold}/4", "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, env={"MEDCLM_ID_KEY": "0" * 16, **os.environ})
