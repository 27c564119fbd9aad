"""Volume files -> voxels in patient axes: SimpleITK and nibabel as oracles, and every reason for which a header is refused."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medclm.corpus.contract import RejectedImage
from medclm.corpus.volumes.files import open_volume
from medclm.corpus.volumes.volume import Grid, patient_axes, to_lps

sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK as the oracle")
VALUES = np.random.default_rng(0).integers(-1000, 1000, (7, 6, 5)).astype(np.int16)
DIRECTIONS = {
    "identity": np.eye(3),
    "both mirrored": np.diag([-1.0, -1.0, 1.0]),
    "axes swapped": np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "20 degrees": np.array([[np.cos(0.35), -np.sin(0.35), 0.0], [np.sin(0.35), np.cos(0.35), 0.0], [0.0, 0.0, 1.0]]),
}


def nifti(path: Path, values: np.ndarray = VALUES, affine: np.ndarray | None = None, **fields: Any) -> Path:
    """A NIfTI file; fields of its header are set by name behind the writer's back."""
    image = nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine)
    nibabel.save(image, path)
    for name, value in fields.items():
        raw = bytearray(path.read_bytes())
        header = nibabel.Nifti1Header(bytes(raw[:348]), check=False)
        header[name] = value
        raw[:348] = header.binaryblock
        path.write_bytes(bytes(raw))
    return path


def refusal(path: Path, **limits: Any) -> RejectedImage:
    with pytest.raises(RejectedImage) as caught:
        open_volume(path, **limits).read()
    assert path.name not in caught.value.detail
    return caught.value


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize(
    ("file", "compressed"),
    [
        *((file, packed) for file in ("a.mha", "a.mhd", "a.nrrd") for packed in (False, True)),
        ("a.nii", False),
        ("a.nii.gz", True),
    ],
)
def test_every_format_gives_the_voxels_that_itk_turns_to_lps(tmp_path: Path, name: str, file: str, compressed: bool) -> None:
    image = sitk.GetImageFromArray(VALUES.transpose(2, 1, 0))
    image.SetSpacing((0.5, 0.6, 2.0))
    image.SetOrigin((1.0, -2.0, 3.0))
    image.SetDirection(DIRECTIONS[name].ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / file), compressed)
    oracle = sitk.DICOMOrient(image, "LPS")
    found = open_volume(tmp_path / file)
    values = found.read()
    np.testing.assert_array_equal(values, sitk.GetArrayFromImage(oracle).transpose(2, 1, 0))
    assert found.grid.affine is not None
    for index in ((0, 0, 0), (3, 1, 2)):
        position = found.grid.affine @ np.array([*index, 1.0])
        np.testing.assert_allclose(position[:3], oracle.TransformIndexToPhysicalPoint(index), atol=1e-4)
    np.testing.assert_allclose(found.grid.spacing_mm or (), oracle.GetSpacing(), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_types_and_byte_orders_of_nifti_survive(tmp_path: Path, dtype: str, order: str) -> None:
    values = np.abs(VALUES).astype(np.dtype(dtype).newbyteorder(order)) % 200
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(values.dtype)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]), header), tmp_path / "a.nii")
    found = open_volume(tmp_path / "a.nii").read()
    np.testing.assert_array_equal(found, values)
    assert found.dtype.isnative


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", affine=np.diag([-1.0, -1.0, 1.0, 1.0]), scl_slope=2.0, scl_inter=-1024.0)
    np.testing.assert_allclose(open_volume(path).read(), VALUES * 2.0 - 1024.0)


