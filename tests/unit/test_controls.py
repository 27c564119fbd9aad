"""Control boxes: equal size, free of lesions, mirrored first, none without certainty."""

from __future__ import annotations

import numpy as np
import pytest

from medclm.corpus.anatomy import link
from medclm.corpus.contract import Reject
from tests.drawn_anatomy import ABDOMEN, BODY, SIZE, disc, image, lesion


def controls(**changes):
    spots = [disc(28, 72, 4), disc(30, 40, 6)]
    linked = link(
        image(
            *(lesion(spot, "cyst", n) for n, spot in enumerate(spots)),
            **{"organs": ABDOMEN, "label_scope": ("cyst",)} | changes,
        ),
        seed=3,
    )
    return linked, [each for each in linked.annotations if each.box_role == "control"]


def test_controls_have_a_lesions_size_and_touch_none():
    for key in map(str, range(40)):
        linked, (control,) = controls(key=key)
        lesions = [each.source.box_px for each in linked.annotations if each.box_role == "lesion"]
        box = control.source.box_px
        assert any(box.width == other.width and box.height == other.height for other in lesions)
        assert all(box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0 for other in lesions)
        assert 0 <= box.x0 < box.x1 <= SIZE
        assert 0 <= box.y0 < box.y1 <= SIZE
        inside = np.logical_or.reduce(list(ABDOMEN.values()))[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
        assert inside.mean() >= 0.75
        assert control.facts["absent"] == "cyst"
        assert "label" not in control.facts


def test_the_mirrored_site_is_tried_first():
    linked = link(image(lesion(disc(30, 72, 4)), organs=ABDOMEN, label_scope=("cyst",)), seed=0)
    control = linked.annotations[1]
    assert (control.organ, control.facts["side"]) == ("kidney", "left")
    assert abs((control.source.box_px.x0 + control.source.box_px.x1) / 2 - 66) <= 1


def test_no_control_without_scope_room_or_certainty():
    assert not controls(label_scope=())[1]
    assert not controls(label_scope=("nodule",))[1]
    # sources take a class with a refused annotation out of the scope themselves; what else they refuse closes nothing
    assert controls(label_scope=("cyst",), rejects=(Reject("images[0].organs", "organ_mask_missing", ""),))[1]
    whole = link(image(lesion(BODY), organs={"liver": BODY}, label_scope=("cyst",)), seed=0)
    assert [each.box_role for each in whole.annotations] == ["lesion"]


def test_link_is_deterministic_and_names_its_faults():
    first, second = controls()[0], controls()[0]
    assert [a.facts for a in first.annotations] == [a.facts for a in second.annotations]
    assert [a.source.box_px for a in first.annotations] == [a.source.box_px for a in second.annotations]
    with pytest.raises(ValueError, match=r"images\[0\]: mask of 'liver'"):
        link(image(organs={"liver": np.ones((4, 4), bool)}), seed=0)
    with pytest.raises(ValueError, match=r"images\[0\]: patient_directions"):
        link(image(patient_directions="Q\\P"), seed=0)
