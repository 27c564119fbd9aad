"""However a volume is stored, the same pictures, boxes and words: real CT and MR in four storage orders and three planes.

The oracle loops over stored voxels in patient millimetres with nibabel's affine; it knows nothing of turns, cuts or slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medclm.corpus.anatomy import link
from medclm.corpus.contract import SourceImage
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.volume import VolumeSource

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "totalseg_ct_mr"
ORDERS = ("RAS", "LPS", "LAS", "PSR")
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
SETS = {
    "ct": ("CT", "totalsegmentator", ("kidney left", "gallbladder", "spleen")),
    "mr": ("MR", "totalsegmentator_mr", ("kidney left", "spleen")),
}


def real(name: str) -> Path:
    path = REAL / name
    if not path.is_file():
        pytest.skip("needs the real data folder totalseg_ct_mr beside the project")
    return path


def stored_as(path: Path, order: str, out: Path) -> Path:
    image = nibabel.load(path)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(order)
    )
    turned = image.as_reoriented(turn)
    assert "".join(nibabel.aff2axcodes(turned.affine)) == order
    nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), turned.affine), out)
    return out


def opened(labels: Path, image: Path, name: str, plane: str | None, **more: Any) -> VolumeSource:
    modality, classes, lesions = SETS[name]
    declared = {"lesions": lesions, "classes": Path(classes), "slices": 1, "technique": "t1" if modality == "MR" else None}
    return VolumeSource(labels, image, SourceOptions(name="real", modality=modality, plane=plane, **{**declared, **more}))


def described(image: SourceImage) -> list[tuple[Any, ...]]:
    """Everything that may be said of the lesions of a picture."""
    linked = link(image, seed=0)
    return [
        (
            one.source.lesion_class,
            one.source.box_px,
            one.source.lesion_3d,
            one.organ,
            one.organ_relation,
            one.organ_score,
            one.facts,
        )
        for one in linked.annotations
    ]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("orders")
    return {
        (name, order): (
            stored_as(real(f"{name}_seg.nii.gz"), order, folder / f"{name}_{order}_seg.nii"),
            stored_as(real(f"{name}.nii.gz"), order, folder / f"{name}_{order}.nii"),
        )
        for name in SETS
        for order in ORDERS
    }


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", SETS)
def test_storage_order_changes_neither_pixels_nor_boxes_nor_words(
    stored: dict[tuple[str, str], tuple[Path, Path]], name: str, plane: str
) -> None:
    sources = {order: opened(*stored[name, order], name, plane) for order in ORDERS}
    first = sources["RAS"]
    assert len(first) >= 4
    words = [described(first.read(index)) for index in range(len(first))]
    for order, source in sources.items():
        assert len(source) == len(first)
        for index in range(len(first)):
            image, expected = source.read(index), first.read(index)
            np.testing.assert_array_equal(image.pixels, expected.pixels, err_msg=order)
            np.testing.assert_array_equal(image.intensity, expected.intensity)
            assert (image.plane, image.patient_directions) == (plane, expected.patient_directions)
            assert image.organ_heights == expected.organ_heights
            assert {name: mask.tobytes() for name, mask in image.organs.items()} == {
                name: mask.tobytes() for name, mask in expected.organs.items()
            }
            assert described(image) == words[index]
    said = {key for lesions in words for *_, facts in lesions for key in facts}
    assert "location" in said
    assert ("side" in said) is (plane != "sagittal")


def voxels_mm(labels: Any, value: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(index, patient LPS position in mm) of every voxel of a value."""
    values = np.asarray(labels.dataobj)
    for index in np.argwhere(values == value):
        ras = labels.affine @ np.array([*index, 1.0])
        yield index, ras[:3] * [-1, -1, 1]