def test_nifti_2_and_a_fourth_axis_of_one_are_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(VALUES[..., None], np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(open_volume(tmp_path / "a.nii.gz").read(), VALUES)


def test_metres_and_microns_become_millimetres(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", affine=np.diag([0.002, 0.003, 0.004, 1.0]), xyzt_units=1)
    np.testing.assert_allclose(open_volume(path).grid.spacing_mm or (), (2.0, 3.0, 4.0), rtol=1e-6)


def test_without_a_form_the_orientation_is_unknown_and_nothing_is_turned(tmp_path: Path) -> None:
    found = open_volume(nifti(tmp_path / "a.nii", sform_code=0, qform_code=0))
    assert found.grid.affine is None
    assert found.grid.spacing_mm == (2.0, 3.0, 4.0)
    np.testing.assert_array_equal(found.read(), VALUES)


def test_a_spacing_that_nobody_wrote_is_unknown(tmp_path: Path) -> None:
    found = open_volume(nifti(tmp_path / "a.nii", affine=np.eye(4), sform_code=0, qform_code=0))
    assert found.grid.spacing_mm is None


def test_forms_that_name_other_axes_are_refused_and_turned_ones_are_not(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, np.diag([2.0, 3.0, 4.0, 1.0]))
    image.set_qform(np.diag([-2.0, 3.0, 4.0, 1.0]), code=1)
    image.set_sform(np.diag([2.0, 3.0, 4.0, 1.0]), code=2)
    nibabel.save(image, tmp_path / "a.nii")
    assert refusal(tmp_path / "a.nii").reason == "orientation_disagrees"
    turned = np.eye(4)
    turned[:3, :3] = DIRECTIONS["20 degrees"] * [2.0, 3.0, 4.0]
    image.set_qform(turned, code=1)
    image.set_sform(np.diag([2.0, 3.0, 4.0, 1.0]), code=4)
    nibabel.save(image, tmp_path / "b.nii")
    affine = open_volume(tmp_path / "b.nii").grid.affine
    assert affine is not None
    assert abs(affine[0, 1]) > 0.5, "the scanner's form goes before an atlas's"


def _header_only(shape: tuple[int, ...], dtype: str = "int16") -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.dtype(dtype))
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["sform_code"], header["srow_x"], header["srow_y"], header["srow_z"] = 1, (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)
    return header.binaryblock + bytes(4)


def test_a_gzip_bomb_is_refused_by_its_header_and_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(_header_only((30000, 30000, 3000))))
    assert refusal(tmp_path / "a.nii.gz").reason == "volume_too_large"
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(_header_only((700, 700, 700), "float64")))
    assert refusal(tmp_path / "b.nii.gz").reason == "volume_truncated", "no 400 bytes unpack to 2.7 GB: nothing is set aside"
    (tmp_path / "c.nii").write_bytes(_header_only((40, 40, 40)))
    assert refusal(tmp_path / "c.nii").reason == "volume_truncated"
    assert refusal(tmp_path / "c.nii", max_voxels=1000).reason == "volume_too_large"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dim": [4, 7, 6, 5, 3, 1, 1, 1]}, "volume_4d"),
        ({"dim": [3, 7, 0, 5, 1, 1, 1, 1]}, "volume_shape"),
        ({"dim": [3, 7, -6, 5, 1, 1, 1, 1]}, "volume_shape"),
        ({"datatype": 128}, "volume_dtype"),
        ({"datatype": 32, "bitpix": 64}, "volume_dtype"),
        ({"datatype": 9999}, "volume_header"),
        ({"vox_offset": np.nan}, "volume_header"),
        ({"vox_offset": 1e12}, "volume_header"),
        ({"magic": b"xxx"}, "volume_unreadable"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "affine_not_finite"),
        ({"srow_x": [0, 0, 0, 0]}, "spacing_disagrees"),
        ({"srow_x": [0, 0, 0, 0], "srow_y": [2, 3, 0, 0]}, "affine_singular"),
        ({"pixdim": [1, 1, 1, 1, 0, 0, 0, 0]}, "spacing_disagrees"),
    ],
)
def test_each_fault_of_a_nifti_header_has_its_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    assert refusal(nifti(tmp_path / "zebra.nii", **change)).reason == reason


