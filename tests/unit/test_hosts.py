"""Host organs on small drawn anatomy: relations, hierarchy, shadows, the table, stated boxes, margins."""

from __future__ import annotations

import numpy as np

from benchmarks.host_organs import accuracy, phantom_cases
from medclm.corpus.anatomy import link
from medclm.corpus.box_masks import box_mask
from medclm.corpus.organs import TABLE, Plausible, ancestors
from medclm.types import Box
from tests.drawn_anatomy import ABDOMEN, BODY, CHEST, disc, host, image, lesion


def test_host_of_lesions_punched_out_of_masks_and_behind_the_heart():
    """At least 95 % right where masks lack the lesion; box overlap and plain containment stand beside it."""
    found = accuracy(phantom_cases(40))
    assert set(found) == {"phantom: punched out", "phantom: behind the heart"}
    for kind, counts in found.items():
        assert counts["cases"] >= 8, kind
        assert counts["ours"] >= 0.95 * counts["cases"], kind
        assert counts["ours"] > max(counts["box overlap"], counts["containment"]), kind


def test_a_nodule_between_the_lungs_of_a_film_lies_behind_what_has_no_mask():
    lungs = {"lung right": CHEST["lung right"], "lung left": CHEST["lung left"]}
    frontal = {"modality": "DX", "plane": "frontal", "patient_directions": "L\\F"}
    between, below = disc(56, 58, 4), disc(48, 90, 3)
    assert host(link(image(lesion(between, "nodule"), organs=lungs, **frontal), seed=0)) == ("lung", "projects_over")
    assert host(link(image(lesion(below, "nodule"), organs=lungs, **frontal), seed=0)) == (None, "unknown")
    assert host(link(image(lesion(between, "blob"), organs=lungs, **frontal), seed=0)) == (None, "unknown")  # may be anything
    assert host(link(image(lesion(between, "rib fracture"), organs=lungs, **frontal), seed=0)) == (None, "unknown")
    assert host(link(image(lesion(between, "lung nodule"), organs=lungs, plane="coronal"), seed=0)) == (None, "unknown")


def test_a_lesion_behind_the_heart_projects_over_the_lung_and_names_the_shadow():
    linked = link(
        image(lesion(disc(64, 60, 4), "nodule"), organs=CHEST, modality="DX", plane="frontal", patient_directions="L\\F"),
        seed=0,
    )
    assert host(linked) == ("lung", "projects_over")
    assert linked.annotations[0].facts["overlaps"] == ["heart"]
    assert linked.annotations[0].facts["side"] == "left"


def test_the_most_specific_part_wins_and_keeps_its_ancestors():
    lobes = {"lung left": disc(70, 44, 20, 34), "lung upper lobe left": disc(70, 26, 16, 16)}
    linked = link(image(lesion(disc(70, 26, 5)), organs=lobes), seed=0)
    assert host(linked) == ("lung upper lobe", "inside")
    assert linked.annotations[0].facts["within"] == ["lung", "thorax"] == list(ancestors("lung upper lobe"))


def test_relations_from_inside_to_unknown():
    liver = {"liver": disc(30, 48, 22)}

    def relation(mask: np.ndarray) -> tuple:
        return host(link(image(lesion(mask), organs=liver), seed=0))

    assert relation(disc(30, 48, 5)) == ("liver", "inside")
    assert relation(disc(56, 48, 7) & ~liver["liver"]) == ("liver", "borders")
    assert relation(disc(60, 48, 5)) == ("liver", "adjacent")
    assert relation(disc(84, 48, 5)) == (None, "unknown")
    assert host(link(image(lesion(disc(30, 48, 5))), seed=0)) == (None, "unknown")


def test_the_table_limits_hosts_and_can_be_extended():
    both = {"lung left": disc(40, 48, 10), "liver": disc(40, 48, 30) & ~disc(40, 48, 10)}
    tumour = lesion(disc(40, 60, 5), "consolidation")
    assert host(link(image(tumour, organs=both), seed=0))[0] == "lung"  # next to it; the liver is not plausible
    table = {**TABLE, "consolidation": Plausible("consolidation", ("liver",), "a test")}
    linked = link(image(tumour, organs=both), seed=0, table=table)
    assert host(linked) == ("liver", "inside")
    assert linked.annotations[0].facts["organ_candidates"] == ["liver"]
    assert link(image(lesion(disc(40, 60, 5), "blob"), organs=both), seed=0).annotations[0].facts["organ_candidates"] == "any"


