"""CVAT for images as the tool writes it: one test per habit on files made here."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from medclm.corpus.sources.cvat import CvatSource
from medclm.types import Box
from tests.source_files import HEIGHT, WIDTH, options, picture, refusal

BOX = '<box label="Nodule" occluded="1" xtl="5.0" ytl="6.0" xbr="12.0" ybr="14.0" z_order="0">{}</box>'


def cvat(root: Path, *shapes: str, images: str | None = None, head: str = "", **declared: object) -> CvatSource:
    picture(root / "images" / "a.png")
    image = f'<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}" subset="Train">{"".join(shapes)}</image>'
    labels = "<meta><task><labels><label><name>Nodule</name></label><label><name>Big_Mass</name></label></labels></task></meta>"
    text = f"{head}<annotations><version>1.1</version>{labels}{images if images is not None else image}</annotations>"
    (root / "annotations.xml").write_text(text, encoding="utf-8")
    return CvatSource(root / "annotations.xml", root / "images", options(**declared))


def runs_of(mask: np.ndarray) -> str:
    """A mask's rectangle row by row, the first run outside, as CVAT writes it."""
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return ", ".join(map(str, [0, *lengths] if flat[0] else lengths))


def test_boxes_polygons_and_masks(tmp_path: Path) -> None:
    inner = np.zeros((8, 7), dtype=bool)
    inner[0, 2:5] = inner[3:, :] = True
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[6:14, 5:12] = inner
    polygon = '<polygon label="Big_Mass" points="5.0,6.0;12.0,6.0;12.0,14.0;5.0,14.0"></polygon>'
    mask = f'<mask label="Nodule" rle="{runs_of(inner)}" left="5" top="6" width="7" height="8"/>'
    image = cvat(tmp_path, BOX, polygon, mask).read(0)
    assert image.rejects == ()
    assert [(one.lesion_class, one.box_px) for one in image.annotations] == [
        ("nodule", Box(5, 6, 12, 14)),
        ("big mass", Box(5, 6, 12, 14)),
        ("nodule", Box(5, 6, 12, 14)),
    ]
    square = np.zeros((HEIGHT, WIDTH), dtype=bool)
    square[6:14, 5:12] = True
    assert image.annotations[0].mask is None
    np.testing.assert_array_equal(image.annotations[1].mask, square)
    np.testing.assert_array_equal(image.annotations[2].mask, expected)
    assert (image.index, image.key, image.official_split, image.label_scope) == ("images[0]", "a.png", "train", ())


def test_a_mask_that_starts_inside_has_a_first_run_of_zero(tmp_path: Path) -> None:
    inner = np.ones((2, 3), dtype=bool)
    inner[1, 2] = False
    (found,) = (
        cvat(tmp_path, f'<mask label="Nodule" rle="{runs_of(inner)}" left="0" top="0" width="3" height="2"/>')
        .read(0)
        .annotations
    )
    assert runs_of(inner) == "0, 5, 1"
    assert found.mask is not None
    np.testing.assert_array_equal(found.mask[:2, :3], inner)
    assert found.mask.sum() == 5


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ('<box label="Nodule" xtl="5" ytl="6" xbr="12" ybr="14" rotation="30.5"/>', "box_rotated"),
        ('<box label="Nodule" outside="1" xtl="5" ytl="6" xbr="12" ybr="14"/>', "outside"),
        ('<box label="Nodule" xtl="5" ytl="6" xbr="5" ybr="14"/>', "box_zero_area"),
        ('<box label="Nodule" xtl="x" ytl="6" xbr="5" ybr="14"/>', "box_unreadable"),
        ('<box label="Nodule" ytl="6" xbr="5" ybr="14"/>', "box_unreadable"),
        ('<box label="Nodule" xtl="nan" ytl="6" xbr="5" ybr="14"/>', "box_not_finite"),
        ('<box label=" " xtl="5" ytl="6" xbr="12" ybr="14"/>', "class_missing"),
        ('<polygon label="Nodule" points="5,6;12,6"/>', "mask_unreadable"),
        ('<polygon label="Nodule" points="5,6;12,6;a,b"/>', "mask_unreadable"),
        ('<polygon label="Nodule" points="5,6;12,6;1,2,3"/>', "mask_unreadable"),
        ('<polygon label="Nodule" points="5,6;12,6;inf,9"/>', "mask_unreadable"),
        ('<polygon label="Nodule"/>', "mask_unreadable"),
        ('<mask label="Nodule" rle="1, 2" left="5" top="6" width="3" height="2"/>', "mask_unreadable"),
        ('<mask label="Nodule" rle="1, -2, 7" left="5" top="6" width="3" height="2"/>', "mask_unreadable"),
        ('<mask label="Nodule" rle="6" left="5" top="6" width="3" height="2"/>', "mask_empty"),
        ('<mask label="Nodule" rle="0, 6" left="38" top="6" width="3" height="2"/>', "mask_size"),
        ('<mask label="Nodule" rle="0, 6" left="-1" top="6" width="3" height="2"/>', "mask_size"),
        ('<mask label="Nodule" rle="" left="5" top="6" width="3" height="2"/>', "mask_unreadable"),
        ('<mask label="Nodule" rle="0, 6" left="5" top="6"/>', "mask_unreadable"),
        ('<ellipse label="Nodule" cx="5" cy="6" rx="2" ry="2"/>', "shape_unsupported"),
        ('<polyline label="Nodule" points="1,2;3,4"/>', "shape_unsupported"),
        ('<points label="Nodule" points="1,2"/>', "shape_unsupported"),
        ('<cuboid label="Nodule"/>', "shape_unsupported"),
        ('<skeleton label="Nodule"/>', "shape_unsupported"),
    ],
)
def test_a_bad_shape_is_named_and_the_rest_goes_on(tmp_path: Path, shape: str, reason: str) -> None:
    image = cvat(tmp_path, BOX, shape).read(0)
    assert [(reject.index, reject.reason) for reject in image.rejects] == [("images[0].annotations[1]", reason)]
    assert len(image.annotations) == 1


