"""LUNA16: spheres in patient millimetres -> masks and boxes, negatives, agreement, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medclm.corpus.contract import SourceImage
from medclm.corpus.sources.luna import LunaSource
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.registry import open_source
from medclm.corpus.volumes.spheres import sphere
from medclm.corpus.volumes.volume import patient_axes

SHAPE, SPACING, OFFSET = (40, 36, 30), (0.8, 0.8, 2.5), (-20.0, -10.0, -50.0)
HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm"


def volume(folder: Path, series: str, mirrored: bool = False, seed: int = 0) -> None:
    """A chest-like CT; mirrored = both axes of the slice stored the other way round."""
    values = np.random.default_rng(seed).integers(-900, 100, SHAPE).astype("<i2")
    sign = -1 if mirrored else 1
    folder.mkdir(parents=True, exist_ok=True)
    if mirrored:
        values = values[::-1, ::-1]
    ends = [OFFSET[axis] + (SHAPE[axis] - 1) * SPACING[axis] for axis in (0, 1)] if mirrored else OFFSET[:2]
    (folder / f"{series}.raw").write_bytes(values.tobytes(order="F"))
    lines = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "TransformMatrix": f"{sign} 0 0 0 {sign} 0 0 0 1",
        "Offset": f"{ends[0]} {ends[1]} {OFFSET[2]}",
        "AnatomicalOrientation": "LPI" if mirrored else "RAI",
        "ElementSpacing": " ".join(map(str, SPACING)),
        "DimSize": " ".join(map(str, SHAPE)),
        "ElementType": "MET_SHORT",
        "ElementDataFile": f"{series}.raw",
    }
    (folder / f"{series}.mhd").write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))


def made(folder: Path, *rows: str, header: str = HEADER, **declared: Any) -> LunaSource:
    volume(folder / "scans" / "subset0", "1.2.3")
    (folder / "annotations.csv").write_text("\n".join((header, *rows)) + "\n")
    return LunaSource(folder / "annotations.csv", folder / "scans", SourceOptions(name="luna", **declared))


def images(source: LunaSource) -> list[SourceImage]:
    return [source.read(index) for index in range(len(source))]


def test_a_sphere_holds_the_voxels_that_a_loop_in_millimetres_finds() -> None:
    angle = np.radians(15)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]) * [
        0.8,
        0.9,
        2.0,
    ]
    affine[:3, 3] = OFFSET
    _, grid = patient_axes((30, 31, 32), affine, None)
    assert grid.affine is not None
    for spot, diameter in (((15.2, 14.9, 16.1), 9.0), ((0.0, 0.0, 0.0), 12.0), ((15.5, 14.5, 16.5), 0.1), ((29, 30, 31), 5.0)):
        middle = grid.affine @ np.array([*spot, 1.0])
        found = sphere(grid, (middle[0], middle[1], middle[2]), diameter)
        assert found is not None
        inside = np.zeros(grid.shape, bool)
        inside[found.place] = found.inside
        expected = np.zeros(grid.shape, bool)
        for index in np.ndindex(grid.shape):
            position = grid.affine @ np.array([*index, 1.0])
            expected[index] = np.linalg.norm(position[:3] - middle[:3]) <= diameter / 2
        expected[tuple(round(at) for at in spot)] |= not expected.any()
        np.testing.assert_array_equal(inside, expected)
        assert found.inside.any()
    assert sphere(grid, (500.0, 0.0, 0.0), 5.0) is None


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_nodule_lies_at_its_patient_position_however_the_volume_is_stored(tmp_path: Path, mirrored: bool) -> None:
    volume(tmp_path / "scans", "s", mirrored)
    (tmp_path / "annotations.csv").write_text(f"{HEADER}\ns,-8.0,2.0,-25.0,8.0\n")
    source = LunaSource(tmp_path / "annotations.csv", tmp_path / "scans", SourceOptions(name="luna", slices=0))
    (image,) = images(source)
    (nodule,) = image.annotations
    x0, y0, x1, y1 = nodule.box_px
    assert abs((x0 + x1) / 2 * 0.8 + OFFSET[0] - 0.4 - -8.0) <= 0.4
    assert abs((y0 + y1) / 2 * 0.8 + OFFSET[1] - 0.4 - 2.0) <= 0.4
    assert abs((x1 - x0) * 0.8 - 8.0) <= 0.81
    assert image.index == "volumes[0].slices[10]", "-50 + 10 x 2.5 = -25"
    assert (image.plane, image.patient_directions, image.modality) == ("axial", "L\\P", "CT")
    assert image.window == (-600, 1500)
    assert image.patient == "s"
    assert nodule.lesion_class == "lung nodule"
    assert image.intensity is not None
    values = np.random.default_rng(0).integers(-900, 100, SHAPE)
    np.testing.assert_array_equal(image.intensity, values[:, :, 10].T)


def test_more_slices_are_five_millimetres_apart_in_the_middle_of_the_nodule(tmp_path: Path) -> None:
    source = made(tmp_path, "1.2.3,-8,2,-12.5,25", slices=3)
    assert [image.index for image in images(source)] == [f"volumes[0].slices[{at}]" for at in (11, 13, 15, 17)]
    assert len({one.lesion_3d for image in images(source) for one in image.annotations}) == 1


def test_scans_without_a_row_are_negatives_once_that_was_declared(tmp_path: Path) -> None:
    volume(tmp_path / "scans" / "subset1", "4.5.6", seed=1)
    row = "1.2.3,-8,2,-12.5,10"
    assert {image.patient for image in images(made(tmp_path, row))} == {"1.2.3"}
    source = made(tmp_path, row, exhaustive=("lung nodule",), slices=0)
    found = images(source)
    assert [len(image.annotations) for image in found if image.patient == "4.5.6"] == [0, 0, 0, 0]
    assert all(image.label_scope == ("lung nodule",) for image in found)
    assert all(image.window == (-600, 1500) for image in found), "the window does not give the answer away"


def test_readers_of_four_become_the_agreement(tmp_path: Path) -> None:
    rows = ("1.2.3,-8,2,-12.5,10,3", "1.2.3,0,10,-12.5,10,")
    (image,) = images(made(tmp_path, *rows, header=HEADER + ",readers", slices=0))
    assert sorted((one.agreement or 0) for one in image.annotations) == [0, 0.75]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1.2.3,-8,2,-12.5,0", "diameter_unreadable"),
        ("1.2.3,-8,2,-12.5,inf", "diameter_unreadable"),
        ("1.2.3,-8,2,-12.5,large", "diameter_unreadable"),
        ("1.2.3,-8,,-12.5,10", "coordinate_unreadable"),
        ("1.2.3,-8,2,999,10", "centre_outside"),
        ("7.8.9,-8,2,-12.5,10", "image_missing"),
    ],
)
def test_each_faulty_row_is_named_and_leaves_its_scan_without_negatives(tmp_path: Path, row: str, reason: str) -> None:
    source = made(tmp_path, "1.2.3,0,10,-12.5,10", row, exhaustive=("lung nodule",), slices=0)
    assert [(one.reason, one.index) for one in source.rejects] == [(reason, "rows[1]")]
    found = images(source)
    if reason == "image_missing":
        assert len(found) > 1
    else:
        assert [image.label_scope for image in found] == [()]


def test_readers_that_cannot_be_are_named(tmp_path: Path) -> None:
    rows = ("1.2.3,-8,2,-12.5,10,5", "1.2.3,0,10,-12.5,10,4")
    source = made(tmp_path, *rows, header=HEADER + ",readers")
    assert [one.reason for one in source.rejects] == ["agreement_unreadable"]


def test_two_files_of_a_series_and_volumes_without_orientation_are_named(tmp_path: Path) -> None:
    volume(tmp_path / "scans" / "a", "4.5.6")
    volume(tmp_path / "scans" / "b", "4.5.6")
    volume(tmp_path / "scans" / "a", "8.9")
    header = tmp_path / "scans" / "a" / "8.9.mhd"
    header.write_text("\n".join(line for line in header.read_text().splitlines() if "Matrix" not in line) + "\n")
    source = made(tmp_path, "1.2.3,0,10,-12.5,10")
    assert [one.reason for one in source.rejects] == ["image_name_ambiguous", "orientation_unknown"]


@pytest.mark.parametrize(
    ("header", "declared", "message"),
    [
        ("seriesuid,coordx,coordY,coordZ,diameter_mm", {}, "did you mean coordx"),
        (HEADER, {"exhaustive": ("nodule",)}, "is no class of this dataset"),
    ],
)
def test_mistakes_of_the_user_are_told(tmp_path: Path, header: str, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(tmp_path, "1.2.3,0,10,-12.5,10", header=header, **declared)


def test_the_registry_opens_it_and_refuses_what_it_does_not_read(tmp_path: Path) -> None:
    made(tmp_path, "1.2.3,0,10,-12.5,10")
    arguments = tmp_path / "annotations.csv", tmp_path / "scans"
    assert len(open_source("luna", *arguments, SourceOptions(name="luna"))) == 3
    with pytest.raises(ValueError, match="lesions"):
        open_source("luna", *arguments, SourceOptions(name="luna", lesions=("nodule",)))
    with pytest.raises(ValueError, match="no such folder"):
        open_source("luna", arguments[0], tmp_path / "nowhere", SourceOptions(name="luna"))