def test_a_state_takes_its_organ_from_the_table_and_its_side_from_the_mask():
    frontal = {"modality": "DX", "plane": "frontal", "patient_directions": "L\\F"}
    effusion, heart = lesion(disc(26, 76, 9, 5), "effusion"), lesion(disc(55, 58, 24, 16), "cardiomegaly", 1)
    linked = link(image(effusion, heart, organs=CHEST, **frontal), seed=0)
    by_class = {each.source.lesion_class: each for each in linked.annotations}
    assert (by_class["effusion"].organ, by_class["effusion"].facts["side"]) == ("pleural space", "right")
    assert by_class["cardiomegaly"].organ == "heart"
    assert by_class["cardiomegaly"].facts.get("side_of") != "organ"


def boxed(organs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same organs, stated as boxes."""
    out = {}
    for name, mask in organs.items():
        ys, xs = np.nonzero(mask)
        out[name] = box_mask(Box(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), mask.shape[::-1])
    return out


def test_an_organ_box_gives_side_and_host_and_nothing_that_needs_an_outline():
    values = np.random.default_rng(0).normal(0, 1, BODY.shape).astype(np.float32) + 9 * disc(28, 72, 4)
    spot = lesion(disc(28, 72, 4))
    facts = link(image(spot, organs=boxed(ABDOMEN), intensity=values), seed=0).annotations[0].facts
    assert (facts["organ"], facts["relation"], facts["side"], facts["host_box"]) == ("kidney", "inside", "right", True)
    assert facts["location"] == "central part of the right kidney"
    assert not {"area_share", "intensity", "overlaps"} & facts.keys()
    by_mask = link(image(spot, organs=ABDOMEN, intensity=values), seed=0).annotations[0].facts
    assert {"area_share", "intensity"} <= by_mask.keys()
    assert "host_box" not in by_mask


def test_nothing_borders_or_neighbours_a_box_and_a_box_has_no_shadow():
    liver = boxed({"liver": disc(30, 48, 22)})
    for spot in (disc(56, 48, 4), disc(58, 48, 5)):
        assert host(link(image(lesion(spot), organs=liver), seed=0)) == (None, "unknown")
    frontal = {"modality": "DX", "plane": "frontal", "patient_directions": "L\\F"}
    organs = CHEST | boxed({"heart": CHEST["heart"]})
    facts = link(image(lesion(disc(72, 56, 3), "nodule"), organs=organs, **frontal), seed=0).annotations[0].facts
    assert "overlaps" not in facts


def test_masks_that_name_one_organ_are_one():
    """TotalSegmentator cuts cysts out of its kidneys: together they are the kidney."""
    cyst = disc(28, 72, 4)
    organs = {"kidney_right": ABDOMEN["kidney right"] & ~cyst, "kidney_cyst_right": cyst, "liver": ABDOMEN["liver"]}
    linked = link(image(lesion(cyst), organs=organs), seed=0)
    assert host(linked) == ("kidney", "inside")
    whole = np.count_nonzero(ABDOMEN["kidney right"])
    assert linked.annotations[0].facts["area_share"] == round(np.count_nonzero(cyst) / whole, 4)


def test_the_margin_compares_with_the_best_unrelated_candidate():
    spot = disc(44, 48, 6)

    def margin(name: str, organs: dict[str, np.ndarray]) -> float | None:
        return link(image(lesion(spot, name), organs=organs), seed=0).annotations[0].facts.get("organ_margin")

    left, right = (np.mgrid[:96, :96][1] < 46), (np.mgrid[:96, :96][1] >= 46)
    share = np.count_nonzero(spot & left) / np.count_nonzero(spot)
    assert margin("blob", {"liver": left, "spleen": right}) == round(2 * share - 1, 2)
    assert margin("blob", {"liver": left, "abdomen": left | right}) is None  # a whole is no rival
    assert margin("liver tumor", {"liver": left, "spleen": right}) is None  # the spleen is not plausible
    assert margin("blob", {"liver": left}) is None
    assert margin("blob", {"kidney left": left, "kidney right": right}) is None  # the side is another question
    assert margin("blob", {"liver": left, "spleen": disc(80, 80, 5)}) == round(share, 2)


def test_parts_come_before_wholes_and_bones_keep_their_numbers():
    organs = {
        "lung_upper_lobe_left": disc(70, 30, 20),
        "heart": disc(50, 60, 14),
        "heart_atrium_left": disc(52, 54, 6),
        "rib_left_3": disc(90, 40, 4, 10),
        "vertebrae_L3": disc(48, 84, 8),
    }
    for spot, expected in (
        (disc(70, 30, 4), "lung upper lobe"),
        (disc(52, 54, 3), "left heart atrium"),
        (disc(90, 40, 2), "rib 3"),
        (disc(48, 84, 3), "vertebra l3"),
    ):
        linked = link(image(lesion(spot), organs=organs, modality="CT"), seed=0)
        assert host(linked) == (expected, "inside")
    assert link(image(lesion(disc(52, 54, 3)), organs=organs), seed=0).annotations[0].facts["within"][0] == "heart"
