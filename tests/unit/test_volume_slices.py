"""Volumes with label maps -> pictures: choosing slices, cutting them, negatives and their scope."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.volume import VolumeSource
from medclm.corpus.volumes.choice import free_slices, lesion_slices
from medclm.corpus.volumes.cut import cut_for
from medclm.corpus.volumes.labels import components, name_labels
from medclm.corpus.volumes.volume import Grid
from medclm.types import Box
from tests.volume_files import RAS, block, body, made, pictures, saved, slices_of

# Which slices


def brute_slices(areas: list[int], step_mm: float, more: int) -> list[int]:
    present = [at for at, area in enumerate(areas) if area]
    low, high = min(present), max(present) + 1
    chosen: list[int] = []
    while len(chosen) <= more:
        best = None
        for at in present:
            inner = low + 0.1 * (high - low) <= at + 0.5 <= high - 0.1 * (high - low) or not chosen
            if at in chosen or not inner or any(abs(at - one) * step_mm < 5 - 1e-6 for one in chosen):
                continue
            rank = (areas[at], -abs(2 * at + 1 - low - high), -at)
            if best is None or rank > best[0]:
                best = rank, at
        if best is None:
            break
        chosen.append(best[1])
    return chosen


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40).filter(any),
    st.sampled_from([0.5, 0.7, 1.0, 2.5, 3.0, 5.0, 7.0]),
    st.integers(0, 5),
)
@settings(max_examples=150)
def test_slices_are_those_of_a_plain_search(areas: list[int], step_mm: float, more: int) -> None:
    assert lesion_slices(areas, step_mm, more) == brute_slices(areas, step_mm, more)


def test_without_spacing_there_is_only_the_largest_slice_and_no_negative() -> None:
    assert lesion_slices([1, 5, 5, 1], None, 9) == [1]
    assert free_slices([], 50, None) == []


@given(st.sets(st.integers(0, 79)), st.sampled_from([0.8, 1.0, 2.5, 3.0, 12.0]))
@settings(max_examples=80)
def test_free_slices_keep_their_distances(crossed: set[int], step_mm: float) -> None:
    found = free_slices(crossed, 80, step_mm)
    assert all(abs(at - other) * step_mm >= 10 - 1e-6 for at in found for other in crossed)
    assert all((b - a) * step_mm >= 20 - 1e-6 for a, b in itertools.pairwise(found))
    possible = [at for at in range(80) if all(abs(at - other) * step_mm >= 10 - 1e-6 for other in crossed)]
    assert bool(found) is bool(possible)


def test_a_picture_carries_every_lesion_that_crosses_it_even_a_single_voxel(tmp_path: Path) -> None:
    labels = block((1, 5, 15, 5, 15, 10, 20), (2, 20, 26, 10, 14, 12, 17), (1, 28, 29, 20, 21, 14, 15), (1, 5, 6, 5, 6, 40, 41))
    source = made(tmp_path, labels, slices=0)
    assert slices_of(source) == [14], "the largest slices of both coincide, the specks choose none"
    image = source.read(0)
    boxes = {(one.lesion_class, one.box_px) for one in image.annotations}
    assert boxes == {("nodule", Box(5, 5, 15, 15)), ("liver tumor", Box(20, 10, 26, 14)), ("nodule", Box(28, 20, 29, 21))}
    assert all(one.mask is not None and one.mask.sum() == one.box_px.area for one in image.annotations)
    assert len({one.lesion_3d for one in image.annotations}) == 3
    assert [reject.reason for reject in source.rejects] == ["lesion_too_small"] * 2


def test_one_lesion_keeps_its_identity_on_all_slices_and_in_all_planes(tmp_path: Path) -> None:
    labels = block((1, 5, 15, 5, 15, 10, 40), (1, 18, 28, 5, 15, 10, 40))
    found = {}
    for plane in ("axial", "coronal", "sagittal"):
        source = made(tmp_path / plane, labels, plane=plane, slices=2)
        found[plane] = {one.lesion_3d for image in pictures(source).values() for one in image.annotations}
        assert {image.patient for image in pictures(source).values()} == {"case7"}
    assert found["axial"] == found["coronal"] == found["sagittal"]
    assert len(found["axial"]) == 2


def test_parts_that_touch_at_a_corner_are_one_lesion() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[3, 3, 3] = 5
    found = components(name_labels(labels, {5: "x"}), 0)
    assert [part.size for part in found] == [2, 1]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float32", "bool"])
def test_labels_are_named_whatever_their_type(dtype: str) -> None:
    values = np.random.default_rng(1).choice([0, 1, 1, 0], (6, 5, 4)).astype(dtype)
    labels = name_labels(values, {1: "x"})
    np.testing.assert_array_equal(labels.codes, values.astype(np.uint16))
    assert labels.classes == ("x",)


def test_far_apart_values_and_shared_names_are_coded_as_a_loop_would() -> None:
    values = np.random.default_rng(2).choice([0, -3, 7, 70000, 2_000_000_000], (7, 6, 5)).astype(np.int64)
    labels = name_labels(values, {7: "a", 70000: "b", 2_000_000_000: "a"})
    assert labels.classes == (None, "a", "b")
    for index in np.ndindex(values.shape):
        name = {0: 0, -3: 1, 7: 2, 70000: 3, 2_000_000_000: 2}[int(values[index])]
        assert labels.codes[index] == name


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((3, 3, 3), 0.5, np.float32), "label_map_not_whole"),
        (np.full((3, 3, 3), np.nan, np.float32), "label_map_not_whole"),
        (np.full((3, 3, 3), 6.5e32, np.float32), "label_map_values"),
        (np.full((3, 3, 3), 2**63, np.uint64), "label_map_values"),
        (np.arange(2197).reshape(13, 13, 13), "label_map_values"),
    ],
)
def test_images_are_not_label_maps(values: np.ndarray, reason: str) -> None:
    with pytest.raises(RejectedImage, match=reason):
        name_labels(values, {1: "x"})


# How a slice lies


@pytest.mark.parametrize(("plane", "spacing"), [("axial", (1, 1, 5)), ("coronal", (0.8, 2, 5)), ("sagittal", (2, 0.8, 4))])
def test_coarse_sides_become_square_pixels_and_boxes_stay_true_in_millimetres(plane: str, spacing: tuple[float, ...]) -> None:
    rng = np.random.default_rng(3)
    volume = rng.normal(size=(11, 12, 13)).astype(np.float32)
    inside = rng.random((11, 12, 13)) > 0.9
    grid = Grid((11, 12, 13), tuple(map(float, spacing)), np.diag([*spacing, 1.0]))
    cut = cut_for(grid, plane)
    x, y, normal = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}[plane]
    assert cut.spacing_mm is not None
    row, column = cut.spacing_mm
    assert max(row, column) / min(row, column) < 1.05
    assert (cut.size[0] * column, cut.size[1] * row) == pytest.approx((spacing[x] * grid.shape[x], spacing[y] * grid.shape[y]))
    at = 4
    raw = cut.raw(inside, at)
    box = cut.box(raw)
    hits = [index for index in np.argwhere(inside) if index[normal] == at]
    left, right = min(one[x] for one in hits) * spacing[x], (max(one[x] for one in hits) + 1) * spacing[x]
    ends = min(one[y] for one in hits) * spacing[y], (max(one[y] for one in hits) + 1) * spacing[y]
    top, bottom = ends if plane == "axial" else (grid.shape[y] * spacing[y] - ends[1], grid.shape[y] * spacing[y] - ends[0])
    assert (box.x0 * column, box.x1 * column) == pytest.approx((left, right))
    assert (box.y0 * row, box.y1 * row) == pytest.approx((top, bottom))
    mask = cut.mask(raw)
    values = cut.values(volume, at)
    assert mask.shape == values.shape == (cut.size[1], cut.size[0])
    extent = np.flatnonzero(mask.any(axis=0))
    assert abs(extent[0] - box.x0) <= 0.5
    assert abs(extent[-1] + 1 - box.x1) <= 0.5
    flat = cut.raw(volume, at)
    for column_px in range(cut.size[0]):  # linear between centres, one pixel at a time
        centre = (column_px + 0.5) * flat.shape[1] / cut.size[0] - 0.5
        clipped = min(max(centre, 0.0), flat.shape[1] - 1.0)
        row_centre = min(max(0.5 * flat.shape[0] / cut.size[1] - 0.5, 0.0), flat.shape[0] - 1.0)
        line = flat[0] * (1 - row_centre) + flat[min(1, flat.shape[0] - 1)] * row_centre if row_centre else flat[0]
        low = int(clipped)
        expected = line[low] * (1 - (clipped - low)) + line[min(low + 1, flat.shape[1] - 1)] * (clipped - low)
        assert values[0, column_px] == pytest.approx(expected, abs=1e-5)


def test_nearly_square_pixels_are_left_alone() -> None:
    cut = cut_for(Grid((10, 12, 5), (1.0, 1.04, 5.0), np.eye(4)), "axial")
    assert (cut.size, cut.spacing_mm, cut.step_mm) == ((10, 12), (1.04, 1.0), 5.0)


def test_an_oblique_volume_has_a_plane_of_that_name_and_no_directions(tmp_path: Path) -> None:
    angle = np.radians(40)
    affine = RAS.copy()
    affine[:2, :2] = -np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    labels = block((1, 5, 15, 5, 15, 10, 20))
    saved(tmp_path / "a_seg.nii", labels, affine)
    saved(tmp_path / "a.nii", body(), affine)
    declared = SourceOptions(
        name="x", modality="CT", lesions=("nodule",), plane="axial", patient_directions="L\\P", window=(40, 400)
    )
    image = VolumeSource(tmp_path, tmp_path, declared)
    assert (image.read(0).plane, image.read(0).patient_directions) == ("oblique", None)


def test_unknown_orientation_is_shown_as_stored_and_says_only_what_was_declared(tmp_path: Path) -> None:
    labels = block((1, 5, 15, 5, 16, 10, 20))
    for name, values in (("a_seg.nii", labels), ("a.nii", body())):
        image = nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0]))
        image.set_sform(None, code=0)
        image.set_qform(None, code=0)
        nibabel.save(image, tmp_path / name)
    plain = {"name": "x", "modality": "CT", "lesions": ("nodule",), "window": (40.0, 400.0)}
    image = VolumeSource(tmp_path, tmp_path, SourceOptions(**plain)).read(0)
    assert (image.plane, image.patient_directions, image.organ_heights) == (None, None, {})
    assert image.annotations[0].box_px == Box(5, 5, 15, 16)
    declared = SourceOptions(**plain, plane="axial", patient_directions="R\\A")
    image = VolumeSource(tmp_path, tmp_path, declared).read(0)
    assert (image.plane, image.patient_directions) == ("axial", "R\\A")


# Negatives


def test_negatives_are_far_from_every_lesion_and_in_the_body_and_ask_for_exhaustive_classes_alone(tmp_path: Path) -> None:
    labels = block((1, 5, 15, 5, 15, 20, 26), (2, 20, 26, 10, 14, 48, 52))
    values = body()
    values[:, :, 55:] = -1000
    assert slices_of(made(tmp_path / "closed", labels, values, slices=0)) == [22, 49]
    source = made(tmp_path / "open", labels, values, slices=0, exhaustive=("nodule",))
    assert slices_of(source) == [0, 22, 35, 49], "free: 0 and 35 are 10 mm from slices 20..25 and 48..51"
    images = pictures(source)
    for at in (0, 35):
        assert images[at].annotations == ()
        assert images[at].label_scope == ("nodule",)
        assert images[at].image_labels == {"nodule": "absent"}
    assert images[49].label_scope == ("nodule",)
    empty = made(tmp_path / "air", block((1, 5, 15, 5, 15, 20, 26), shape=(32, 24, 70)), exhaustive=("nodule",), slices=0)
    assert slices_of(empty) == [0, 22, 35, 55]


def test_a_free_slice_outside_the_body_is_named(tmp_path: Path) -> None:
    values = body((32, 24, 70))
    values[:, :, 50:] = -1000
    source = made(tmp_path, block((1, 5, 15, 5, 15, 20, 26), shape=(32, 24, 70)), values, exhaustive=("nodule",), slices=0)
    with pytest.raises(RejectedImage, match="slice_outside_body"):
        source.read(len(source) - 1)


def test_a_class_that_comes_near_without_crossing_is_uncertain_there(tmp_path: Path) -> None:
    labels = block((1, 5, 15, 5, 15, 20, 26), (2, 20, 26, 10, 14, 30, 34), (2, 20, 26, 10, 14, 50, 54))
    images = pictures(made(tmp_path, labels, slices=0, exhaustive=("nodule", "liver tumor")))
    assert images[22].image_labels == {"nodule": "present", "liver tumor": "uncertain"}
    assert images[22].label_scope == ("nodule",)
    assert images[31].label_scope == ("liver tumor",)
    assert images[51].label_scope == ("nodule", "liver tumor")
    assert images[51].image_labels["nodule"] == "absent"


def test_a_value_without_a_name_is_counted_once_and_closes_the_scope_around_it(tmp_path: Path) -> None:
    labels = block((1, 5, 15, 5, 15, 20, 26), (77, 20, 26, 10, 14, 30, 34))
    source = made(tmp_path, labels, slices=0, exhaustive=("nodule",))
    assert [(one.reason, one.index) for one in source.rejects] == [("label_value_unknown", "volumes[0].labels[77]")]
    assert slices_of(source) == [0, 22, 43]
    images = pictures(source)
    assert images[22].label_scope == ()
    assert images[43].label_scope == ("nodule",)


def test_a_label_map_without_lesions_gives_negatives_in_the_window_of_the_question(tmp_path: Path) -> None:
    source = made(tmp_path, block((9, 5, 15, 5, 15, 5, 50)), exhaustive=("liver tumor",), slices=0)
    assert slices_of(source) == [0, 20, 40]
    images = pictures(source)
    assert all(image.window == (60, 160) and image.label_scope == ("liver tumor",) for image in images.values())
    assert list(images[20].organs) == ["spleen"]
    assert images[20].organ_heights["spleen"] == pytest.approx((20.5 - 5) / 45)
