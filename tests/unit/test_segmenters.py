"""Adapters of optional segmenters: their own part against modules of the packages' shape, and the message without a package."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from medclm.corpus.class_maps import TOTALSEGMENTATOR, TOTALSEGMENTATOR_MR
from medclm.corpus.organs import read_name
from medclm.corpus.segmenters import get_segmenter, segmenter_names, with_organs
from medclm.corpus.segmenters.protocol import Square
from tests.drawn_anatomy import CHEST, SIZE, disc, image

FILM = {"modality": "DX", "plane": "frontal", "patient_directions": "L\\F"}
TARGETS = ["Left Clavicle", "Right Clavicle", "Left Scapula", "Right Scapula", "Left Lung", "Right Lung"]
TARGETS += ["Left Hilus Pulmonis", "Right Hilus Pulmonis", "Heart", "Aorta", "Facies Diaphragmatica", "Mediastinum"]
TARGETS += ["Weasand", "Spine"]


def module(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> ModuleType:
    """A module of that name for one test, with the modules above it."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        if path not in sys.modules:
            monkeypatch.setitem(sys.modules, path, ModuleType(path))
    for key, value in content.items():
        setattr(sys.modules[name], key, value)
    return sys.modules[name]


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("totalsegmentator", "TotalSegmentator"),
        ("totalsegmentator_mr", "TotalSegmentator"),
        ("torchxrayvision", "torchxrayvision"),
        ("cxas", "cxas"),
    ],
)
def test_without_its_package_a_segmenter_says_what_to_do(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package.lower(), None)  # as if it were not installed
    with pytest.raises(ValueError, match=f"pip install {package}` and read its licence first \\(.+\\)"):
        get_segmenter(name)
    assert name in segmenter_names()


def test_an_unknown_segmenter_is_refused_with_a_hint():
    with pytest.raises(ValueError, match="did you mean totalsegmentator"):
        get_segmenter("totalsegmenter")
    with pytest.raises(ValueError, match="there are totalsegmentator, "):
        get_segmenter("x")


class Chest(torch.nn.Module):
    """The shape of torchxrayvision's PSPNet: (B, 1, H, W) in -1024..1024 -> (B, 14, 512, 512) logits; target k = pixels of value k."""

    targets = TARGETS

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        assert values.shape == (1, 1, 512, 512)
        assert values.dtype == torch.float32
        assert values.min() >= -1024
        assert values.max() <= 1024
        grey = (values[:, 0] + 1024) / 2048 * 255
        return torch.stack([5.0 - (grey - 16 * (k + 1)).abs() for k in range(len(TARGETS))], dim=1)