def test_tags_are_labels_of_the_picture_and_attributes_may_name_a_lesion(tmp_path: Path) -> None:
    shapes = [
        '<tag label="Big_Mass"/>',
        BOX.format('<attribute name="track">7</attribute><attribute name="x"> </attribute>'),
        BOX,
    ]
    image = cvat(tmp_path, *shapes, exhaustive=("nodule", "big mass"), lesion_3d_field="track").read(0)
    assert [one.lesion_3d for one in image.annotations] == ["7", None]
    assert image.image_labels == {"big mass": "present", "nodule": "present"}
    assert image.label_scope == ("nodule",)  # the mass is there without a box: neither absent nor countable
    with pytest.raises(ValueError, match="--lesion-3d-field trak: no shape has this attribute"):
        cvat(tmp_path, *shapes, lesion_3d_field="trak")


def test_images_of_a_file(tmp_path: Path) -> None:
    entries = [
        f'<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}" subset="default">{BOX}</image>',
        f'<image id="1" name="A.png" width="{WIDTH}" height="{HEIGHT}">{BOX}{BOX}</image>',
        '<image id="2" name="../a.png"/>',
        '<image id="3" name="absent.png"/>',
        '<image id="4"/>',
        '<image id="5" name="b.png" width="80" height="60"/>',
    ]
    picture(tmp_path / "images" / "b.png")
    source = cvat(tmp_path, images="".join(entries), exhaustive=("nodule",))
    first = source.read(0)
    assert (first.official_split, first.label_scope) == (None, ())  # boxes of this picture stand at the other entry
    assert [refusal(source, place).reason for place in range(1, 6)] == [
        "duplicate_image_file",
        "path_outside_root",
        "image_missing",
        "image_missing",
        "size_mismatch",
    ]
    assert "annotations lost with it: 2" in refusal(source, 1).detail
    assert pickle.loads(pickle.dumps(source)).read(0).annotations == first.annotations


@pytest.mark.parametrize(
    ("images", "head", "said"),
    [
        ("<track id='0'/>", "", "CVAT for video"),
        ("", "", "no <image>"),
        ("<image>", "", r"annotations\.xml:\d+:\d+: not well-formed"),
        ("", '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]>', "need no entities"),
        ("", '<?xml version="1.0" encoding="nonsense"?>', "save the file as UTF-8"),
    ],
)
def test_whole_file_faults_name_file_and_cure(tmp_path: Path, images: str, head: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cvat(tmp_path, images=images, head=head)


def test_other_files_and_mistyped_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean nodule"):
        cvat(tmp_path, BOX, exhaustive=("nodul",))
    (tmp_path / "annotations.xml").write_text("<annotation/>")
    with pytest.raises(ValueError, match="outermost element is not <annotations>"):
        CvatSource(tmp_path / "annotations.xml", tmp_path, options())
    with pytest.raises(ValueError, match=r"absent\.xml: No such file"):
        CvatSource(tmp_path / "absent.xml", tmp_path, options())
