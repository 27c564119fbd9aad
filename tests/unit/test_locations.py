"""Location words against a brute-force oracle that first turns the picture into one standard orientation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.corpus.locations import (
    Midline,
    find_midline,
    image_position,
    middle_of,
    part_words,
    place,
    read_directions,
    side_word,
)
from medclm.corpus.regions import OrganMask, Region

OPPOSITE = dict(zip("LRAPHF", "RLPAFH", strict=True))
STANDARD = {"axial": "L\\P", "frontal": "L\\F", "coronal": "L\\F", "sagittal": "P\\F", "lateral": "P\\F"}


def to_standard(array: np.ndarray, directions: str, plane: str) -> np.ndarray:
    """The array with +x and +y as in STANDARD: transposed if the axes are swapped, then flipped."""
    x, y = directions.split("\\")
    want_x, want_y = STANDARD[plane].split("\\")
    if x not in (want_x, OPPOSITE[want_x]):
        array, x, y = array.T, y, x
    return array[:: 1 if y == want_y else -1, :: 1 if x == want_x else -1]


def all_directions(plane: str) -> list[str]:
    x, y = STANDARD[plane].split("\\")
    return [f"{a}\\{b}" for p, q in ((x, y), (y, x)) for a, b in itertools.product((p, OPPOSITE[p]), (q, OPPOSITE[q]))]


def oracle_side(region: np.ndarray, middle: float, width: float) -> str:
    """Pixel by pixel, +x to the patient's left."""
    centres = [column + 0.5 - middle for _, column in zip(*np.nonzero(region), strict=True)]
    left = sum(centre > 0.05 * width for centre in centres) / len(centres)
    right = sum(centre < -0.05 * width for centre in centres) / len(centres)
    mean = sum(centres) / len(centres)
    if left >= 0.25 and right >= 0.25:
        return "bilateral"
    if abs(mean) <= 0.05 * width:
        return "midline"
    return "left" if mean > 0 else "right"


def oracle_third(region: np.ndarray, organ: np.ndarray, names: tuple[str, str, str]) -> str:
    """By rows, from top to bottom."""
    rows = [row for row, _ in zip(*np.nonzero(region), strict=True)]
    inside = [row for row, _ in zip(*np.nonzero(organ), strict=True)]
    low, high = min(inside), max(inside) + 1
    at = sum(rows) / len(rows) + 0.5
    third = (high - low) / 3
    return names[0] if at < low + third - 1e-6 else names[2] if at > low + 2 * third + 1e-6 else names[1]


boxes = st.tuples(st.integers(0, 16), st.integers(0, 16), st.integers(1, 7), st.integers(1, 7))


def filled(box: tuple[int, int, int, int], size: int = 24) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    x, y, width, height = box
    mask[y : y + height, x : x + width] = True
    return mask


@settings(max_examples=150)
@given(
    box=boxes,
    organ=st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(9, 17), st.integers(9, 17)),
    plane=st.sampled_from(sorted(STANDARD)),
    choice=st.integers(0, 7),
)
def test_words_equal_the_oracle_in_every_orientation(box, organ, plane, choice):
    declared = all_directions(plane)[choice]
    region, host = filled(box), filled(organ)
    directions = read_directions(plane, declared, "MR")
    words = part_words(Region(region), Region(host), directions, plane)
    turned, turned_host = to_standard(region, declared, plane), to_standard(host, declared, plane)
    if plane == "axial":
        expected = {"depth": oracle_third(turned, turned_host, ("anterior", "central", "posterior"))}
    else:
        heights = ("upper", "mid", "lower") if plane == "frontal" else ("superior", "middle", "inferior")
        expected = {"vertical": oracle_third(turned, turned_host, heights)}
        if plane in ("sagittal", "lateral"):
            expected["depth"] = oracle_third(turned.T, turned_host.T, ("anterior", "central", "posterior"))
    assert words == expected
    assert (directions.side is None) == (plane in ("sagittal", "lateral"))
    if directions.side is not None:
        columns = np.flatnonzero(turned_host.any(axis=0))
        middle, width = (columns[0] + columns[-1] + 1) / 2, columns[-1] + 1 - columns[0]
        line = middle_of(directions.side, Region(host))
        assert side_word(Region(region), directions.side, line) == oracle_side(turned, middle, width)


