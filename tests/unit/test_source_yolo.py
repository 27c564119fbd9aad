"""YOLO as people really write it: one test per habit on files made here."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from medclm.corpus.sources.yolo import YoloSource
from medclm.types import Box
from tests.source_files import HEIGHT, WIDTH, options, picture, refusal


def labels(root: Path, text: str | bytes, name: str = "labels/a.txt") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def yolo(root: Path, text: str | bytes | None = None, names: str = "Nodule\nBig_Mass\n", **declared: object) -> YoloSource:
    """Labels of `images/a.png`, with classes.txt above them."""
    if not (root / "images").exists():
        picture(root / "images" / "a.png")
    if text is not None:
        labels(root, text)
    labels(root, names, "classes.txt")
    return YoloSource(root / "labels", root / "images", options(**declared))


def test_boxes_are_centre_and_size_in_shares_of_the_picture(tmp_path: Path) -> None:
    image = yolo(tmp_path, "0 0.5 0.5 0.25 0.2\r\n\n1  0.1 0.1\t0.2 0.2 \n").read(0)
    assert [(one.class_source, one.lesion_class, one.index) for one in image.annotations] == [
        ("Nodule", "nodule", "annotations[0]"),
        ("Big_Mass", "big mass", "annotations[1]"),
    ]
    np.testing.assert_allclose(image.annotations[0].box_px, (15, 12, 25, 18))
    np.testing.assert_allclose(image.annotations[1].box_px, (0, 0, 8, 6))
    assert (image.index, image.key, image.label_scope, image.official_split) == ("files[0]", "a.png", (), None)


def test_polygons_become_masks_and_boxes(tmp_path: Path) -> None:
    square = "0 " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in ((5, 6), (12, 6), (12, 14), (5, 14)))
    (found,) = yolo(tmp_path, square).read(0).annotations
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[6:14, 5:12] = True
    assert found.mask is not None
    np.testing.assert_array_equal(found.mask, expected)
    np.testing.assert_allclose(found.box_px, Box(5, 6, 12, 14))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.2 0.2 0.9", "prediction"),
        ("0 0.5 0.5 0.2", "box_unreadable"),
        ("0", "box_unreadable"),
        ("0 0.5 0.5 0.2 x", "box_unreadable"),
        ("0 0.1 0.1 0.5 0.5 0.2 0.9 0.4", "box_unreadable"),
        ("2 0.5 0.5 0.2 0.2", "class_unknown"),
        ("-1 0.5 0.5 0.2 0.2", "class_unknown"),
        ("0.5 0.5 0.5 0.2 0.2", "class_unknown"),
        ("Nodule 0.5 0.5 0.2 0.2", "class_unknown"),
        ("² 0.5 0.5 0.2 0.2", "class_unknown"),
        ("9" * 5000 + " 0.5 0.5 0.2 0.2", "class_unknown"),
        ("0 20 15 10 6", "box_not_unit"),
        ("0 0.5 0.5 0 0.2", "box_zero_area"),
        ("0 0.5 0.5 -0.2 0.2", "box_zero_area"),
        ("0 0.5 0.5 nan 0.2", "box_not_finite"),
        ("0 0.5 inf 0.2 0.2", "box_not_unit"),
        ("0 1.5 0.5 0.2 0.2", "box_outside"),
        ("0 0.1 0.1 0.5 0.5 nan 0.4", "mask_unreadable"),
        ("0 0.1 0.1 0.1 0.5 0.1 0.9", "box_zero_area"),
        ("1.0 0.5 0.5 0.2 0.2", None),
        ("1 0.25 0.25 0.2 0.2", "duplicate_row"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_goes_on(tmp_path: Path, line: str, reason: str | None) -> None:
    image = yolo(tmp_path, f"1 0.25 0.25 0.2 0.2\n{line}\n").read(0)
    assert [(reject.index, reject.reason) for reject in image.rejects] == (
        [("files[0].annotations[1]", reason)] if reason else []
    )
    assert len(image.annotations) == (1 if reason else 2)
    assert all("Nodule" not in reject.detail for reject in image.rejects)


def test_an_empty_file_is_looked_at_and_a_missing_one_is_not(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / "images" / f"{name}.png")
    labels(tmp_path, "\n", "labels/b.txt")
    labels(tmp_path, b"\xff\xfe\xfa", "labels/c.txt")
    labels(tmp_path, "0 0.5 0.5 0.2 0.2\n", "labels/d.txt")
    source = yolo(tmp_path, exhaustive=("nodule",))
    assert len(source) == 4
    assert refusal(source, 0).reason == "no_annotation_file"
    empty = source.read(1)
    assert (empty.annotations, empty.label_scope, empty.image_labels) == ((), ("nodule",), {"nodule": "absent"})
    assert refusal(source, 2).reason == "annotation_file_unreadable"
    lost = refusal(source, 3)
    assert lost.reason == "image_missing"
    assert "annotations lost with it: 1" in lost.detail


@pytest.mark.parametrize(
    ("image_name", "label_name"),
    [
        ("images/{}/a.png", "labels/{}/a.txt"),
        ("{}/images/a.jpg", "{}/labels/a.txt"),
        ("images/{}/site/A.png", "labels/{}/site/a.txt"),
    ],
)
def test_layouts_give_the_official_split(tmp_path: Path, image_name: str, label_name: str) -> None:
    found = {}
    for split, word in (("train", "train"), ("val", "valid"), ("test", "Test")):
        picture(tmp_path / "d" / image_name.format(word))
        labels(tmp_path / "d", "0 0.5 0.5 0.2 0.2\n", label_name.format(word))
        found[split] = word
    labels(tmp_path / "d", "names: [Nodule]\n", "data.yaml")
    source = YoloSource(tmp_path / "d", tmp_path / "d", options())
    images = [source.read(index) for index in range(len(source))]
    assert sorted(image.official_split or "" for image in images) == sorted(found)
    assert len({image.key for image in images}) == 3
    assert pickle.loads(pickle.dumps(source)).read(0).annotations == images[0].annotations


def test_pictures_and_label_files_that_share_a_name(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "a.bmp")
    assert refusal(yolo(tmp_path, "0 0.5 0.5 0.2 0.2\n")).reason == "image_name_ambiguous"
    labels(tmp_path, "", "labels/labels/a.txt")
    assert refusal(yolo(tmp_path)).reason == "annotation_file_ambiguous"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("classes.txt", "", r"classes\.txt: no class names"),
        ("classes.txt", "a\n\nb\n", r"classes\.txt: class 1 has no name"),
        ("classes.txt", "a\nb\na\n", r"classes\.txt: classes 0 and 2 have one name"),
        ("data.yaml", "nc: 2\n", r"data\.yaml: no `names:`"),
        ("data.yaml", "names: [a, [b]]\n", r"data\.yaml: names: 1: expected a class number"),
        ("data.yaml", "names: {a: b}\n", r"data\.yaml: names: a: expected a class number"),
        ("data.yaml", "names: [a\n", r"data\.yaml:\d: not YAML"),
        ("data.yaml", "names: !!python/object:os.system [a]\n", r"data\.yaml"),
        ("data.yaml", "names: [a]\nkpt_shape: [17, 3]\n", r"data\.yaml: kpt_shape"),
    ],
)
def test_faults_of_the_names_file(tmp_path: Path, name: str, text: str, said: str) -> None:
    picture(tmp_path / "images" / "a.png")
    labels(tmp_path, "0 0.5 0.5 0.2 0.2\n")
    labels(tmp_path, text, name)
    if "python/object" in text:  # a tag makes no object: it is read as the plain list
        assert YoloSource(tmp_path / "labels", tmp_path / "images", options()).read(0).annotations[0].lesion_class == "a"
        return
    with pytest.raises(ValueError, match=said):
        YoloSource(tmp_path / "labels", tmp_path / "images", options(classes=tmp_path / name))


@pytest.mark.parametrize("text", ["names:\n  0: no\n  1: Mass\n", "names: ['no', Mass]\n", "names: [no, Mass]\n"])
def test_names_as_list_or_numbers_stay_text(tmp_path: Path, text: str) -> None:
    labels(tmp_path, text, "d.yaml")
    source = yolo(tmp_path, "0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.1 0.1\n", classes=tmp_path / "d.yaml")
    assert [one.lesion_class for one in source.read(0).annotations] == ["no", "mass"]


def test_whole_set_faults(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    with pytest.raises(ValueError, match="labels: no such folder: give --annotations"):
        YoloSource(tmp_path / "labels", tmp_path / "images", options())
    (tmp_path / "labels").mkdir()
    with pytest.raises(ValueError, match=r"no data\.yaml or .* give the class names with --classes"):
        YoloSource(tmp_path / "labels", tmp_path / "images", options())
    with pytest.raises(ValueError, match=r"no \.txt file"):
        yolo(tmp_path)
    with pytest.raises(ValueError, match="did you mean nodule"):
        yolo(tmp_path, "", exhaustive=("nodul",))
