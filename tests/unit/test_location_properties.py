"""Random organs and lesions: every orientation gives the same words, and a brute-force reader of pixels agrees.

The reader knows nothing of arrays: organs are sets of pixels, every pixel has patient coordinates in millimetres towards left,
posterior and head, and each rule is written again from its description, one pixel at a time.
"""

from __future__ import annotations

import dataclasses
import itertools
from math import hypot
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.corpus.anatomy import link
from medclm.corpus.class_maps import TOTALSEGMENTATOR
from medclm.corpus.contract import SourceImage
from medclm.corpus.sources.label_maps import split_labels
from tests.drawn_anatomy import image, lesion, turned

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SIDE = 20
Pixels = frozenset[tuple[int, int]]
TOWARDS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}
PLANES = {"axial": ("L\\P", "CT"), "coronal": ("L\\F", "MR"), "sagittal": ("P\\F", "CT"), "frontal": ("L\\F", "DX")}
NAMES = ("liver", "kidney left", "kidney right", "lung left", "lung upper lobe left", "brain", "heart", "spleen", "lungs")
KNOWN = {  # organ and side of each name, its wholes, whether it is one of a pair or lies on the midline
    "liver": ("liver", None, ["abdomen"], False, False),
    "kidney left": ("kidney", "left", ["abdomen"], True, False),
    "kidney right": ("kidney", "right", ["abdomen"], True, False),
    "lung left": ("lung", "left", ["thorax"], True, False),
    "lung upper lobe left": ("lung upper lobe", "left", ["lung", "thorax"], True, False),
    "brain": ("brain", None, [], False, True),
    "heart": ("heart", None, ["mediastinum", "thorax"], False, False),
    "spleen": ("spleen", None, ["abdomen"], False, False),
    "lungs": ("lung", None, ["thorax"], True, False),
}


class Disagrees(Exception):
    """A stated side and the directions name opposite ones."""


class Organ(NamedTuple):
    name: str
    side: str | None
    wholes: list[str]
    of_a_pair: bool
    on_the_midline: bool
    pixels: Pixels
    closed: Pixels


def around(pixel: tuple[int, int], radius: int) -> list[tuple[int, int]]:
    x, y = pixel
    steps = range(-radius, radius + 1)
    return [(x + i, y + j) for i in steps for j in steps if i * i + j * j <= radius * radius]


def close(pixels: Pixels, radius: int) -> Pixels:
    """A pixel is in where every pixel near it has one of the organ near; then what cannot walk to the rim is filled."""
    grown = {each for pixel in pixels for each in around(pixel, radius)}
    closed = {pixel for pixel in grown if all(each in grown for each in around(pixel, radius))} | pixels
    rim, free = range(-1, SIDE + 1), {(-1, -1)}
    ahead = [(-1, -1)]
    while ahead:
        x, y = ahead.pop()
        for step in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if step[0] in rim and step[1] in rim and step not in free and step not in closed:
                free.add(step)
                ahead.append(step)
    return frozenset((x, y) for x in range(SIDE) for y in range(SIDE) if (x, y) not in free)


def share(region: Pixels, organ: Pixels) -> float:
    return sum(pixel in organ for pixel in region) / len(region)


def frame(region: Pixels) -> tuple[int, int, int, int]:
    xs, ys = [x for x, _ in region], [y for _, y in region]
    return min(xs), min(ys), max(xs), max(ys)


def distance(region: Pixels, organ: Pixels) -> float:
    """From the frame of the region to the nearest pixel of the organ."""
    x0, y0, x1, y1 = frame(region)
    return min(hypot(max(x0 - x, 0, x - x1), max(y0 - y, 0, y - y1)) for x, y in organ)