def test_a_flipped_byte_in_compressed_voxels_is_found_by_the_checksum(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.mha", "a.nrrd"):
        image = sitk.GetImageFromArray(VALUES)
        sitk.WriteImage(image, str(tmp_path / name), True)
        raw = bytearray((tmp_path / name).read_bytes())
        raw[-40] ^= 0x10
        (tmp_path / name).write_bytes(bytes(raw))
        assert refusal(tmp_path / name).reason in ("volume_unreadable", "volume_truncated"), name


MHD = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
AnatomicalOrientation = RAI
ElementSpacing = 1 1 2
DimSize = 7 6 5
ElementType = MET_SHORT
ElementDataFile = voxels.raw
"""


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("voxels.raw", "../voxels.raw", "volume_data_elsewhere"),
        ("voxels.raw", "/etc/hostname", "volume_data_elsewhere"),
        ("voxels.raw", "LIST", "volume_data_elsewhere"),
        ("voxels.raw", "slice%03d.raw 1 5 1", "volume_data_elsewhere"),
        ("voxels.raw", "other.raw", "volume_missing"),
        ("= RAI", "= LAI", "orientation_disagrees"),
        ("MET_SHORT", "MET_SHORT_ARRAY", "volume_dtype"),
        ("DimSize = 7 6 5", "DimSize = 7 6 50", "volume_truncated"),
        ("DimSize = 7 6 5", "DimSize = 7 6 many", "volume_header"),
        ("DimSize = 7 6 5", "DimSize = 70000 60000 50000", "volume_too_large"),
        ("TransformMatrix = 1 0 0 0 1 0 0 0 1", "TransformMatrix = 1 0 0 1 0 0 0 0 1", "affine_singular"),
        ("TransformMatrix = 1 0 0 0 1 0 0 0 1", "TransformMatrix = 1 0 0 0 1 0 0 0", "volume_header"),
        ("ElementSpacing = 1 1 2", "ElementSpacing = 1 1 nan", "affine_not_finite"),
        ("CompressedData = False", "CompressedData = True", "volume_unreadable"),
        ("BinaryData = True", "BinaryData = False", "volume_header"),
        ("NDims = 3", "ElementNumberOfChannels = 3", "volume_4d"),
        ("ElementDataFile", "ElementData", "volume_header"),
    ],
)
def test_each_fault_of_a_metaimage_header_has_its_reason(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in MHD
    (tmp_path / "voxels.raw").write_bytes(VALUES.tobytes(order="F"))
    (tmp_path / "zebra.mhd").write_text(MHD.replace(old, new))
    assert refusal(tmp_path / "zebra.mhd").reason == reason


def test_a_metaimage_without_a_matrix_has_no_orientation(tmp_path: Path) -> None:
    (tmp_path / "voxels.raw").write_bytes(VALUES.tobytes(order="F"))
    (tmp_path / "a.mhd").write_text(
        "\n".join(line for line in MHD.splitlines() if not line.startswith("TransformMatrix")) + "\n"
    )
    found = open_volume(tmp_path / "a.mhd")
    assert found.grid.affine is None
    assert found.grid.spacing_mm == (1.0, 1.0, 2.0)
    np.testing.assert_array_equal(found.read(), VALUES)


NRRD = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 7 6 5
space directions: (1,0,0) (0,1,0) (0,0,2)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (0,0,0)
Segment0_Name:=liver
Segment0_LabelValue:=3

"""


def nrrd(path: Path, header: str = NRRD) -> Path:
    path.write_bytes(header.encode() + VALUES.tobytes(order="F"))
    return path


@pytest.mark.parametrize("space", ["right-anterior-superior", "LAS", "left-posterior-inferior", "LPS"])
def test_nrrd_spaces_are_turned_to_lps(tmp_path: Path, space: str) -> None:
    found = open_volume(nrrd(tmp_path / "a.nrrd", NRRD.replace("left-posterior-superior", space)))
    letters = "".join(word[0].upper() for word in space.split("-")) if "-" in space else space
    mirrored = tuple(slice(None, None, 1 if letter in "LPS" else -1) for letter in letters)
    np.testing.assert_array_equal(found.read(), VALUES[mirrored])
    assert found.names == {3: "liver"}


@pytest.mark.parametrize("line", ["space: scanner-xyz", "space dimension: 3", "space: 3D-left-handed"])
def test_a_nrrd_space_that_is_no_patients_gives_no_orientation(tmp_path: Path, line: str) -> None:
    found = open_volume(nrrd(tmp_path / "a.nrrd", NRRD.replace("space: left-posterior-superior", line)))
    assert found.grid.affine is None
    assert found.grid.spacing_mm == (1.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("NRRD0004", "JPEG0004", "volume_unreadable"),
        ("type: short", "type: block", "volume_dtype"),
        ("encoding: raw", "encoding: hex", "volume_header"),
        ("encoding: raw", "encoding: gzip", "volume_unreadable"),
        ("endian: little\n", "", "volume_header"),
        ("dimension: 3", "dimension: 4", "volume_header"),
        ("kinds: domain", "byte skip: 10\nkinds: domain", "volume_header"),
        ("kinds: domain", "data file: ../x.raw\nkinds: domain", "volume_data_elsewhere"),
        ("sizes: 7 6 5", "sizes: 7 6 6", "volume_truncated"),
        ("(0,0,2)", "(0,0,inf)", "affine_not_finite"),
        ("(0,0,2)", "(0,1,0)", "affine_singular"),
        ("(0,0,2)", "(0,0)", "volume_header"),
    ],
)
def test_each_fault_of_a_nrrd_header_has_its_reason(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in NRRD
    assert refusal(nrrd(tmp_path / "zebra.nrrd", NRRD.replace(old, new, 1))).reason == reason


def test_segments_in_layers_are_refused(tmp_path: Path) -> None:
    header = NRRD.replace("dimension: 3", "dimension: 4").replace("sizes: 7 6 5", "sizes: 7 6 5 1")
    layers = header.replace("sizes: 7 6 5 1", "sizes: 7 2 3 5").replace("directions: ", "directions: none ")
    assert refusal(nrrd(tmp_path / "zebra.nrrd", layers)).reason == "volume_4d"
    one = header.replace("sizes: 7 6 5 1", "sizes: 1 7 6 5").replace("directions: ", "directions: none ")
    np.testing.assert_array_equal(open_volume(nrrd(tmp_path / "a.nrrd", one)).read(), VALUES)


def test_other_endings_and_missing_files_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "zebra.img").reason == "volume_format"
    assert refusal(tmp_path / "zebra.nii").reason == "volume_missing"
    (tmp_path / "zebra.nii").write_bytes(struct.pack("<i", 348))
    assert refusal(tmp_path / "zebra.nii").reason == "volume_truncated"


