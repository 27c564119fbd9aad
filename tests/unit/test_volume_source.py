"""Volumes with label maps: organs, tones, pairing by name, and what is told of faulty input."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.registry import open_source
from medclm.corpus.sources.volume import VolumeSource
from medclm.corpus.volumes.cases import find_cases
from medclm.corpus.volumes.files import ENDINGS
from medclm.corpus.volumes.tones import tone_of
from tests.volume_files import RAS, block, body, made, pictures, saved

# Organs and tones


def test_organs_come_from_the_label_map_a_second_one_single_masks_and_a_folder(tmp_path: Path) -> None:
    labels = block((1, 5, 15, 5, 15, 20, 36), (9, 18, 25, 5, 15, 10, 50))
    saved(tmp_path / "organs" / "second" / "case7.nii.gz", block((5, 2, 20, 2, 20, 2, 60)))
    saved(tmp_path / "organs" / "heart" / "case7_h.nii.gz", block((255, 2, 8, 2, 8, 2, 58)))
    saved(tmp_path / "organs" / "many" / "case7" / "lung_left.nii.gz", block((1, 2, 8, 2, 8, 2, 58)))
    saved(tmp_path / "organs" / "many" / "case7" / "spleen.nii.gz", block((1, 2, 8, 2, 8, 2, 58)))
    specs = ("labels:totalsegmentator=second/{stem}.nii.gz", "heart=heart/{stem}_h.nii.gz", "*=many/{stem}")
    missing = ("liver=nowhere/{stem}.nii.gz", "colon=wrong.nii.gz")
    saved(tmp_path / "organs" / "wrong.nii.gz", block((1, 2, 8, 2, 8, 2, 58), shape=(32, 24, 61)))
    source = made(tmp_path, labels, organs=(*specs, *missing), organ_root=tmp_path / "organs", slices=1)
    first, second = source.read(0), source.read(1)
    assert list(first.organs) == ["spleen", "liver", "heart", "lung left"]
    assert first.organs["liver"].sum() == 18 * 18
    assert set(first.organ_heights) == {"spleen", "heart", "lung left"}, "the liver reaches the last slice"
    reasons = [(reject.reason, reject.index) for reject in first.rejects]
    assert reasons == [
        ("organ_mask_duplicate", "volumes[0].organs[spleen]"),
        ("organ_mask_missing", "volumes[0].organs[liver]"),
        ("organ_mask_grid", "volumes[0].organs[colon]"),
    ]
    assert second.rejects == (), "what belongs to the volume is told once"


def test_organ_heights_are_for_axial_slices_alone(tmp_path: Path) -> None:
    labels = block((1, 5, 15, 5, 15, 20, 26), (9, 10, 25, 5, 15, 30, 50))
    for plane in ("coronal", "sagittal"):
        source = made(tmp_path / plane, labels, plane=plane, slices=0)
        assert all(not image.organ_heights for image in pictures(source).values())


def test_mr_is_shown_by_percentiles_of_its_foreground_and_measured_in_their_deviations(tmp_path: Path) -> None:
    values = np.zeros((32, 24, 60), np.int16)
    values[4:-4, 4:-4] = np.random.default_rng(0).integers(200, 800, (24, 16, 60))
    source = made(tmp_path, block((1, 5, 15, 5, 15, 20, 26)), values, modality="MR", technique="t1", window=None, slices=0)
    image = source.read(0)
    foreground = values[values > 0.1 * np.percentile(values, 99)].astype(np.float64)
    low, high = np.percentile(foreground, (0.5, 99.5))
    assert image.window == pytest.approx(((low + high) / 2, high - low))
    assert image.intensity is not None
    expected = (values[:, :, 22].T - foreground.mean()) / foreground.std()
    np.testing.assert_allclose(image.intensity, expected, atol=1e-4)
    assert (image.modality, image.technique) == ("MR", "t1")


def test_ct_is_measured_in_hounsfield_units_and_nan_is_nothing(tmp_path: Path) -> None:
    values = body().astype(np.float32)
    values[0, 0, :] = np.nan
    image = made(tmp_path, block((2, 5, 15, 5, 15, 20, 26)), values, slices=0).read(0)
    assert image.intensity is not None
    np.testing.assert_array_equal(image.intensity, values[:, :, 22].T)
    assert image.pixels[0, 0] == 0
    assert image.window == (60, 160)


@pytest.mark.parametrize(
    ("values", "modality", "window", "reason"),
    [
        (np.full((3, 3, 3), np.nan, np.float32), "CT", None, "volume_not_finite"),
        (np.full((3, 3, 3), 7, np.int16), "MR", None, "volume_constant"),
        (np.arange(27, dtype=np.int16).reshape(3, 3, 3), "CT", None, "ct_not_hounsfield"),
        (np.arange(27, dtype=np.int16).reshape(3, 3, 3), "PT", None, "volume_16_bit"),
    ],
)
def test_volumes_that_cannot_be_shown_are_named(values: np.ndarray, modality: str, window: Any, reason: str) -> None:
    with pytest.raises(RejectedImage, match=reason):
        tone_of(values, modality=modality, window=window)


def test_eight_bits_are_shown_as_they_are(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (32, 24, 60)).astype(np.uint8)
    image = made(tmp_path, block((1, 5, 15, 5, 15, 20, 26)), values, modality=None, slices=0).read(0)
    np.testing.assert_array_equal(image.pixels, values[:, :, 22].T)
    assert (image.window, image.intensity) == (None, None)


# The input as a whole


@pytest.mark.parametrize(
    ("labels", "images", "template", "expected"),
    [
        (["l/a/c1.nii.gz"], ["i/a/c1.mhd"], "i", [("a/c1", "i/a/c1.mhd")]),
        (["l/c1.nii"], ["i/c1_0000.nii.gz"], "i", [("c1", "i/c1_0000.nii.gz")]),
        (["l/c1_seg.nii.gz", "l/c2-label.nrrd"], ["i/c1.nii", "i/C2.nii"], "i", [("c1", "i/c1.nii"), ("c2", "i/C2.nii")]),
        (["l/c1_seg.nii", "l/c1.nii"], [], "l", [("c1", "l/c1.nii")]),
        (["l/k1/segmentation.nii.gz", "l/k1/imaging.nii.gz"], [], "l", [("k1", "l/k1/imaging.nii.gz")]),
        (["l/c1.seg.nrrd"], ["i/c1.nrrd"], "i", [("c1", "i/c1.nrrd")]),
        (["l/b1/b1_seg.nii", "l/b1/b1_t1c.nii"], [], "l/{folder}/{stem}_t1c.nii", [("b1/b1", "l/b1/b1_t1c.nii")]),
    ],
)
def test_names_are_paired_by_the_documented_rules(
    tmp_path: Path, labels: list[str], images: list[str], template: str, expected: list[tuple[str, str]]
) -> None:
    for name in (*labels, *images):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    cases, rejects = find_cases(tmp_path / "l", tmp_path / template, ENDINGS)
    assert [(case.key, case.image.relative_to(tmp_path).as_posix()) for case in cases] == expected
    assert not rejects


def test_what_finds_no_partner_is_named_without_its_name(tmp_path: Path) -> None:
    for name in ("l/zebra.nii", "l/c1.nii", "l/two.nii", "i/c1.nii", "i/giraffe.nii", "i/two.nii", "i/two.mha"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    cases, rejects = find_cases(tmp_path / "l", tmp_path / "i", ENDINGS)
    assert [case.key for case in cases] == ["c1"]
    assert sorted(one.reason for one in rejects) == ["image_missing", "image_name_ambiguous", *["no_label_map"] * 3]
    assert not any("zebra" in one.detail or "giraffe" in one.detail for one in rejects)


def test_one_bad_volume_among_others_is_named_and_the_others_stay(tmp_path: Path) -> None:
    labels = block((1, 5, 15, 5, 15, 20, 26))
    saved(tmp_path / "labels" / "a.nii.gz", labels)
    saved(tmp_path / "images" / "a.nii.gz", body((32, 24, 61)))
    saved(tmp_path / "labels" / "b.nii.gz", body())
    saved(tmp_path / "images" / "b.nii.gz", body())
    saved(tmp_path / "labels" / "d.nii.gz", labels, RAS * [[2], [1], [1], [1]])
    saved(tmp_path / "images" / "d.nii.gz", body())
    saved(tmp_path / "labels" / "e.nii.gz", labels)
    saved(tmp_path / "images" / "e.nii.gz", body())
    raw = (tmp_path / "images" / "e.nii.gz").read_bytes()
    (tmp_path / "images" / "e.nii.gz").write_bytes(raw[: len(raw) // 2])
    source = made(tmp_path, labels, slices=0)
    found = {reject.index: reject.reason for reject in source.rejects}
    assert found["volumes[0]"] == "label_map_grid"
    assert found["volumes[3]"] == "label_map_grid"
    assert {index: reason for index, reason in found.items() if index.startswith("volumes[1]")} == {
        "volumes[1].labels[-1000]": "label_value_unknown",
        **{f"volumes[1].labels[{value}]": "label_value_unknown" for value in range(20, 60)},
    }
    outcomes: list[str] = []
    for index in range(len(source)):
        try:
            outcomes.append(source.read(index).key)
        except RejectedImage as rejection:
            outcomes.append(f"{rejection.reason}, lost {rejection.detail.rpartition(' ')[2]}")
    assert outcomes == ["case7#axial22", "volume_truncated, lost 1)"]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"modality": None, "window": None}, "--modality CT or MR"),
        ({"plane": "frontal"}, "--plane frontal"),
        ({"slices": -1}, "--slices -1"),
        ({"lesions": ("nodul",)}, "did you mean nodule"),
        ({"exhaustive": ("spleen",)}, "--exhaustive spleen is no class"),
        ({"classes": None}, "give --classes"),
        ({"organs": ("boxes:xywh=a.json",)}, "no organ boxes"),
        ({"organs": ("liver={patient}.nii",)}, "is unknown: use"),
        ({"max_pixels": 100}, "1 image_too_large"),
    ],
)
def test_mistakes_of_the_user_are_told_with_their_cure(tmp_path: Path, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(tmp_path, block((1, 5, 15, 5, 15, 20, 26)), **declared)


@pytest.mark.parametrize(
    ("annotations", "images", "message"),
    [
        ("nowhere", "images", "no such file or folder: give the label maps"),
        ("labels", "nowhere", "no such file or folder: give the images"),
        ("labels/case7.nii.gz", "images", "one is a file, the other a folder"),
        ("images", "images", "no label map"),
        ("labels", "images/{name}.nii", "is unknown: use"),
    ],
)
def test_paths_that_do_not_fit_are_told(tmp_path: Path, annotations: str, images: str, message: str) -> None:
    made(tmp_path, block((1, 5, 15, 5, 15, 20, 26)))
    options = SourceOptions(name="x", modality="CT", lesions=("nodule",))
    with pytest.raises(ValueError, match=message):
        open_source("volume", tmp_path / annotations, tmp_path / images, options)


def test_a_mask_of_one_class_needs_no_class_file(tmp_path: Path) -> None:
    labels = block((255, 5, 15, 5, 15, 20, 26))
    source = made(tmp_path, labels, classes=None, lesions=("liver_tumour",), slices=0)
    assert source.read(0).annotations[0].lesion_class == "liver tumor"


def test_a_source_crosses_to_a_worker_and_reads_the_same(tmp_path: Path) -> None:
    source = made(tmp_path, block((1, 5, 15, 5, 15, 10, 40)), slices=2)
    first = source.read(0)
    again: VolumeSource = pickle.loads(pickle.dumps(source))
    assert again._loaded is None
    np.testing.assert_array_equal(again.read(0).pixels, first.pixels)
    assert again.rejects == source.rejects
    assert len(again) == len(source) == 3


def test_no_reject_holds_a_path_or_a_name(tmp_path: Path) -> None:
    def details(call: Callable[[], VolumeSource]) -> list[Reject]:
        return list(call().rejects)

    labels = block((1, 5, 15, 5, 15, 20, 26), (77, 1, 2, 1, 2, 1, 2))
    saved(tmp_path / "labels" / "Miller_Anna.nii.gz", labels)
    for reject in details(lambda: made(tmp_path, labels)):
        assert "Miller" not in f"{reject}"
        assert "case7" not in f"{reject}"