@given(box=boxes)
def test_image_position_is_the_ninth_that_holds_the_centre(box):
    x, y, width, height = box
    row, column = int(3 * (y + height / 2) / 24), int(3 * (x + width / 2) / 24)
    expected = "centre" if row == column == 1 else f"{('upper', 'middle', 'lower')[row]} {('left', 'middle', 'right')[column]}"
    assert image_position(Region(filled(box))) == expected


@pytest.mark.parametrize(
    ("plane", "declared", "modality"),
    [
        ("axial", None, "CT"),
        ("none", "L\\P", "CT"),
        ("oblique", "L\\P", "MR"),
        (None, "L\\P", "CT"),
        ("axial", "L\\P", "US"),
        ("axial", "L\\F", "CT"),
        ("lateral", "L\\F", "DX"),
    ],
)
def test_nothing_is_said_of_the_patient_without_directions(plane, declared, modality):
    assert not read_directions(plane, declared, modality).known


@pytest.mark.parametrize("declared", ["L", "L\\R", "X\\P", "\\", "L\\P\\F"])
def test_directions_that_are_none_are_refused(declared):
    with pytest.raises(ValueError, match="give the patient directions"):
        read_directions("axial", declared, "CT")


def test_midline_comes_from_a_pair_before_an_outline_and_not_from_a_cropped_body():
    axis = read_directions("axial", "L\\P", "CT").side
    pixels = np.zeros((24, 24), np.uint8)
    pixels[4:20, 2:20] = 200
    kidneys = [OrganMask("kidney", "right", filled((3, 8, 4, 4))), OrganMask("kidney", "left", filled((15, 8, 4, 4)))]
    assert find_midline(axis, kidneys, pixels, "axial").position_px == 11
    assert find_midline(axis, [], pixels, "axial").position_px == 11
    assert find_midline(axis, kidneys[:1], pixels, "axial").position_px == 11
    pixels[4:20, :20] = 200
    assert find_midline(axis, [], pixels, "axial") is None
    assert find_midline(axis, [], pixels, "frontal") == Midline(12, 24, False)


@pytest.mark.parametrize(
    ("facts", "phrase"),
    [
        ({"organ": "kidney", "side": "left", "side_of": "organ", "depth": "anterior"}, "anterior part of the left kidney"),
        ({"organ": "lung", "side": "right", "side_of": "organ", "vertical": "upper"}, "upper zone of the right lung"),
        (
            {"organ": "lung upper lobe", "side": "right", "side_of": "organ", "depth": "central"},
            "central part of the right lung upper lobe",
        ),
        ({"organ": "heart", "side": "left", "side_of": "patient", "vertical": "lower"}, "lower part of the heart"),
        ({"organ": "brain", "side": "left", "side_of": "organ", "depth": "posterior"}, "left posterior part of the brain"),
        (
            {"organ": "brain", "side": "midline", "side_of": "organ", "depth": "central"},
            "central part of the brain, at the midline",
        ),
        ({"organ": "brain", "side": "right", "side_of": "organ"}, "right side of the brain"),
        ({"organ": "lung", "side": "bilateral", "side_of": "organ", "vertical": "mid"}, "mid zone of the left and right lung"),
        ({"organ": "liver", "vertical": "superior", "depth": "central"}, "superior part of the liver"),
        ({"organ": "liver", "vertical": "middle", "depth": "central"}, "central part of the liver"),
        ({"organ": "kidney"}, "kidney, upper left of the image"),
        ({}, "upper left of the image"),
        ({"side": "left", "side_of": "organ"}, "upper left of the image, on the patient's left"),
    ],
)
def test_addresses_read_as_written(facts, phrase):
    assert place({"image_position": "upper left", **facts}) == phrase