class Reader:
    """What may be said of one lesion."""

    def __init__(self, made: SourceImage) -> None:
        self.plane = made.plane
        self.projection = made.plane == "frontal"
        right, down = (TOWARDS[letter] for letter in made.patient_directions.split("\\"))
        self.at = {
            (x, y): tuple((x + 0.5) * a + (y + 0.5) * b for a, b in zip(right, down, strict=True))
            for x in range(SIDE)
            for y in range(SIDE)
        }
        self.organs = []
        for name, mask in made.organs.items():
            pixels = frozenset((int(x), int(y)) for y, x in np.argwhere(mask))
            organ, side, wholes, pair, middle = KNOWN[name]
            self.organs.append(Organ(organ, side, wholes, pair, middle, pixels, close(pixels, 1)))

    def coordinates(self, region: Pixels, axis: int) -> list[float]:
        return [self.at[pixel][axis] for pixel in region]

    def read(self, region: Pixels) -> dict[str, Any]:
        organ, relation, score = self.host(region)
        words: dict[str, Any] = {"relation": relation}
        if organ is not None:
            words |= {"organ": organ.name}
            words |= self.parts(region, organ)
        side = self.side(region, organ, relation, score)
        return words | ({"side": side} if side is not None else {})

    def host(self, region: Pixels) -> tuple[Organ | None, str, float]:
        scored = [(organ, share(region, organ.closed)) for organ in self.organs]
        held = [(organ, score) for organ, score in scored if score >= 0.5]
        inside = "projects_over" if self.projection else "inside"
        if held:
            best = max(held, key=lambda one: (one[1], len(one[0].wholes)))
            parts = [one for one in held if best[0].name in one[0].wholes]
            chosen = max(parts, key=lambda one: (len(one[0].wholes), one[1]), default=best)
            return chosen[0], inside, chosen[1]
        touched = [self.touched(region, organ) for organ in self.organs]
        order = sorted(range(len(self.organs)), key=lambda i: touched[i], reverse=True)
        bordering = [i for i in order if max(touched[i]) >= 0.25]
        if bordering:
            organ = self.organs[bordering[0]]
            return organ, "projects_over" if self.projection else "borders", share(region, organ.closed)
        behind = self.behind(region, scored)
        if behind is not None:
            return behind, "projects_over", share(region, behind.closed)
        near = min(
            order, key=lambda i: (distance(region, self.organs[i].pixels), -touched[i][0], -touched[i][1], i), default=None
        )
        if near is not None and distance(region, self.organs[near].pixels) <= 0.05 * SIDE:
            return self.organs[near], "adjacent", share(region, self.organs[near].closed)
        return None, "unknown", 0.0

    def touched(self, region: Pixels, organ: Organ) -> tuple[float, float]:
        """Shares of the pixels one step, and up to two steps, from the lesion that the organ holds."""
        steps = {}
        for x, y in self.at:
            if (x, y) not in region:
                steps[x, y] = min(abs(x - i) + abs(y - j) for i, j in region)
        rings = [[pixel for pixel, far in steps.items() if far <= most] for most in (1, 2)]
        first, second = (share(frozenset(ring), organ.pixels) if ring else 0.0 for ring in rings)
        return first, second

    def behind(self, region: Pixels, scored: list[tuple[Organ, float]]) -> Organ | None:
        """Lungs reach behind heart, liver and spleen on a film; nothing covers half of the lesion where this is asked."""
        covered = any(score >= 0.5 and organ.name in ("heart", "liver", "spleen") for organ, score in scored)
        lungs = [organ for organ in self.organs if organ.name.startswith("lung")]
        if not self.projection or not covered or not lungs:
            return None
        return min(lungs, key=lambda organ: distance(region, organ.closed))

    def parts(self, region: Pixels, organ: Organ) -> dict[str, str]:
        axes = {"axial": ["depth"], "coronal": ["vertical"], "frontal": ["vertical"], "sagittal": ["depth", "vertical"]}
        names = {"depth": ("anterior", "central", "posterior"), "vertical": ("inferior", "middle", "superior")}
        names["vertical"] = ("lower", "mid", "upper") if self.plane == "frontal" else names["vertical"]
        words = {}
        for word in axes[self.plane or ""]:
            axis = 1 if word == "depth" else 2
            low = min(self.coordinates(organ.pixels, axis)) - 0.5
            third = (max(self.coordinates(organ.pixels, axis)) + 0.5 - low) / 3
            along = self.coordinates(region, axis)
            middle = sum(along) / len(along)
            words[word] = names[word][0 if middle < low + third - 1e-6 else 2 if middle > low + 2 * third + 1e-6 else 1]
        return words

    def side(self, region: Pixels, organ: Organ | None, relation: str, score: float) -> str | None:
        if self.plane == "sagittal":
            return None
        stated = self.stated(region, organ, relation, score)
        middle = self.middle(organ)
        if middle is None:
            return stated
        line, width, measured = middle
        band = (0.05 if measured else 0.1) * width + 1e-6
        along = [at - line for at in self.coordinates(region, 0)]
        left, right = (sum(sign * at > band for at in along) / len(along) for sign in (1, -1))
        offset = sum(along) / len(along)
        seen = (
            "bilateral" if min(left, right) >= 0.25 else "midline" if abs(offset) <= band else "left" if offset > 0 else "right"
        )
        beyond = min(along) - 0.5 > 0.1 * width or max(along) + 0.5 < -0.1 * width  # of a middle that is but a guess
        if {stated, seen} == {"left", "right"} and (measured or beyond):
            raise Disagrees
        return stated or seen

    def stated(self, region: Pixels, organ: Organ | None, relation: str, score: float) -> str | None:
        """The side in the host's name; none where a film shows the lesion beside every pixel of it."""
        if organ is None or organ.side is None or (relation == "projects_over" and score == 0):
            return None
        held = [share(region, other.closed) for other in self.organs if other.name == organ.name and other.side != organ.side]
        return "bilateral" if max(held, default=0.0) >= 0.25 and relation != "adjacent" else organ.side

    def middle(self, organ: Organ | None) -> tuple[float, float, bool] | None:
        if organ is not None and organ.on_the_midline:
            return self.extent(organ.pixels)
        pairs = []
        for name in dict.fromkeys(each.name for each in self.organs):
            left, right = (
                [each.pixels for each in self.organs if (each.name, each.side) == (name, side)] for side in ("left", "right")
            )
            if left and right:
                pairs.append((left[0], right[0]))
        if pairs:
            left_one, right_one = max(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
            centres = [sum(self.coordinates(each, 0)) / len(each) for each in (left_one, right_one)]
            return sum(centres) / 2, self.extent(left_one | right_one)[1], True
        whole = [each.pixels for each in self.organs if each.side is None and (each.on_the_midline or each.of_a_pair)]
        if whole:
            return self.extent(max(whole, key=len))
        if self.plane != "frontal":
            return None  # the picture is filled: nothing shows where the body ends
        along = [at[0] for at in self.at.values()]
        return (min(along) + max(along)) / 2, SIDE, False

    def extent(self, pixels: Pixels) -> tuple[float, float, bool]:
        along = self.coordinates(pixels, 0)
        return (min(along) + max(along)) / 2, max(along) - min(along) + 1, True


rectangles = st.tuples(*[st.integers(0, SIDE - 1)] * 2, *[st.integers(1, 12)] * 2)


def drawn(boxes: list[tuple[int, int, int, int]], cut: tuple[int, int, int, int] | None = None) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = True
    if cut is not None:
        x, y, width, height = cut
        mask[y : y + min(height, 4), x : x + min(width, 4)] = False
    return mask


shapes = st.builds(drawn, st.lists(rectangles, min_size=1, max_size=3), st.none() | rectangles).filter(lambda mask: mask.any())
lesions = st.builds(
    lambda x, y, a, b: (np.abs(np.mgrid[:SIDE, :SIDE][1] - x) * b + np.abs(np.mgrid[:SIDE, :SIDE][0] - y) * a) < a * b,
    st.integers(0, SIDE - 1),
    st.integers(0, SIDE - 1),
    st.integers(1, 6),
    st.integers(1, 6),
)
anatomies = st.dictionaries(st.sampled_from(NAMES), shapes, max_size=4)


def picture(organs: dict[str, np.ndarray], spot: np.ndarray, plane: str) -> SourceImage:
    directions, modality = PLANES[plane]
    pixels = np.full((SIDE, SIDE), 90, np.uint8)
    made = image(lesion(spot, "blob"), organs=organs, pixels=pixels, plane=plane, patient_directions=directions)
    return dataclasses.replace(made, modality=modality)


def words(made: SourceImage) -> dict[str, Any] | str:
    """What linking says of the one lesion, without places of the image."""
    linked = link(made, seed=0)
    if linked.rejects:
        return linked.rejects[0].reason
    (one,) = linked.annotations
    return {key: value for key, value in one.facts.items() if key in ("relation", "organ", "side", "vertical", "depth")}


@settings(max_examples=400)
@given(
    organs=anatomies,
    spot=lesions,
    plane=st.sampled_from(sorted(PLANES)),
    turn=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_words_equal_those_of_the_brute_force_reader(organs, spot, plane, turn):
    made = turned(picture(organs, spot, plane), *turn)
    region = frozenset((int(x), int(y)) for y, x in np.argwhere(made.annotations[0].mask))
    try:
        expected: dict[str, Any] | str = Reader(made).read(region)
    except Disagrees:
        expected = "side_disagrees"
    assert words(made) == expected


@settings(max_examples=150)
@given(organs=anatomies, spot=lesions, plane=st.sampled_from(sorted(PLANES)))
def test_every_orientation_gives_the_same_facts(organs, spot, plane):
    """Flips and rotations of the arrays with the matching directions: words, overlaps, scores and shares stay."""

    def facts(made: SourceImage) -> Any:
        linked = link(made, seed=0)
        each = [dict(one.facts) | {"score": one.organ_score} for one in linked.annotations]
        return [reject.reason for reject in linked.rejects], [
            {key: value for key, value in one.items() if key not in ("image_position", "location")} for one in each
        ]

    made = picture(organs, spot, plane)
    expected = facts(made)
    for turn in itertools.product((False, True), repeat=3):
        assert facts(turned(made, *turn)) == expected


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_real_organs_give_the_same_facts_in_every_orientation(plane):
    """Slices of a CT with 61 organs, lesions punched into the largest ones."""
    nibabel = pytest.importorskip("nibabel")
    folder = SHARED / "totalseg_ct_mr"
    if not folder.exists():
        pytest.skip(f"needs {folder.name} in shared data")
    volume = nibabel.as_closest_canonical(nibabel.load(folder / "ct_seg.nii.gz"))
    values = np.asarray(volume.dataobj)
    axis, directions = {"axial": (2, "R\\A"), "coronal": (1, "R\\H"), "sagittal": (0, "A\\H")}[plane]
    for part in (0.35, 0.6):
        # canonical voxels run to the right, the front and the head of the patient
        cut = np.take(values, int(part * values.shape[axis]), axis=axis).T
        organs, unknown = split_labels(cut, TOTALSEGMENTATOR)
        assert not unknown
        largest = sorted(organs, key=lambda name: -np.count_nonzero(organs[name]))[:5]
        spots = []
        for name in largest:
            ys, xs = np.nonzero(organs[name])
            middle = len(ys) // 3
            grid = np.mgrid[: cut.shape[0], : cut.shape[1]]
            spots.append(((grid[0] - ys[middle]) ** 2 + (grid[1] - xs[middle]) ** 2 < 12) & organs[name])
        made = image(
            *(lesion(spot, "blob", n) for n, spot in enumerate(spots)),
            organs=organs,
            pixels=np.full(cut.shape, 90, np.uint8),
            plane=plane,
            patient_directions=directions,
        )

        def facts(one: SourceImage) -> list[tuple[str, Any]]:
            linked = link(one, seed=0)
            keys = ("organ", "relation", "side", "vertical", "depth", "organ_margin", "area_share")
            return sorted((each.source.index, str([each.facts.get(key) for key in keys])) for each in linked.annotations)

        expected = facts(made)
        assert len(expected) == 5
        for turn in itertools.product((False, True), repeat=3):
            assert facts(turned(made, *turn)) == expected
