"""A folder of DICOM files as a source, and DICOM pictures in the other formats."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest

from medclm.corpus.contract import RejectedImage, SourceImage
from medclm.corpus.sources.coco import CocoSource
from medclm.corpus.sources.dicom_folder import DicomSource
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.registry import open_source
from medclm.corpus.windows import BONE, LIVER, LUNG, MULTI3, SOFT_TISSUE, apply_window, mr_window
from medclm.draws import generator
from medclm.types import Box
from tests.dicom_files import item, picture, recoded, samples, saved, segmentation, slice_of, structures

SPOT = np.zeros((40, 40), bool)
SPOT[10:16, 20:24] = True
HU = (np.arange(1600, dtype=np.int16).reshape(40, 40) - 800).astype(np.int16)


def options(**declared: Any) -> SourceOptions:
    return SourceOptions(name="made", **declared)


def volume(root: Path, heights: tuple[float, ...] = (0, 2, 4), uids: str = "1.2", **elements: Any) -> None:
    for number, z in enumerate(heights):
        made = slice_of("CT", HU, f"{uids}.{number}", z, InstanceNumber=number + 1, **elements)
        saved(root / f"{(number * 7) % 11}_slice", made)


def segmented(
    root: Path, names: dict[int, tuple[str, str]], at: tuple[int, ...] = (1,), mask: np.ndarray = SPOT, **elements: Any
) -> None:
    frames = [(segment, mask, {"uid": f"1.2.{number}", "z": 2 * number}) for segment in names for number in at]
    saved(root / "masks" / "seg", segmentation(frames, names, **elements))


def read_all(source: DicomSource) -> list[SourceImage]:
    return [source.read(index) for index in range(len(source))]


def test_pictures_follow_by_number_whatever_their_files_are_called(tmp_path: Path) -> None:
    volume(tmp_path)
    images = read_all(DicomSource(None, tmp_path, options(window=(0, 1000))))
    assert [one.order_in_patient for one in images] == [1, 2, 3]
    assert {(one.patient, one.study, one.series, one.modality) for one in images} == {("P1", "1.2.3.60", "1.2.3.50", "CT")}
    assert [one.key for one in images] == ["1.2.0#0", "1.2.1#0", "1.2.2#0"]
    assert not any(one.annotations or one.organs or one.label_scope for one in images)


def test_segments_among_the_lesions_are_annotations_and_the_others_organs(tmp_path: Path) -> None:
    volume(tmp_path)
    segmented(tmp_path, {1: ("Liver Tumour 1", ""), 2: ("x", "Liver")}, at=(0, 1))
    source = DicomSource(None, tmp_path, options(lesions=("liver tumor",), window=(0, 9)))
    first, second, third = read_all(source)
    (lesion,) = first.annotations
    assert (lesion.class_source, lesion.lesion_class, lesion.box_px) == ("liver tumor", "liver tumor", Box(20, 10, 24, 16))
    np.testing.assert_array_equal(lesion.mask, SPOT)
    np.testing.assert_array_equal(first.organs["liver"], SPOT)
    assert lesion.lesion_3d == second.annotations[0].lesion_3d
    assert first.window == LIVER
    np.testing.assert_array_equal(first.pixels, apply_window(HU, LIVER))
    assert not third.annotations
    everything = DicomSource(None, tmp_path, options()).read(0)
    assert {one.lesion_class for one in everything.annotations} == {"liver tumor", "liver"}


@pytest.mark.parametrize(
    ("names", "lesions", "window"),
    [
        ({1: ("lung nodule", "")}, ("lung nodule",), LUNG),
        ({1: ("lesion", ""), 2: ("kidney left", "")}, ("lesion",), SOFT_TISSUE),
        ({1: ("lesion", "")}, ("lesion",), (70, 300)),
        ({1: ("rib fracture", ""), 2: ("lung", "")}, ("rib fracture",), BONE),
    ],
)
def test_a_slice_of_ct_is_shown_in_the_window_of_its_lesion_organ_or_header(
    tmp_path: Path, names: dict[int, tuple[str, str]], lesions: tuple[str, ...], window: tuple[float, float]
) -> None:
    volume(tmp_path, WindowCenter=70, WindowWidth=300)
    segmented(tmp_path, names)
    image = DicomSource(None, tmp_path, options(lesions=lesions, window=(1, 2))).read(1)
    assert image.window == window
    np.testing.assert_array_equal(image.pixels, apply_window(HU, window))
    np.testing.assert_array_equal(image.intensity, HU)


def test_without_any_sign_a_declared_window_is_needed_and_three_windows_need_none(tmp_path: Path) -> None:
    volume(tmp_path)
    segmented(tmp_path, {1: ("lesion", "")})
    with pytest.raises(RejectedImage, match=r"window_unknown.*--window.*lost with it: 1"):
        DicomSource(None, tmp_path, options()).read(1)
    assert DicomSource(None, tmp_path, options(window=(5, 10))).read(1).window == (5, 10)
    three = DicomSource(None, tmp_path, options(window_mode="multi3")).read(1)
    assert three.window == tuple(number for one in MULTI3 for number in one)
    np.testing.assert_array_equal(three.pixels[..., 2], apply_window(HU, BONE))


def test_slices_without_a_lesion_are_shown_as_those_that_have_it(tmp_path: Path) -> None:
    volume(tmp_path, heights=(0, 2, 20), WindowCenter=70, WindowWidth=300)
    segmented(tmp_path, {1: ("liver tumor", "")}, at=(0,))
    images = read_all(DicomSource(None, tmp_path, options(exhaustive=("liver tumor",))))
    assert [(one.image_labels["liver tumor"], one.window) for one in images] == [
        ("present", LIVER),
        ("uncertain", (70, 300)),
        ("absent", LIVER),
    ]


def test_padding_of_ct_is_black_and_measured_nowhere(tmp_path: Path) -> None:
    padded = HU.copy()
    padded[:5] = -2000
    saved(tmp_path / "a", slice_of("CT", padded, "1.2.0", 0, PixelPaddingValue=-2000, WindowCenter=-2000, WindowWidth=100))
    image = DicomSource(None, tmp_path, options()).read(0)
    assert not image.pixels[:5].any()
    assert np.isnan(image.intensity[:5]).all()
    assert np.isfinite(image.intensity[5:]).all()


def test_exhaustive_classes_are_absent_only_far_from_where_they_are(tmp_path: Path) -> None:
    volume(tmp_path, heights=(0, 2, 4, 6, 8, 10, 12, 14))
    volume(tmp_path / "other", heights=(0, 2), uids="1.9", SeriesInstanceUID="1.2.3.51", PatientID="P2")
    segmented(tmp_path, {1: ("tumor", "")}, at=(0,))
    source = DicomSource(None, tmp_path, options(exhaustive=("tumor",), window=(0, 100)))
    labels = [one.image_labels["tumor"] for one in read_all(source)]
    scopes = [one.label_scope for one in read_all(source)]
    assert labels == ["present", *["uncertain"] * 4, *["absent"] * 3, "uncertain", "uncertain"]
    assert scopes == [("tumor",), *[()] * 4, *[("tumor",)] * 3, (), ()]


def test_two_nodules_of_one_segment_are_two_lesions(tmp_path: Path) -> None:
    volume(tmp_path)
    two = SPOT.copy()
    two[30:35, 5:9] = True
    segmented(tmp_path, {1: ("Nodule", "")}, at=(0, 1), mask=two)
    images = read_all(DicomSource(None, tmp_path, options(window=(0, 100))))
    identities = [[one.lesion_3d for one in image.annotations] for image in images]
    assert len(set(identities[0])) == 2
    assert identities[0] == identities[1]


def test_contours_are_annotations_of_the_slices_they_lie_in(tmp_path: Path) -> None:
    volume(tmp_path)
    corners = np.array([[19.5, 9.5], [23.5, 9.5], [23.5, 15.5], [19.5, 15.5]])

    def contour(z: float) -> np.ndarray:
        return np.column_stack([corners, np.full(4, z)])

    rois = {"GTV-1": [(contour(0), "1.2.0"), (contour(2), None)], "Lung_L": [(contour(2), None)], "far": [(contour(90), None)]}
    saved(tmp_path / "rs", structures(rois))
    source = DicomSource(None, tmp_path, options(lesions=("gtv",), window=(0, 9)))
    assert [(one.reason, one.index.endswith(".rois[3]")) for one in source.rejects] == [("mask_unreferenced", True)]
    first, second, third = read_all(source)
    for image in (first, second):
        (lesion,) = image.annotations
        np.testing.assert_array_equal(lesion.mask, SPOT)
    assert first.annotations[0].lesion_3d == second.annotations[0].lesion_3d
    assert (list(first.organs), list(second.organs), third.annotations) == ([], ["lung left"], ())
    assert second.window == LUNG


def test_masks_that_fit_no_picture_are_refused_and_their_class_is_in_doubt(tmp_path: Path) -> None:
    saved(tmp_path / "a", picture("DX", np.zeros((30, 30), np.uint8), "1.2.0"))
    segmented(tmp_path, {1: ("mass", "")}, at=(0,))
    image = DicomSource(None, tmp_path, options(exhaustive=("mass",))).read(0)
    assert [(one.reason, one.index) for one in image.rejects] == [("mask_size", "files[0].annotations[0]")]
    assert (image.annotations, image.label_scope, dict(image.image_labels)) == ((), (), {"mass": "uncertain"})


def test_a_mask_beside_its_picture_is_refused(tmp_path: Path) -> None:
    volume(tmp_path, heights=(0,))
    made = segmentation([(1, SPOT, {"uid": "1.2.0", "z": 50})], {1: ("liver", ""), 2: ("mass", "")})
    saved(tmp_path / "seg", made)
    image = DicomSource(None, tmp_path, options(lesions=("mass",), window=(0, 9))).read(0)
    assert [(one.reason, "Doe" in one.detail) for one in image.rejects] == [("mask_off_plane", False)]


def test_mistyped_classes_stop_the_build_before_it_starts(tmp_path: Path) -> None:
    volume(tmp_path)
    segmented(tmp_path, {1: ("tumor", ""), 2: ("liver", "")})
    for declared, message in (
        ({"lesions": ("tumr",)}, "did you mean tumor"),
        ({"exhaustive": ("cyst",)}, "there are"),
        ({"lesions": ("tumor",), "exhaustive": ("liver",)}, "not among --lesions"),
    ):
        with pytest.raises(ValueError, match=message):
            DicomSource(None, tmp_path, options(**declared))


def test_folders_without_pictures_say_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        DicomSource(None, tmp_path / "none", options())
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="not_dicom"):
        DicomSource(None, tmp_path, options())


def test_the_same_picture_twice_is_one(tmp_path: Path) -> None:
    volume(tmp_path, heights=(0,))
    shutil.copy(next(tmp_path.iterdir()), tmp_path / "z_copy")
    source = DicomSource(None, tmp_path, options())
    assert (len(source), [(one.index, one.reason) for one in source.rejects]) == (1, [("files[1]", "duplicate_image")])


def test_mr_is_shown_by_its_whole_volume_in_every_worker(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    slices = [rng.integers(0, high, (32, 32)).astype(np.int16) for high in (400, 900, 2000)]
    for number, one in enumerate(slices):
        saved(
            tmp_path / f"{number}", slice_of("MR", one, f"1.2.{number}", number, InstanceNumber=number, SeriesDescription="t2")
        )
    source = DicomSource(None, tmp_path, options())
    again = pickle.loads(pickle.dumps(source))
    window = mr_window(np.stack(slices))
    for index, one in enumerate(slices):
        image = source.read(index)
        assert (image.technique, image.window) == ("t2", window)
        np.testing.assert_array_equal(image.pixels, apply_window(one, window))
        np.testing.assert_array_equal(again.read(index).pixels, image.pixels)
    assert len(pickle.dumps(source)) < 20_000


def test_frames_are_pictures_with_masks_of_their_own(tmp_path: Path) -> None:
    stack = np.stack([HU, HU + 10, HU + 20])
    per_frame = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2 * number])]) for number in range(3)]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2)],
        PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=5, RescaleType="HU")],
    )
    made = picture(
        "ENHANCED_CT",
        stack,
        "1.2.9",
        NumberOfFrames=3,
        FrameOfReferenceUID="1.2.3.999",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=per_frame,
    )
    recoded(saved(tmp_path / "a", made), gdcm.TransferSyntax.JPEGLSLossless)
    saved(tmp_path / "seg", segmentation([(1, SPOT, {"z": 2})], {1: ("lung nodule", "")}))
    source = DicomSource(None, tmp_path, options(window=(0, 100)))
    images = read_all(source)
    assert [len(one.annotations) for one in images] == [0, 1, 0]
    assert [one.index for one in images] == [f"files[0].frames[{number}]" for number in range(3)]
    for image, values in zip(images, stack, strict=True):
        np.testing.assert_array_equal(image.intensity, values + 5)


def coco(root: Path, box: list[float], size: tuple[int, int]) -> Path:
    tree = {
        "images": [{"id": 1, "file_name": "a.dcm", "width": size[0], "height": size[1]}],
        "categories": [{"id": 1, "name": "mass"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}],
    }
    (root / "boxes.json").write_text(json.dumps(tree))
    return root / "boxes.json"


def test_other_formats_may_have_dicom_pictures(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 4096, (30, 50)).astype(np.uint16)
    elements = {"WindowCenter": 2048, "WindowWidth": 4096, "ViewPosition": "PA", "PatientID": "P9", "BitsStored": 12}
    saved(tmp_path / "a.dcm", picture("DX", grey, PhotometricInterpretation="MONOCHROME1", **elements))
    image = CocoSource(coco(tmp_path, [10, 5, 20, 10], (50, 30)), tmp_path, options(modality="CR")).read(0)
    assert (image.modality, image.view, image.plane, image.patient, image.window) == ("DX", "PA", "frontal", "P9", (2048, 4096))
    assert abs(int(image.pixels[0, 0]) - (255 - grey[0, 0] / 16)) <= 1
    assert image.annotations[0].box_px == Box(10, 5, 30, 15)
    other = CocoSource(coco(tmp_path, [10, 5, 20, 10], (60, 30)), tmp_path, options())
    with pytest.raises(RejectedImage, match="size_mismatch"):
        other.read(0)


def region(x0: int, y0: int, x1: int, y1: int) -> Any:
    return item(RegionLocationMinX0=x0, RegionLocationMinY0=y0, RegionLocationMaxX1=x1, RegionLocationMaxY1=y1)


def test_boxes_move_with_what_is_cut_and_go_with_what_is_not_shown(tmp_path: Path) -> None:
    made = picture("US", np.full((30, 50), 9, np.uint8), SequenceOfUltrasoundRegions=[region(10, 0, 49, 29)])
    saved(tmp_path / "a.dcm", made)
    kept = CocoSource(coco(tmp_path, [12, 5, 20, 10], (50, 30)), tmp_path, options()).read(0)
    assert (kept.pixels.shape, kept.annotations[0].box_px) == ((30, 40), Box(2, 5, 22, 15))
    half = CocoSource(coco(tmp_path, [5, 5, 20, 10], (50, 30)), tmp_path, options()).read(0)
    assert half.annotations[0].box_px == Box(0, 5, 15, 15)
    lost = CocoSource(coco(tmp_path, [0, 5, 15, 10], (50, 30)), tmp_path, options()).read(0)
    assert [one.reason for one in lost.rejects] == ["box_hidden"]
    saved(tmp_path / "a.dcm", picture("SC", np.full((40, 80), 9, np.uint8)))
    masked = CocoSource(coco(tmp_path, [0, 0, 12, 12], (80, 40)), tmp_path, options(burned_in="mask")).read(0)
    assert [one.reason for one in masked.rejects] == ["box_hidden"]
    assert not masked.pixels[:5].any()


def test_broken_masks_cost_no_picture(tmp_path: Path) -> None:
    volume(tmp_path)
    segmented(tmp_path, {1: ("tumor", ""), 2: ("x", "Liver")}, at=(0, 1, 2))
    square = np.array([[19.5, 9.5, 2], [23.5, 9.5, 2], [23.5, 15.5, 2], [19.5, 15.5, 2]])
    saved(tmp_path / "rs", structures({"gtv": [(square, "1.2.1"), (square, None)]}))
    files = {path: path.read_bytes() for path in (tmp_path / "masks" / "seg", tmp_path / "rs")}
    draw, named = generator(0, "broken masks"), Counter[str]()
    for _ in range(60):
        for path, whole in files.items():
            broken = bytearray(whole)
            for place in draw.integers(400, len(whole), int(draw.integers(1, 10))).tolist():
                broken[place] = int(draw.choice([0, 128, 255, int(draw.integers(256))]))
            path.write_bytes(broken if draw.random() < 0.7 else whole[: int(draw.integers(len(whole)))])
        source = DicomSource(None, tmp_path, options(window=(0, 100)))
        images = read_all(source)
        assert len(images) == 3
        named.update(one.reason for one in (*source.rejects, *(each for image in images for each in image.rejects)))
    assert len(named) > 4


def test_the_real_samples_by_their_counts() -> None:
    source = open_source("dicom", None, samples(), options(window=(40, 400)))
    reasons = Counter(one.reason for one in source.rejects)
    refused = {"not_dicom": 4, "not_an_image": 6, "duplicate_image": 3, "burned_in": 6}
    assert reasons == refused | {"mask_unreferenced": 2, "roi_not_anatomy": 3}
    images = read_all(source)
    assert Counter(one.modality for one in images) == {"SM": 25, "CT": 10, "MR": 11, "CR": 3, "DX": 1}
    planes = Counter(one.plane for one in images if one.modality in ("CT", "MR"))
    assert planes == {"axial": 11, "sagittal": 7, "oblique": 1, "frontal": 1, "lateral": 1}
    found = [(annotation.lesion_class, image.index) for image in images for annotation in image.annotations]
    assert Counter(name for name, _ in found) == {"bone": 2}
    undeclared = Counter(one.reason for image in images for one in image.rejects)
    assert undeclared["name_undeclared"] > 0  # a label typed by hand: "first segment"
    assert all(one.annotations[0].mask.any() for one in images if one.annotations)
    assert not any("Doe" in repr(one.attributes) or "2004" in repr(one.attributes) for one in images)


def test_a_name_typed_by_hand_is_stored_only_where_it_is_known_or_declared(tmp_path: Path) -> None:
    volume(tmp_path)
    typed = {1: ("liver tumor Zawadzka", ""), 2: ("Kidney Left", "")}
    segmented(tmp_path, typed)
    plain = read_all(DicomSource(None, tmp_path, options(window=(0, 9))))
    assert {one.lesion_class for image in plain for one in image.annotations} == {"left kidney"}
    assert "name_undeclared" in {one.reason for image in plain for one in image.rejects}
    aliases = {"liver tumor Zawadzka": "liver tumor"}
    declared = read_all(DicomSource(None, tmp_path, options(window=(0, 9), aliases=aliases)))
    assert {one.lesion_class for image in declared for one in image.annotations} == {"liver tumor", "left kidney"}
    for image in (*plain, *declared):
        assert "awadzka" not in repr((image.annotations, image.rejects, sorted(image.organs)))
