"""Brightness, sizes, counts and heights on small drawn anatomy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medclm.corpus.anatomy import link
from tests.drawn_anatomy import ABDOMEN, SIZE, disc, image, lesion


def measured(effect: float, modality: str = "CT", technique: str | None = None, **changes) -> dict:
    noise = np.random.default_rng(0).normal(0, 10, (SIZE, SIZE))
    spot = disc(28, 42, 5)
    plane = {"plane": "frontal", "patient_directions": "L\\F"} if modality == "DX" else {}
    given = {
        "intensity": (noise + 10 * effect * spot).astype(np.float32),
        "organs": ABDOMEN,
        "modality": modality,
        "technique": technique,
    } | plane
    return dict(link(image(lesion(spot), **given | changes), seed=0).annotations[0].facts)


@pytest.mark.parametrize(
    ("modality", "technique", "effect", "word"),
    [
        ("CT", None, 2, "hyperattenuating"),
        ("CT", None, -2, "hypoattenuating"),
        ("CT", None, 0.2, None),
        ("MR", "t2", 2, "hyperintense"),
        ("MR", None, 2, None),
        ("US", None, -2, "hypoechoic"),
        ("DX", None, 2, "opacity"),
        ("DX", None, -2, "lucency"),
        ("SM", None, 2, None),
    ],
)
def test_intensity_words_by_modality_and_effect(modality, technique, effect, word):
    facts = measured(effect, modality, technique)
    assert facts.get("intensity") == word
    assert ("sequence" in facts) == (modality == "MR" and word is not None)
    if word:
        assert abs(facts["intensity_effect"] - effect) < 0.5
        assert facts["intensity_reference"] == "rest of the liver"


def test_no_intensity_word_without_values_masks_or_enough_reference():
    assert "intensity" not in measured(3, intensity=None)
    assert "intensity" not in measured(3, organs={})
    assert "intensity" not in measured(3, organs={"liver": disc(28, 42, 9)})  # under 200 px beside the lesion
    assert "intensity" in measured(3, organs={"liver": disc(28, 42, 11)})


def test_millimetres_only_with_a_spacing():
    assert "size_mm" not in measured(0)
    assert measured(0, spacing_mm=(2.0, 0.5))["size_mm"] == [20.0, 5.0]


def test_facts_are_plain_json():
    facts = measured(2, spacing_mm=(1.0, 1.0), label_scope=("cyst",))
    assert json.loads(json.dumps(facts)) == facts
    assert all(type(value) in (str, int, float, bool, list) for value in facts.values())


def test_reading_order_count_and_largest():
    spots = [disc(70, 72, 2), disc(30, 40, 6), disc(24, 72, 3)]
    linked = link(
        image(*(lesion(spot, "cyst", n) for n, spot in enumerate(spots)), organs=ABDOMEN, label_scope=("cyst",)), seed=0
    )
    lesions = [each for each in linked.annotations if each.box_role == "lesion"]
    assert [each.source.index for each in lesions] == ["annotations[1]", "annotations[2]", "annotations[0]"]
    assert [each.facts["count"] for each in lesions] == [3, 3, 3]
    assert [each.facts.get("largest") for each in lesions] == [True, None, None]


def cut(heights: dict[str, float], plane: str = "axial", at: tuple[float, float] = (28, 74)) -> dict:
    changes = {"plane": plane, "patient_directions": "L\\P" if plane == "axial" else "L\\F"}
    made = image(lesion(disc(*at, 3)), organs=ABDOMEN, organ_heights=heights, **changes)
    return dict(link(made, seed=0).annotations[0].facts)


@pytest.mark.parametrize(
    ("height", "word"),
    [
        (0.0, "inferior"),
        (0.33, "inferior"),
        (1 / 3, "middle"),
        (0.5, "middle"),
        (2 / 3, "middle"),
        (0.67, "superior"),
        (1.0, "superior"),
    ],
)
def test_an_axial_slice_has_a_height_only_within_its_hosts_volume(height, word):
    facts = cut({"kidney right": height, "liver": 0.5})
    assert facts["vertical"] == word
    assert cut({"kidney_right": height})["vertical"] == word


def test_no_height_of_another_organ_another_side_or_another_plane():
    assert "vertical" not in cut({})
    assert "vertical" not in cut({"liver": 0.9, "kidney left": 0.9})
    assert cut({"kidney right": 0.95}, plane="coronal")["vertical"] == "middle"  # there the picture shows it
    assert "vertical" not in cut({"kidney right": 0.1}, at=(90, 90))  # no host
    assert cut({"kidney right": 0.95})["location"] == "superior part of the right kidney"


def test_the_rest_of_an_organ_is_measured_once_and_without_any_lesion():
    values = np.random.default_rng(0).normal(0, 10, (SIZE, SIZE)).astype(np.float32)
    spots = [disc(22, 36, 4), disc(34, 50, 4)]
    for spot in spots:
        values[spot] += 60
    linked = link(image(*(lesion(spot, "cyst", n) for n, spot in enumerate(spots)), organs=ABDOMEN, intensity=values), seed=0)
    rest = values[ABDOMEN["liver"] & ~spots[0] & ~spots[1]]
    for each in linked.annotations:
        inside = values[each.source.mask].mean()
        assert each.facts["intensity_effect"] == round(float((inside - rest.mean()) / rest.std()), 2)
