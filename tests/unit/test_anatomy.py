"""Host organs, sides, measured facts and control boxes on small drawn anatomy."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from medclm.corpus.anatomy import link
from medclm.corpus.contract import Reject, SourceAnnotation, SourceImage
from medclm.corpus.hosts import close_mask
from medclm.corpus.locations import OrganMask
from medclm.corpus.organs import TABLE, Plausible, ancestors, read_name
from medclm.types import Box

SIZE = 96
Y, X = np.mgrid[:SIZE, :SIZE] + 0.5
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def disc(x: float, y: float, a: float, b: float | None = None) -> np.ndarray:
    return ((X - x) / a) ** 2 + ((Y - y) / (b or a)) ** 2 < 1


def lesion(mask: np.ndarray, name: str = "cyst", number: int = 0, *, with_mask: bool = True) -> SourceAnnotation:
    ys, xs = np.nonzero(mask)
    box = Box(float(xs.min()), float(ys.min()), xs.max() + 1.0, ys.max() + 1.0)
    return SourceAnnotation(f"annotations[{number}]", name, name, box, mask if with_mask else None)


def image(*lesions: SourceAnnotation, **changes) -> SourceImage:
    given = {
        "index": "images[0]",
        "key": "a",
        "pixels": np.full((SIZE, SIZE), 90, np.uint8),
        "source": "test",
        "licence": "none",
        "shareable": True,
        "annotations": lesions,
        "modality": "CT",
        "plane": "axial",
        "patient_directions": "L\\P",
    }
    return SourceImage(**given | changes)


BODY = disc(48, 48, 45, 40)
ABDOMEN = {
    "liver": disc(28, 42, 20, 22),
    "spleen": disc(78, 46, 10, 16),
    "kidney right": disc(30, 72, 9),
    "kidney left": disc(66, 72, 9),
}
CHEST = {
    "lung right": disc(26, 44, 17, 34),
    "lung left": disc(70, 44, 17, 34) & ~disc(57, 58, 20, 16),
    "heart": disc(57, 58, 20, 16),
}


def host(linked, number: int = 0):
    return linked.annotations[number].organ, linked.annotations[number].organ_relation


# --- host organ -----------------------------------------------------------------------------------------------------------


def iou_host(box: Box, organs: dict[str, np.ndarray]) -> str:
    """What the overlap of two boxes would say."""

    def iou(mask: np.ndarray) -> float:
        ys, xs = np.nonzero(mask)
        other = Box(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        both = Box(max(box.x0, other.x0), max(box.y0, other.y0), min(box.x1, other.x1), min(box.y1, other.y1))
        overlap = max(both.width, 0) * max(both.height, 0)
        return overlap / (box.area + other.area - overlap)

    return read_name(max(organs, key=lambda name: iou(organs[name])))[0]


def contained_host(region: np.ndarray, organs: dict[str, np.ndarray]) -> str:
    """What plain containment in the masks as they are would say."""
    return read_name(max(organs, key=lambda name: np.count_nonzero(region & organs[name])))[0]


def test_host_of_lesions_punched_out_of_masks_and_behind_the_heart():
    """At least 95 % right where masks lack the lesion; box overlap and plain containment stand beside it."""
    right = {"ours": 0, "box overlap": 0, "containment": 0}
    cases = 0
    rng = np.random.default_rng(5)
    for organs, changes, behind in (
        (ABDOMEN, {}, False),
        (CHEST, {"modality": "DX", "plane": "frontal", "patient_directions": "L\\F"}, True),
    ):
        for _ in range(150):
            covered = behind and rng.random() < 0.5
            name = ["lung right", "lung left"][rng.integers(2)] if behind else list(organs)[rng.integers(4)]
            ys, xs = np.nonzero(organs["heart"] & disc(70, 44, 17, 34) if covered else organs[name])
            at = rng.integers(len(ys))
            punched = disc(xs[at], ys[at], rng.uniform(3, 6)) & (organs["heart"] if covered else organs[name])
            if np.count_nonzero(punched) < 9:
                continue
            given = organs if covered else organs | {name: organs[name] & ~punched}
            made = image(lesion(punched, "nodule" if behind else "cyst"), organs=given, **changes)
            truth = "lung" if behind else read_name(name)[0]
            cases += 1
            right["ours"] += link(made, seed=0).annotations[0].organ == truth
            right["box overlap"] += iou_host(made.annotations[0].box_px, given) == truth
            right["containment"] += contained_host(punched, given) == truth
    shares = {name: count / cases for name, count in right.items()}
    print(shares, cases)
    assert shares["ours"] >= 0.95
    assert shares["ours"] > max(shares["box overlap"], shares["containment"])


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


def test_every_row_of_the_table_has_a_source_and_known_names():
    for name, row in TABLE.items():
        assert row.source
        assert row.organs
        assert name == name.lower() == row.lesion_class
        assert all(read_name(organ) == (organ, None) for organ in row.organs)


def test_closing_fills_holes_and_bays_but_joins_no_neighbours():
    organ = disc(48, 48, 30)
    holed = organ & ~disc(48, 48, 10) & ~disc(78, 48, 2)
    assert np.count_nonzero(close_mask(holed, 2) ^ organ) <= 8
    two = disc(25, 48, 12) | disc(72, 48, 12)
    assert not close_mask(two, 2)[48, 48]
    assert not close_mask(np.zeros((9, 9), bool), 2).any()


# --- sides ----------------------------------------------------------------------------------------------------------------


def turned(made: SourceImage, flip_x: bool, flip_y: bool, swap: bool) -> SourceImage:
    """The same patient written in another orientation: pixels, masks, boxes and directions change together."""
    opposite = dict(zip("LRAPHF", "RLPAFH", strict=True))

    def move(array: np.ndarray) -> np.ndarray:
        array = array.T if swap else array
        return np.ascontiguousarray(array[:: -1 if flip_y else 1, :: -1 if flip_x else 1])

    x, y = made.patient_directions.split("\\")
    x, y = (y, x) if swap else (x, y)
    directions = f"{opposite[x] if flip_x else x}\\{opposite[y] if flip_y else y}"
    lesions = tuple(lesion(move(each.mask), each.lesion_class, number) for number, each in enumerate(made.annotations))
    organs = {name: move(mask) for name, mask in made.organs.items()}
    return dataclasses.replace(
        made, pixels=move(made.pixels), annotations=lesions, organs=organs, patient_directions=directions
    )


@pytest.mark.parametrize(
    ("plane", "directions"), [("axial", "L\\P"), ("coronal", "L\\F"), ("frontal", "L\\F"), ("sagittal", "P\\F")]
)
@pytest.mark.parametrize("named", [True, False])
def test_patient_words_are_equal_however_the_picture_is_written(plane, directions, named):
    organs = ABDOMEN if named else {"kidney": ABDOMEN["kidney right"] | ABDOMEN["kidney left"], "brain": disc(48, 30, 30, 20)}
    spots = [disc(28, 74, 3), disc(68, 70, 4), disc(30, 40, 5), disc(52, 26, 4)]
    made = image(
        *(lesion(spot, "cyst", n) for n, spot in enumerate(spots)), organs=organs, plane=plane, patient_directions=directions
    )

    def words(some: SourceImage) -> list[tuple]:
        keys = ("organ", "relation", "side", "side_of", "vertical", "depth")
        return sorted(
            tuple(str(each.facts.get(key)) for key in keys)
            for each in link(some, seed=0).annotations
            if each.box_role == "lesion"
        )

    expected = words(made)
    assert any(word[2] == "left" for word in expected) == (plane != "sagittal")
    for turn in itertools.product((False, True), repeat=3):
        assert words(turned(made, *turn)) == expected


def test_names_and_directions_that_disagree_are_rejected_by_name():
    swapped = {"kidney right": ABDOMEN["kidney left"], "kidney left": ABDOMEN["kidney right"]}
    linked = link(image(lesion(disc(28, 72, 4)), organs=swapped, label_scope=("cyst",)), seed=0)
    assert not linked.annotations
    (reject,) = linked.rejects
    assert (reject.index, reject.reason) == ("images[0].annotations[0]", "side_disagrees")
    assert "left" in reject.detail
    assert "right" in reject.detail


@pytest.mark.parametrize("changes", [{"patient_directions": None}, {"plane": "none"}, {"modality": "US"}])
def test_no_side_word_without_directions(changes):
    facts = link(image(lesion(disc(28, 72, 4)), organs=ABDOMEN, **changes), seed=0).annotations[0].facts
    assert not {"side", "vertical", "depth"} & facts.keys()
    assert facts["organ"] == "kidney"
    assert facts["location"] == "kidney, lower left of the image"


def test_lung_boxes_of_real_radiographs_lie_on_the_stated_sides():
    folder = SHARED / "covid_cxr_lungs"
    if not folder.exists():
        pytest.skip(f"needs {folder.name} in shared data")
    from PIL import Image

    coco = json.loads((folder / "lung_boxes_coco.json").read_text())
    names = {each["id"]: each["name"].lower() for each in coco["categories"]}
    files = {each["id"]: each["file_name"] for each in coco["images"]}
    right = total = 0
    for number, file in files.items():
        mask = Image.open(next((folder / "lung_masks").glob(f"{Path(file).stem}.*"))).convert("L")
        scale = 160 / max(mask.size)
        small = np.asarray(mask.resize((round(mask.width * scale), round(mask.height * scale)), Image.Resampling.NEAREST)) > 0
        boxes = [each for each in coco["annotations"] if each["image_id"] == number]
        annotations = tuple(
            SourceAnnotation(
                f"annotations[{k}]",
                names[each["category_id"]],
                "lung field",
                Box(x * scale, y * scale, (x + w) * scale, (y + h) * scale),
            )
            for k, each in enumerate(boxes)
            for x, y, w, h in [each["bbox"]]
        )
        made = image(
            *annotations,
            pixels=small.astype(np.uint8) * 255,
            organs={"lungs": small},
            modality="DX",
            plane="frontal",
            patient_directions="L\\F",
        )
        for each in link(made, seed=0).annotations:
            right += each.facts["side"] == ("left" if "left" in each.source.class_source else "right")
            total += 1
    assert (right, total) == (300, 300)


# --- measured facts -------------------------------------------------------------------------------------------------------


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


# --- controls -------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("kidney left", ("kidney", "left")),
        ("rib left 3", ("rib 3", "left")),
        ("Lung_Upper_Lobe_Right", ("lung upper lobe", "right")),
        ("heart atrium left", ("left heart atrium", None)),
        ("lungs", ("lung", None)),
    ],
)
def test_organ_names_are_read(name, read):
    assert read_name(name) == read
    assert OrganMask(*read_name(name), mask=BODY).name == read[0]