@pytest.mark.parametrize("order", ["LAS", "PSR"])
@pytest.mark.parametrize("plane", PLANES)
def test_boxes_and_values_are_those_of_a_loop_over_voxels_in_patient_millimetres(
    stored: dict[tuple[str, str], tuple[Path, Path]], order: str, plane: str
) -> None:
    labels_path, image_path = stored["ct", order]
    labels, image = nibabel.load(labels_path), nibabel.load(image_path)
    positions = np.array([mm for _, mm in voxels_mm(labels, 3)])  # the left kidney
    corners = np.array(np.meshgrid(*((0, n - 1) for n in labels.shape))).reshape(3, -1)
    ends = (labels.affine[:3, :3] @ corners + labels.affine[:3, 3:]).T * [-1, -1, 1]
    low, high = ends.min(axis=0) - 1.5, ends.max(axis=0) + 1.5  # 3 mm voxels: outer faces of the volume
    x, y = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[plane]
    normal = PLANES[plane]
    source = opened(labels_path, image_path, "ct", plane, lesions=("kidney left",))
    for index in range(len(source)):
        picture = source.read(index)
        (kidney,) = picture.annotations
        at = int(picture.index.rpartition("[")[2].rstrip("]"))
        level = low[normal] + 3 * at + 1.5
        here = positions[np.abs(positions[:, normal] - level) < 0.1]
        left, right = here[:, x].min() - 1.5 - low[x], here[:, x].max() + 1.5 - low[x]
        if plane == "axial":
            top, bottom = here[:, y].min() - 1.5 - low[y], here[:, y].max() + 1.5 - low[y]
        else:  # y runs down from the head
            top, bottom = high[y] - here[:, y].max() - 1.5, high[y] - here[:, y].min() + 1.5
        np.testing.assert_allclose([side * 3 for side in kidney.box_px], [left, top, right, bottom], atol=1e-3)
        assert kidney.mask is not None
        assert np.count_nonzero(kidney.mask) == len(here)
        assert picture.intensity is not None
        inverse = np.linalg.inv(image.affine)
        for position in here[::37]:
            row = position[y] - low[y] if plane == "axial" else high[y] - position[y]
            column = position[x] - low[x]
            stored_index = np.rint(inverse @ np.array([-position[0], -position[1], position[2], 1.0]))[:3].astype(int)
            shown = picture.intensity[int(row // 3), int(column // 3)]
            assert shown == float(np.asarray(image.dataobj)[tuple(stored_index)])


def parts_mm(labels: Any, value: int) -> Iterator[list[np.ndarray]]:
    """Positions of each part of a value, by flood filling over the 26 neighbours of a voxel."""
    place = {tuple(int(at) for at in index): mm for index, mm in voxels_mm(labels, value)}
    while place:
        first, mm = place.popitem()
        heap, part = [first], [mm]
        while heap:
            one = heap.pop()
            for step in np.ndindex(3, 3, 3):
                near = tuple(a + b - 1 for a, b in zip(one, step, strict=True))
                if near in place:
                    part.append(place.pop(near))
                    heap.append(near)
        yield part


def levels_of(part: list[np.ndarray], more: int) -> list[float]:
    """Heights in mm of the slices that a lesion is shown on, by the rule as medicine says it."""
    levels = sorted(round(float(mm[2]), 1) for mm in part)
    middle = (levels[0] + levels[-1]) / 2
    ranked = sorted(set(levels), key=lambda level: (-levels.count(level), round(abs(level - middle), 1), level))
    chosen = ranked[:1]
    for level in ranked[1:]:
        central = abs(level - middle) <= 0.8 * (levels[-1] - levels[0] + 3) / 2 + 1e-3
        if len(chosen) <= more and central and all(abs(level - other) > 4.99 for other in chosen):
            chosen.append(level)
    return chosen


def test_the_slices_of_lesions_are_those_of_a_loop_over_their_voxels(
    stored: dict[tuple[str, str], tuple[Path, Path]],
) -> None:
    labels_path, image_path = stored["ct", "PSR"]
    classes = {"pancreas": 7, "portal vein and splenic vein": 64, "costal cartilages": 117, "kidney left": 3}
    source = opened(labels_path, image_path, "ct", None, lesions=tuple(classes), slices=2)
    image = nibabel.load(labels_path)
    parts = [part for value in classes.values() for part in parts_mm(image, value)]
    large = [part for part in parts if len(part) >= 8]
    expected = {level for part in large for level in levels_of(part, 2)}
    corners = ([a, b, c, 1] for a in (0, image.shape[0] - 1) for b in (0, image.shape[1] - 1) for c in (0, image.shape[2] - 1))
    bottom = min(float((image.affine @ corner)[2]) for corner in corners)
    numbers = [int(source.read(index).index.rpartition("[")[2].rstrip("]")) for index in range(len(source))]
    assert len(large) > len(classes)
    assert {round(bottom + 3 * number, 1) for number in numbers} == expected
    assert [reject.reason for reject in source.rejects] == ["lesion_too_small"] * (len(parts) - len(large))


def painted(tmp_path: Path, order: str, spots: dict[int, np.ndarray], radius_mm: float) -> tuple[Path, Path]:
    """The real CT with balls of new values at LPS positions, stored in that order."""
    labels = nibabel.load(real("ct_seg.nii.gz"))
    values = np.array(labels.dataobj)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij"), axis=-1)
    mm = (grid @ labels.affine[:3, :3].T + labels.affine[:3, 3]) * [-1, -1, 1]
    for value, spot in spots.items():
        values[np.linalg.norm(mm - spot, axis=-1) <= radius_mm] = value
    nibabel.save(nibabel.Nifti1Image(values, labels.affine), tmp_path / "painted.nii")
    return (
        stored_as(tmp_path / "painted.nii", order, tmp_path / f"{order}_seg.nii"),
        stored_as(real("ct.nii.gz"), order, tmp_path / f"{order}.nii"),
    )


def centre_of(value: int) -> np.ndarray:
    labels = nibabel.load(real("ct_seg.nii.gz"))
    return np.mean([mm for _, mm in voxels_mm(labels, value)], axis=0)


@pytest.mark.parametrize("order", ["LAS", "PSR"])
def test_a_lesion_painted_into_a_kidney_gets_its_side_and_its_part(tmp_path: Path, order: str) -> None:
    left, right = centre_of(3), centre_of(2)
    assert left[0] > right[0], "LPS: the left kidney lies at larger x"
    spots = {200: left + np.array([0, 0, 27]), 201: right + np.array([0, -17, 0])}  # upper pole; towards the front
    labels, image = painted(tmp_path, order, spots, 6.5)
    names = tmp_path / "names.json"
    kidneys = '"2": "kidney_right", "3": "kidney_left", "5": "liver", "1": "spleen"'
    names.write_text(f'{{{kidneys}, "200": "renal mass", "201": "kidney tumor"}}')
    found = {}
    for plane in PLANES:
        source = opened(labels, image, "ct", plane, lesions=("renal mass", "kidney tumor"), classes=names, slices=0)
        for index in range(len(source)):
            for one in link(source.read(index), seed=0).annotations:
                found[plane, one.source.lesion_class] = one.facts
    for (plane, lesion), facts in found.items():
        assert facts["organ"] == "kidney", (plane, lesion)
        if plane == "sagittal":
            assert "side" not in facts or facts["side"] == ("left" if lesion == "renal mass" else "right")
        else:
            assert facts["side"] == ("left" if lesion == "renal mass" else "right")
    assert found["axial", "renal mass"]["vertical"] == "superior", "from the height within the whole kidney"
    assert found["coronal", "renal mass"]["vertical"] == "superior"
    assert found["sagittal", "kidney tumor"]["depth"] == "anterior"
    assert found["axial", "kidney tumor"]["depth"] == "anterior"


def test_an_organ_that_leaves_the_volume_has_no_height(stored: dict[tuple[str, str], tuple[Path, Path]]) -> None:
    source = opened(*stored["ct", "LPS"], "ct", "axial")
    labels = nibabel.load(stored["ct", "LPS"][0])
    values = np.asarray(labels.dataobj)
    image = source.read(0)
    assert image.organ_heights
    cut_off = {"liver": 5, "autochthon left": 86, "colon": 20, "sacrum": 25, "aorta": 52}
    for name, value in cut_off.items():
        touches = bool((values[:, :, 0] == value).any() or (values[:, :, -1] == value).any())
        pictures = [source.read(index) for index in range(len(source))]
        with_organ = [picture for picture in pictures if name in picture.organs]
        assert all((name in picture.organ_heights) is not touches for picture in with_organ)
    assert all(0 < height < 1 for height in image.organ_heights.values())
