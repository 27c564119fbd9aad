"""Names of organs: every structure of the common segmenters is read to an organ that the tree knows, with its side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medclm.corpus.class_maps import TOTALSEGMENTATOR, TOTALSEGMENTATOR_MR, read_class_map
from medclm.corpus.organ_names import KNOWN, PAIRED, PARTS, SYMMETRIC, ancestors, paired, read_name, related, side_in_class
from medclm.corpus.sources.classes import organ_name

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("kidney left", ("kidney", "left")),
        ("kidney_cyst_right", ("kidney", "right")),
        ("rib left 3", ("rib 3", "left")),
        ("rib_right_12", ("rib 12", "right")),
        ("posterior 3rd rib left", ("rib 3", "left")),
        ("Lung_Upper_Lobe_Right", ("lung upper lobe", "right")),
        ("lung_middle_lobe_right", ("lung middle lobe", "right")),
        ("heart atrium left", ("left heart atrium", None)),
        ("atrial_appendage_left", ("left atrial appendage", None)),
        ("brachiocephalic_vein_right", ("right brachiocephalic vein", None)),
        ("vertebrae_L3", ("vertebra l3", None)),
        ("vertebrae", ("spine", None)),
        ("iliac_vena_left", ("iliac vein", "left")),
        ("iliac_artery_left", ("iliac artery", "left")),
        ("clavicula_right", ("clavicle", "right")),
        ("gluteus_maximus_left", ("gluteus maximus", "left")),
        ("autochthon_left", ("autochthonous back muscle", "left")),
        ("costal_cartilages", ("costal cartilages", None)),
        ("Left Hilus Pulmonis", ("hilum", "left")),
        ("lungs", ("lung", None)),
        ("left or right lung", ("left or right lung", None)),
    ],
)
def test_organ_names_are_read(name, read):
    assert read_name(name) == read


@pytest.mark.parametrize("names", [TOTALSEGMENTATOR, TOTALSEGMENTATOR_MR])
def test_no_structure_of_totalsegmentator_falls_through(names):
    own_side = {"left heart atrium", "left atrial appendage", "left brachiocephalic vein", "right brachiocephalic vein"}
    for name in names.values():
        organ, side = read_name(name)
        assert organ in KNOWN, name
        says_side = {"left", "right"} & set(name.split())
        if organ in own_side:
            assert side is None
        elif says_side:
            assert {side} == says_side
            assert paired(organ), name
            assert organ not in SYMMETRIC
        else:
            assert side is None
            assert not paired(organ), name
    midline = {"spinal cord", "sternum", "skull", "brain", "prostate", "urinary bladder", "thyroid gland", "costal cartilages"}
    assert midline <= SYMMETRIC


def test_the_class_maps_are_those_of_the_shared_segmentations():
    path = SHARED / "totalseg_ct_mr" / "class_map.json"
    if not path.exists():
        pytest.skip("needs totalseg_ct_mr in shared data")
    published = json.loads(path.read_text())
    for name, task, count in (("totalsegmentator", "total", 117), ("totalsegmentator_mr", "total_mr", 50)):
        expected = {int(number): organ_name(organ) for number, organ in published[task].items()}
        assert read_class_map(name) == expected
        assert len(expected) == count


def test_the_tree_has_no_circle_and_no_organ_that_is_both_paired_and_single():
    for organ in KNOWN:
        assert organ not in ancestors(organ)
        assert read_name(organ) == (organ, None), organ
    assert not PAIRED & SYMMETRIC
    assert ancestors("vertebra l3") == ("lumbar spine", "spine", "skeleton")
    assert ancestors("rib 3") == ("rib", "skeleton")
    assert ancestors("left heart atrium") == ("heart", "mediastinum", "thorax")
    assert paired("rib 3")
    assert paired("lung upper lobe")
    assert not paired("heart")
    assert not ancestors("aorta")  # it leaves every compartment
    assert all(isinstance(part, str) for parts in PARTS.values() for part in parts)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("lung", "lung", True), ("lung", "lung upper lobe", True), ("thorax", "lung upper lobe", True), ("lung", "heart", False)],
)
def test_relatives_are_parts_and_wholes(one, other, expected):
    assert related(one, other) == related(other, one) == expected


@pytest.mark.parametrize(
    ("lesion_class", "side"),
    [
        ("left lung", "left"),
        ("kidney right", "right"),
        ("right rib fracture", "right"),
        ("left lung nodule", "left"),
        ("left atrial enlargement", None),
        ("left ventricle", None),
        ("nodule", None),
        ("left and right lung", None),
    ],
)
def test_only_a_paired_organ_in_a_class_states_a_side(lesion_class, side):
    assert side_in_class(lesion_class) == side
