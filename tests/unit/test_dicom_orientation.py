"""Planes and directions against the direction cosines themselves, and the same lesion in flipped pictures."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from medclm.corpus.anatomy import link
from medclm.corpus.contract import SourceImage
from medclm.corpus.dicom.geometry import Plane, onto_grid, read_plane, same_grid
from medclm.corpus.dicom.orientation import OBLIQUE_DEGREES, from_cosines, from_letters
from medclm.corpus.sources.dicom_folder import DicomSource
from medclm.corpus.sources.options import SourceOptions
from tests.dicom_files import dataset, saved, segmentation, slice_of, view

POINTS_TO = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}
UNITS = tuple(POINTS_TO.values())


def turned(degrees: float, axis: int, vector: tuple[float, ...]) -> list[float]:
    angle, (i, j) = math.radians(degrees), [one for one in range(3) if one != axis]
    out = list(vector)
    out[i] = vector[i] * math.cos(angle) - vector[j] * math.sin(angle)
    out[j] = vector[i] * math.sin(angle) + vector[j] * math.cos(angle)
    return out


def brute_letters(vector: list[float]) -> str:
    return max(POINTS_TO, key=lambda letter: float(np.dot(POINTS_TO[letter], vector)))


@pytest.mark.parametrize(("row", "column"), [pair for pair in itertools.permutations(UNITS, 2) if np.dot(*pair) == 0])
def test_all_24_straight_orientations_name_plane_and_directions(row: tuple[int, ...], column: tuple[int, ...]) -> None:
    found = from_cosines([*row, *column])
    normal = np.abs(np.cross(row, column))
    assert found.plane == ("sagittal", "coronal", "axial")[int(np.argmax(normal))]
    assert found.directions == f"{brute_letters(list(row))}\\{brute_letters(list(column))}"


def test_tilted_pictures_keep_the_nearest_directions_up_to_the_stated_angle() -> None:
    named = 0
    for row, column in itertools.permutations(UNITS, 2):
        if np.dot(row, column) != 0:
            continue
        for axis, degrees in itertools.product(range(3), (-45, -31, -29, -10, 5, 29, 31, 44)):
            vectors = turned(degrees, axis, row), turned(degrees, axis, column)
            found = from_cosines([*vectors[0], *vectors[1]])
            moves = [one for one in (row, column) if one[axis] == 0]  # the axis of rotation itself stays
            if abs(degrees) > OBLIQUE_DEGREES and moves:
                assert (found.plane, found.directions) == ("oblique", None)
                continue
            named += 1
            assert found.directions == f"{brute_letters(vectors[0])}\\{brute_letters(vectors[1])}"
    assert named > 100


@pytest.mark.parametrize(
    "cosines", [[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0], [1, 0, 0, 0.2, 0.98, 0], [2, 0, 0, 0, 2, 0]], ids=str
)
def test_vectors_that_cannot_be_directions_say_nothing(cosines: list[float]) -> None:
    assert from_cosines(cosines) == (None, None)


@pytest.mark.parametrize(
    ("letters", "plane", "directions"),
    [
        (("L", "F"), "coronal", "L\\F"),
        (("P", "F"), "sagittal", "P\\F"),
        (("LA", "FL"), "coronal", "LA\\FL"),
        (("R", "A"), "axial", "R\\A"),
        (("L", "R"), None, None),
        (("LR", "F"), None, None),
        (("LE", "D"), None, None),
        (("L",), None, None),
        ((), None, None),
    ],
)
def test_patient_orientation_letters(letters: tuple[str, ...], plane: str | None, directions: str | None) -> None:
    assert from_letters(letters) == (plane, directions)


def plane_of(row: tuple[float, ...], column: tuple[float, ...], origin: tuple[float, float, float], **fields: object) -> Plane:
    header = dataset(
        "CT",
        Rows=30,
        Columns=20,
        ImagePositionPatient=list(origin),
        ImageOrientationPatient=[*row, *column],
        PixelSpacing=[2, 0.5],
        **fields,
    )
    found = read_plane(view(header))
    assert found is not None
    return found


def test_pixels_and_points_of_a_plane_undo_each_other_and_follow_the_standard() -> None:
    plane = plane_of((0, 1, 0), (0, 0, -1), (5, 6, 7))
    xy = np.array([[0.5, 0.5], [3.5, 10.5]])
    np.testing.assert_allclose(plane.points(xy), [[5, 6, 7], [5, 6 + 3 * 0.5, 7 - 10 * 2]])  # PS3.3 C.7.6.2.1.1
    np.testing.assert_allclose(plane.pixels(plane.points(xy)), xy)
    np.testing.assert_allclose(plane.distance(plane.points(xy) + np.array([4.0, 0, 0])), [-4, -4])


def test_a_mask_moves_to_a_flipped_grid_pixel_by_pixel() -> None:
    source = plane_of((1, 0, 0), (0, 1, 0), (0, 0, 0))
    flipped = plane_of((-1, 0, 0), (0, 1, 0), (19 * 0.5, 0, 0))
    assert not same_grid(source, flipped)
    labels = np.arange(600, dtype=np.int32).reshape(30, 20)
    np.testing.assert_array_equal(onto_grid(labels, source, flipped), labels[:, ::-1])


SIDES = (
    ((1, 0, 0), (0, 1, 0)),
    ((-1, 0, 0), (0, 1, 0)),
    ((1, 0, 0), (0, -1, 0)),
    ((0, 1, 0), (1, 0, 0)),
    ((0, -1, 0), (-1, 0, 0)),
)


def volume_picture(root: Path, row: tuple[int, ...], column: tuple[int, ...], drawn_here: bool) -> SourceImage:
    """One axial slice of a patient with two kidneys and a tumour in the left front one's front, stored in any order."""
    size = 64
    origin = np.array([min(0, (size - 1) * (row[i] + column[i])) * -1 for i in range(3)], float)
    ys, xs = np.mgrid[0:size, 0:size]
    points = origin + xs[..., None] * np.array(row) + ys[..., None] * np.array(column)
    x, y = points[..., 0], points[..., 1]  # patient left and posterior, 0..63 mm
    body = (x - 32) ** 2 + (y - 32) ** 2 < 28**2
    right, left = (x - 16) ** 2 + (y - 36) ** 2 < 100, (x - 46) ** 2 + (y - 36) ** 2 < 100
    tumour = (x - 46) ** 2 + (y - 29) ** 2 < 6
    values = np.where(body, 40 + (x + 2 * y) % 5, -1000) + 60 * tumour
    image = slice_of(
        "CT",
        values.astype(np.int16),
        "1.2.3.1",
        0,
        ImageOrientationPatient=[*row, *column],
        ImagePositionPatient=origin.tolist(),
    )
    saved(root / "a", image)
    names = {1: ("tumor", ""), 2: ("kidney left", ""), 3: ("kidney right", "")}
    where = {"uid": "1.2.3.1"} if drawn_here else {"z": 0}
    masks = (tumour, left, right)
    if not drawn_here:  # on the standard grid, as a segmentation made on another copy of the slice
        py, px = np.mgrid[0:size, 0:size]
        masks = tuple(_standard(mask, x, y, px, py) for mask in masks)
    made = segmentation([(number, mask, where) for number, mask in enumerate(masks, 1)], names)
    if drawn_here:
        groups = made.SharedFunctionalGroupsSequence[0]
        del groups.PlaneOrientationSequence
    saved(root / "seg", made)
    source = DicomSource(None, root, SourceOptions(name="made", lesions=("tumor",)))
    assert not source.rejects
    return source.read(0)


def _standard(mask: np.ndarray, x: np.ndarray, y: np.ndarray, px: np.ndarray, py: np.ndarray) -> np.ndarray:
    out = np.zeros(px.shape, bool)
    out[np.rint(y[mask]).astype(int), np.rint(x[mask]).astype(int)] = True
    return out


@pytest.mark.parametrize("drawn_here", [True, False])
@pytest.mark.parametrize(("row", "column"), SIDES)
def test_flipped_and_transposed_slices_give_the_same_words_for_the_same_lesion(
    tmp_path: Path, row: tuple[int, ...], column: tuple[int, ...], drawn_here: bool
) -> None:
    image = volume_picture(tmp_path, row, column, drawn_here)
    (lesion,) = [one for one in link(image, seed=0).annotations if one.box_role == "lesion"]
    facts = lesion.facts
    assert (image.plane, lesion.organ, lesion.organ_relation) == ("axial", "kidney", "inside")
    assert (facts["side"], facts["depth"], facts["intensity"]) == ("left", "anterior", "hyperattenuating")
    assert image.window == (40, 400)