def chest_film(height: int, width: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    pixels = np.zeros((height, width), np.uint8)
    where = {}
    for k, target in enumerate(TARGETS):
        mask = np.zeros((height, width), bool)
        mask[
            height * (k % 4) // 4 + 4 : height * (k % 4 + 1) // 4 - 4, width * (k // 4) // 4 + 4 : width * (k // 4 + 1) // 4 - 4
        ] = True
        pixels[mask] = 16 * (k + 1)
        where[target] = mask
    return pixels, where


@pytest.mark.parametrize("shape", [(512, 512), (300, 400), (640, 480)])
def test_the_chest_segmenter_names_its_targets_and_brings_masks_back(monkeypatch, shape):
    module(monkeypatch, "torchxrayvision", baseline_models=SimpleNamespace(chestx_det=SimpleNamespace(PSPNet=Chest)))
    segmenter = get_segmenter("torchxrayvision")
    pixels, where = chest_film(*shape)
    organs = segmenter.segment(image(pixels=pixels, **FILM))
    assert len(organs) == 13  # one of the 14 is of unclear meaning
    assert {read_name(name) for name in organs} >= {("lung", "left"), ("hilum", "right"), ("spine", None), ("diaphragm", None)}
    for target, name in (("Left Lung", "lung left"), ("Heart", "heart"), ("Spine", "spine")):
        expected = where[target]
        found = organs[name]
        assert found.shape == shape
        assert np.count_nonzero(found & expected) / np.count_nonzero(found | expected) > 0.9
    with pytest.raises(ValueError, match="not on volumes"):
        segmenter.segment_volume(np.zeros((2, 2, 2)), np.eye(4))


CXAS_LABELS = ["spine", "vertebrae L1", "clavicles", "clavicle left", "posterior 3rd rib right", "anterior 3rd rib right"]
CXAS_LABELS += ["anterior 3rd rib", "left hemidiaphragm", "cardiomediastinum", "upper mediastinum", "heart atrium left", "lung"]
CXAS_LABELS += [
    "right lung",
    "right upper zone lung",
    "left lung base",
    "lung lower lobe left",
    "tracheal bifurcation",
    "breast right",
]


class Cxas:
    """The shape of cxas.CXAS: called with {"data": (1, 3, 512, 512)}, gives `segmentation_preds` (1, labels, 512, 512) bool."""

    made: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, model_name: str, gpus: str) -> None:
        self.made.append((model_name, gpus))

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        data = batch["data"]
        assert data.shape == (1, 3, 512, 512)
        grey = data[0] * torch.tensor([0.229, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        assert torch.allclose(grey[0], grey[2], atol=1e-4)
        masks = torch.zeros((1, len(CXAS_LABELS), 512, 512), dtype=torch.bool)
        for number in range(len(CXAS_LABELS)):
            masks[0, number, 20 * number : 20 * number + 15] = grey[0, :15] >= 0
        return {"segmentation_preds": masks, **batch}


def test_fine_chest_anatomy_is_read_to_organs_that_say_one_thing(monkeypatch):
    module(monkeypatch, "cxas", CXAS=Cxas)
    module(monkeypatch, "cxas.label_mapper", id2label_dict={str(n): name for n, name in enumerate(CXAS_LABELS)})
    organs = get_segmenter("cxas").segment(image(pixels=np.full((512, 512), 90, np.uint8), **FILM))
    assert sorted(organs) == [
        "breast right",
        "clavicle left",
        "hemidiaphragm left",
        "left heart atrium",
        "lung lower lobe left",
        "lung right",
        "mediastinum",
        "rib 3 right",
        "spine",
        "vertebra l1",
    ]
    assert [read_name(organs_name) for organs_name in ("rib 3 right", "left heart atrium")] == [
        ("rib 3", "right"),
        ("left heart atrium", None),
    ]
    ribs = np.flatnonzero(organs["rib 3 right"].any(axis=1))
    assert set(ribs) == {*range(80, 95), *range(100, 115)}  # its anterior and its posterior part
    assert Cxas.made[-1][0] == "UNet_ResNet50_default"


def totalsegmentator(monkeypatch, *, silent: bool = True, turned: bool = False) -> list[dict[str, object]]:
    """Modules of the package's shape; gives the calls that it received."""
    nibabel = pytest.importorskip("nibabel")
    calls: list[dict[str, object]] = []
    config: dict[str, object] = {"send_usage_stats": True}

    def run(input, output, ml=False, task="total", quiet=False, device="gpu"):
        calls.append({"task": task, "ml": ml, "output": output, "stats": config["send_usage_stats"], "device": device})
        labels = (input.get_fdata() > 0).astype(np.uint8) * 5
        return nibabel.Nifti1Image(labels, input.affine @ np.diag([-1, 1, 1, 1]) if turned else input.affine)

    module(monkeypatch, "totalsegmentator.python_api", totalsegmentator=run)
    setters = {"set_config_key": lambda key, value: config.update({key: value}) if silent else None}
    module(monkeypatch, "totalsegmentator.config", setup_totalseg=lambda: config, get_config_key=config.get, **setters)
    return calls


@pytest.mark.parametrize(
    ("name", "task", "class_map"),
    [("totalsegmentator", "total", TOTALSEGMENTATOR), ("totalsegmentator_mr", "total_mr", TOTALSEGMENTATOR_MR)],
)
def test_volumes_come_back_as_labels_and_no_run_is_reported(monkeypatch, name, task, class_map):
    calls = totalsegmentator(monkeypatch)
    segmenter = get_segmenter(name)
    values = np.full((4, 5, 6), -1000.0)
    values[1:3, 2, 3] = 40
    affine = np.diag([-2.0, 2, 3, 1])
    labels, names = segmenter.segment_volume(values, affine)
    assert np.array_equal(labels, np.where(values > 0, 5, 0))
    assert labels.dtype == np.uint8
    assert names == class_map
    assert names[5] == "liver"
    (call,) = calls
    assert (call["task"], call["ml"], call["output"], call["stats"]) == (task, True, None, False)
    with pytest.raises(ValueError, match=r"works on volumes, images\[0\] is a single picture"):
        segmenter.segment(image())


def test_a_run_that_would_be_reported_or_turned_is_stopped(monkeypatch):
    calls = totalsegmentator(monkeypatch, silent=False)
    with pytest.raises(RuntimeError, match="usage reports cannot be switched off"):
        get_segmenter("totalsegmentator").segment_volume(np.zeros((2, 2, 2)), np.eye(4))
    assert not calls
    totalsegmentator(monkeypatch, turned=True)
    with pytest.raises(RuntimeError, match="or turned the volume"):
        get_segmenter("totalsegmentator").segment_volume(np.zeros((2, 2, 2)), np.eye(4))


class Drawn:
    """A segmenter that finds the drawn chest."""

    name, works_on = "drawn", "pictures"

    def suits(self, given):
        return given.modality == "DX"

    def segment(self, given):
        return CHEST | {"aorta": np.zeros((SIZE, SIZE), bool)}

    def segment_volume(self, values, affine):
        raise ValueError("pictures alone")


def test_only_organs_that_the_source_does_not_name_are_filled_in():
    own = disc(30, 30, 9)
    filled = with_organs(image(organs={"lungs": own}, **FILM), Drawn())
    assert set(filled.organs) == {"lungs", "heart"}  # the source has spoken of the lungs, and no aorta was found
    assert filled.organs["lungs"] is own
    assert set(with_organs(image(**FILM), Drawn()).organs) == set(CHEST)
    unsuited = image(organs={}, modality="CT")
    assert with_organs(unsuited, Drawn()) is unsuited


@pytest.mark.parametrize("shape", [(512, 512), (100, 37), (37, 100), (1000, 700)])
def test_the_square_keeps_aspect_and_finds_its_way_back(shape):
    square = Square(512, shape)
    mask = np.zeros(shape, bool)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = True
    laid = square.lay(mask.astype(np.uint8) * 255)
    assert laid.shape == (512, 512)
    back = square.back(laid > 127)
    assert np.count_nonzero(back & mask) / np.count_nonzero(back | mask) > 0.9
    ys, xs = np.nonzero(laid > 127)
    assert (np.ptp(ys) + 1) / (np.ptp(xs) + 1) == pytest.approx(
        (shape[0] // 2 - shape[0] // 4) / (shape[1] // 2 - shape[1] // 4), rel=0.1
    )