def test_ras_to_lps_mirrors_two_axes_and_nothing_else() -> None:
    affine = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [0, 0, 0, 1]])
    np.testing.assert_array_equal(to_lps(affine), affine * np.array([[-1.0], [-1], [1], [1]]))
    np.testing.assert_array_equal(to_lps(affine, "LPS"), affine)


@pytest.mark.parametrize(("degrees", "oblique"), [(0, False), (29, False), (31, True), (59, True), (61, False), (90, False)])
def test_a_volume_turned_beyond_thirty_degrees_is_oblique(degrees: float, oblique: bool) -> None:
    angle = np.radians(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    _, grid = patient_axes((4, 5, 6), affine, None)
    assert grid.oblique is oblique


def test_grids_are_the_same_within_a_quarter_voxel() -> None:
    def moved(by: float) -> Grid:
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[0, 3] = by
        return patient_axes((4, 5, 6), affine, None)[1]

    assert moved(0).same_as(moved(0.4))
    assert not moved(0).same_as(moved(0.6))
    assert not moved(0).same_as(Grid((4, 5, 6), (2.0, 2.0, 2.0), None))
    assert Grid((4, 5, 6), None, None).same_as(Grid((4, 5, 6), None, None))


def test_reading_leaves_no_file_open(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        open_volume(path).read()
    assert len(os.listdir("/proc/self/fd")) == before
