"""SEG and RTSTRUCT as masks: filling against a brute-force polygon, frames against the pictures they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.geometry import read_plane
from medclm.corpus.dicom.names import Named
from medclm.corpus.dicom.placing import Placed, Placing
from medclm.corpus.dicom.reading import read_header
from medclm.corpus.dicom.segmentation import frame_mask, read_segmentation, segment_parts
from medclm.corpus.dicom.structures import contour_mask, fill, read_structures
from tests.dicom_files import PLACE, samples, saved, segmentation, slice_of, structures, view

SQUARE = np.array([[2, 2], [8, 2], [8, 8], [2, 8]], float)
HOLE = np.array([[4, 4], [6, 4], [6, 6], [4, 6]], float)


def brute(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Even-odd by walking every edge for every pixel centre."""
    out = np.zeros(shape, bool)
    for row in range(shape[0]):
        for column in range(shape[1]):
            x, y, inside = column + 0.5, row + 0.5, False
            for polygon in polygons:
                for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                    if (y0 < y) != (y1 < y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                        inside = not inside
            out[row, column] = inside
    return out


def test_filling_equals_brute_force_on_random_polygons() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        polygons = [rng.uniform(-4, 20, (int(rng.integers(3, 9)), 2)) for _ in range(int(rng.integers(1, 4)))]
        if rng.random() < 0.3:
            polygons = [np.round(polygon * 2) / 2 for polygon in polygons]  # edges through pixel centres
        shape = (int(rng.integers(5, 16)), int(rng.integers(5, 16)))
        np.testing.assert_array_equal(fill(polygons, shape), brute(polygons, shape))


def test_inner_contours_and_keyholes_are_holes() -> None:
    ring = fill([SQUARE, HOLE], (10, 10))
    assert ring.sum() == 36 - 4
    keyhole = np.array([[2, 2], [8, 2], [8, 8], [2, 8], [2, 2], [4, 4], [4, 6], [6, 6], [6, 4], [4, 4]], float)
    np.testing.assert_array_equal(fill([keyhole], (10, 10)), ring)


def test_neighbours_share_no_pixel_and_leave_none() -> None:
    left, right = SQUARE + np.array([0, -0.5]), SQUARE + np.array([6, -0.5])
    first, second = fill([left], (12, 20)), fill([right], (12, 20))
    assert not (first & second).any()
    assert (first | second).sum() == 72


def test_contours_are_filled_where_they_lie_in_the_patient() -> None:
    header = slice_of("CT", np.zeros((10, 12), np.int16), "1.2", 30.0, PixelSpacing=[2, 0.5], ImagePositionPatient=[5, 6, 30])
    plane = read_plane(view(header))
    assert plane is not None
    points = np.column_stack([5 + (SQUARE[:, 0] - 0.5) * 0.5, 6 + (SQUARE[:, 1] - 0.5) * 2, np.full(4, 30.4)])
    (roi,) = read_structures(structures({"GTV": [(points, None)]}))
    np.testing.assert_array_equal(contour_mask(roi.contours, plane), fill([SQUARE], (10, 12)))
    points[0, 2] += 5
    (roi,) = read_structures(structures({"GTV": [(points, None)]}))
    with pytest.raises(RejectedImage, match="contour_off_plane"):
        contour_mask(roi.contours, plane)


def test_regions_that_are_no_anatomy_and_contours_that_are_no_areas_are_named() -> None:
    rois = read_structures(dcmread(samples() / "pydicom" / "rtstruct.dcm", force=True))
    assert [roi.named.label for roi in rois] == ["patient", "Isocenter 1", "Isocenter 2"]
    assert {roi.refusal.reason for roi in rois if roi.refusal} == {"roi_not_anatomy"}
    made = structures({"a": [(SQUARE.repeat(2, axis=1)[:, :3], None)], "b": [], "c": [(np.zeros((2, 3)), None)]})
    made.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"
    found = read_structures(made)
    assert [roi.refusal.reason for roi in found if roi.refusal] == ["contour_type", "roi_empty", "contour_unreadable"]
    with pytest.raises(RejectedImage, match="structures_unreadable"):
        read_structures(structures({}))


def test_binary_frames_are_their_bits_also_where_frames_end_within_a_byte(tmp_path: Path) -> None:
    masks = np.random.default_rng(1).random((3, 7, 5)) < 0.5
    made = segmentation([(1, mask, {"z": 2 * z}) for z, mask in enumerate(masks)], {1: ("", "Liver")})
    path = saved(tmp_path / "seg", made)
    found = read_segmentation(read_header(path))
    for frame, mask in enumerate(masks):
        np.testing.assert_array_equal(frame_mask(path, found, frame), mask)


def test_fractional_values_are_inside_from_one_half_up(tmp_path: Path) -> None:
    values = np.array([[0, 127, 128, 255]] * 4, np.uint8)
    path = saved(tmp_path / "seg", segmentation([(1, values, {"z": 0})], {1: ("", "Liver")}, kind="FRACTIONAL"))
    found = read_segmentation(read_header(path))
    np.testing.assert_array_equal(frame_mask(path, found, 0), [[False, False, True, True]] * 4)


def test_parts_keep_their_number_through_the_slices_and_missing_slices_divide_them(tmp_path: Path) -> None:
    def frame(*spots: tuple[int, int]) -> np.ndarray:
        mask = np.zeros((20, 20), bool)
        for y, x in spots:
            mask[y : y + 3, x : x + 3] = True
        return mask

    stack = {0: frame((2, 2)), 2: frame((4, 4), (12, 12)), 4: frame((12, 12)), 10: frame((12, 12))}
    order = [4, 0, 10, 2]  # in any order
    path = saved(tmp_path / "seg", segmentation([(1, stack[z], {"z": z}) for z in order], {1: ("", "Nodule")}))
    parts = segment_parts(path, read_segmentation(read_header(path)), 1)
    numbers = {z: set(np.unique(parts[order.index(z)].full((20, 20)))) - {0} for z in stack}
    assert len(numbers[0]) == len(numbers[4]) == len(numbers[10]) == 1
    assert numbers[0] | numbers[4] == numbers[2]
    assert not numbers[10] & numbers[2]
    for z, mask in stack.items():
        np.testing.assert_array_equal(parts[order.index(z)].full((20, 20)) > 0, mask)


def test_other_segmentation_types_and_empty_ones_are_named(tmp_path: Path) -> None:
    made = segmentation([(1, np.ones((4, 4), bool), {"z": 0})], {1: ("", "Liver")})
    made.SegmentationType = "LABELMAP"
    with pytest.raises(RejectedImage, match="segmentation_type"):
        read_segmentation(made)
    made.SegmentationType = "BINARY"
    del made.PerFrameFunctionalGroupsSequence
    with pytest.raises(RejectedImage, match="segmentation_unreadable"):
        read_segmentation(made)


def test_the_real_segmentations_name_their_segments_and_pictures() -> None:
    expected = {
        "highdicom/seg_image_ct_binary.dcm": ({1: "Bone"}, 3, (16, 16)),
        "highdicom/seg_image_cr_binary.dcm": ({1: "first segment"}, 1, (16, 16)),
        "pydicom/liver_1frame.dcm": ({1: "Liver"}, 1, (512, 512)),
    }
    for name, (segments, frames, shape) in expected.items():
        path = samples() / name
        found = read_segmentation(read_header(path))
        assert {number: named.names[0] for number, named in found.segments.items()} == segments
        assert (len(found.frames), found.shape) == (frames, shape)
        whole = dcmread(path)
        pixels = whole.pixel_array.reshape(-1, *shape)
        for one in found.frames:
            np.testing.assert_array_equal(frame_mask(path, found, one.frame), pixels[one.frame] > 0)
        assert all(len(one.references) == 1 for one in found.frames)


@pytest.mark.parametrize(
    ("named", "first", "organ"),
    [
        (Named("Nodule 1 - reader 7", "Nodule"), "Nodule", "Nodule"),
        (Named("first segment", "Tissue"), "first segment", "first segment"),
        (Named("GTV-2"), "GTV", "GTV"),
        (Named("vertebra L5"), "vertebra L5", "vertebra L5"),
        (Named("x", "Kidney", "left"), "Kidney", "Kidney left"),
        (Named("Lung_R"), "Lung_R", "Lung right"),
        (Named("7"), "7", "7"),
    ],
)
def test_a_coded_type_goes_before_a_label_unless_it_says_nothing(named: Named, first: str, organ: str) -> None:
    assert (named.names[0], named.organ) == (first, organ)


def placed(uid: str, z: float, series: str = "s", frame: int = 0, frames: int = 1) -> Placed:
    plane = read_plane(view(slice_of("CT", np.zeros((8, 8), np.int16), "1.2", z)))
    return Placed(uid, frame, frames, series, PLACE, plane)


def test_masks_find_their_pictures_by_reference_then_by_place() -> None:
    pictures = [
        placed("a", 0),
        placed("b", 2),
        placed("c", 2, series="t"),
        placed("m", 0, "u", 0, 2),
        placed("m", 2, "u", 1, 2),
    ]
    placing = Placing(pictures)

    def at(z: float) -> np.ndarray:
        return np.array([[0, 0, z], [5, 0, z], [0, 5, z]], float)

    assert placing.find([("b", None)], at(0), PLACE) == [1]
    assert placing.find([("m", 1)], None, None) == [4]
    assert placing.find([("m", None)], at(2), PLACE) == [1, 2, 4]
    assert placing.find([], at(2.9), PLACE) == [1, 2, 4]
    assert placing.find([], at(3.2), PLACE) == []
    assert placing.find([], at(2), "another") == []
    assert placing.find([("gone", None)], at(0), PLACE) == [0, 3]
    assert placing.find([("a", None), ("b", None)], at(0), PLACE) == [0]
    assert placing.find([("a", None), ("b", None)], None, None) == [0, 1]
    slanted = np.array([[0, 0, 0], [5, 0, 2], [0, 5, 0]], float)
    assert placing.find([], slanted, PLACE) == []
