"""DeepLesion: one test per habit on slices and tables made here."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.sources.deeplesion import OFFSET, DeepLesionSource
from medclm.corpus.windows import LUNG, show_ct
from medclm.types import Box
from tests.source_files import HEIGHT, WIDTH, options, picture, refusal

HEADER = (
    "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,"
    "Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,"
    "Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test\n"
)


def row(
    name: str = "000001_02_03_109.png",
    box: str = "5.5, 6, 12, 14.25",
    kind: str = "5",
    noisy: str = "0",
    window: str = "-175, 275",
    split: str = "2",
    age: str = "62",
    size: str = f"{WIDTH}, {HEIGHT}",
) -> str:
    return (
        f'{name},1,2,3,109,"1, 2, 3, 4","{box}","4.1, 3.2","0.4, 0.5, 0.6",{kind},{noisy},"103, 115","0.7, 0.8, 5","{size}",'
        f'"{window}",F,{age},{split}\n'
    )


HU = np.linspace(-1000, 600, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).round()


def deeplesion(root: Path, *rows: str, **declared: object) -> DeepLesionSource:
    folder = root / "Images_png" / "000001_02_03"
    if not folder.exists():
        folder.mkdir(parents=True)
        Image.fromarray((HU + OFFSET).astype(np.uint16)).save(folder / "109.png")
    (root / "DL_info.csv").write_text(HEADER + "".join(rows or (row(),)))
    return DeepLesionSource(root / "DL_info.csv", root / "Images_png", options(**declared))


def test_stored_values_are_hu_and_what_the_table_says(tmp_path: Path) -> None:
    image = deeplesion(tmp_path, row(), row(box="20, 3, 30, 9")).read(0)
    assert image.intensity is not None
    np.testing.assert_array_equal(image.intensity, HU)
    assert [(one.lesion_class, one.box_px) for one in image.annotations] == [
        ("lung lesion", Box(5.5, 6, 12, 14.25)),
        ("lung lesion", Box(20, 3, 30, 9)),
    ]
    assert (image.patient, image.study, image.official_split, image.key) == ("000001", "2", "val", "000001_02_03_109.png")
    assert (image.modality, image.plane, image.patient_directions, image.spacing_mm) == ("CT", "axial", None, (0.8, 0.7))
    assert image.attributes == {"sex": "F", "age_decade": 60}
    assert (image.label_scope, image.image_labels) == ((), {"lung lesion": "present"})


def test_the_window_is_that_of_the_class_else_of_the_row(tmp_path: Path) -> None:
    lung = deeplesion(tmp_path).read(0)
    np.testing.assert_array_equal(lung.pixels, show_ct(HU.astype(np.float32), LUNG, "single")[0])
    assert lung.window == LUNG
    untyped = deeplesion(tmp_path, row(kind="-1")).read(0)
    assert (untyped.annotations[0].lesion_class, untyped.window) == ("lesion", (50, 450))
    assert untyped.pixels.min() == 0
    assert untyped.pixels.max() == 255
    several = deeplesion(tmp_path, window_mode="multi3").read(0)
    assert several.pixels.shape == (HEIGHT, WIDTH, 3)
    assert refusal(deeplesion(tmp_path, row(kind="-1", window="x"))).reason == "window_unknown"


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        (row(noisy="1"), "possibly_noisy"),
        (row(noisy=""), "possibly_noisy"),
        (row(kind="9"), "class_unknown"),
        (row(box="5, 6, 12"), "box_unreadable"),
        (row(box="12, 6, 5, 14"), "box_zero_area"),
        (row(box="nan, 6, 5, 14"), "box_not_finite"),
        (row(box="90, 6, 99, 14"), "box_outside"),
        (row(box="20, 3, 30, 9"), "duplicate_row"),
    ],
)
def test_a_bad_or_noisy_row_is_counted_and_the_rest_goes_on(tmp_path: Path, faulty: str, reason: str) -> None:
    image = deeplesion(tmp_path, row(box="20, 3, 30, 9"), faulty).read(0)
    assert [(reject.index, reject.reason) for reject in image.rejects] == [("images[0].annotations[1]", reason)]
    assert len(image.annotations) == 1


@pytest.mark.parametrize(("kind", "lesion_class"), [("1", "bone lesion"), ("4.0", "liver lesion"), ("8", "pelvic lesion")])
def test_types(tmp_path: Path, kind: str, lesion_class: str) -> None:
    assert deeplesion(tmp_path, row(kind=kind)).read(0).annotations[0].lesion_class == lesion_class


def test_key_slices_and_other_pictures_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "Images_png" / "000002_01_01" / "005.png")
    rows = [
        row("000002_01_01_005.png"),
        row("000003_01_01_005.png"),
        row("../../000001_02_03_109.png"),
        row("000001_02_03_109.png", size="512, 512"),
    ]
    source = deeplesion(tmp_path, *rows)
    assert [refusal(source, place).reason for place in range(4)] == [
        "not_hounsfield",
        "image_missing",
        "path_outside_root",
        "size_mismatch",
    ]
    Image.fromarray((HU + OFFSET).astype(np.uint16)).save(tmp_path / "Images_png" / "000002_01_01" / "005.png")
    assert len(source.read(0).annotations) == 1


def test_ages_over_89_and_unknown_splits(tmp_path: Path) -> None:
    assert deeplesion(tmp_path, row(age="90")).read(0).attributes == {"sex": "F"}
    assert refusal(deeplesion(tmp_path, row(split="4"))).reason == "split_unknown"


def test_whole_table_faults_and_workers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DeepLesion marks some lesions only"):
        deeplesion(tmp_path, exhaustive=("lung lesion",))
    (tmp_path / "DL_info.csv").write_text(HEADER.replace("Bounding_boxes", "Bounding boxes"))
    with pytest.raises(ValueError, match=r"no column Bounding_boxes: did you mean Bounding boxes\?"):
        DeepLesionSource(tmp_path / "DL_info.csv", tmp_path, options())
    source = deeplesion(tmp_path)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(0).pixels, source.read(0).pixels)
