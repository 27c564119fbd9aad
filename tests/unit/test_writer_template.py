"""The template writer on phantoms and small pictures: every text true, traced, balanced and free of leaks."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from medclm.corpus import rationale
from medclm.corpus.anatomy import link
from medclm.corpus.checks import check_draft
from medclm.corpus.contract import LinkedImage, SourceAnnotation, SourceImage, WriteRequest
from medclm.corpus.phrases import load_phrases
from medclm.corpus.rationale import image_facts, many, one
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import KINDS, TemplateWriter
from medclm.types import Box

SIZE = 90


def picture(*lesions: tuple[str, float, float, float], **changes) -> LinkedImage:
    """Lesions as (class, x, y, side) on an axial CT of one liver and two kidneys."""
    y, x = np.mgrid[:SIZE, :SIZE]
    organs = {"liver": (x < 45) & (y < 55), "kidney right": (x < 40) & (y > 60), "kidney left": (x > 50) & (y > 60)}
    annotations = tuple(
        SourceAnnotation(f"annotations[{k}]", name, name, Box(x0, y0, x0 + side, y0 + side))
        for k, (name, x0, y0, side) in enumerate(lesions)
    )
    given = {
        "index": "images[0]",
        "key": "k",
        "pixels": np.full((SIZE, SIZE), 99, np.uint8),
        "source": "test",
        "licence": "none",
        "shareable": True,
        "annotations": annotations,
        "organs": organs,
        "modality": "CT",
        "plane": "axial",
        "patient_directions": "L\\P",
        "label_scope": ("cyst", "mass"),
        "image_labels": {"no finding": "present" if not lesions else "absent"},
    }
    return link(SourceImage(**given | changes), seed=0)


def drafts(linked: LinkedImage, kind: str = "", seed: int = 0, cap: int = 99):
    made, rejects = TemplateWriter(max_per_image=cap).write([WriteRequest(linked, seed)])[0]
    assert not rejects
    return [draft for draft in made if kind in ("", draft.question_kind)]


def texts(draft):
    return [
        (stage, text)
        for stage, text in (("easy", draft.easy), ("medium", draft.medium), ("lend", draft.lend))
        if text is not None
    ]


@cache
def phantoms() -> list[tuple[LinkedImage, list]]:
    source, writer = PhantomSource(count=500, seed=7, size=64), TemplateWriter()
    linked = [link(source.read(i), seed=i) for i in range(len(source))]
    return [(each, writer.drafts(each, i)) for i, each in enumerate(linked)]


def test_all_phantom_texts_pass_the_checks_and_every_kind_and_stage_occurs():
    kinds = Counter()
    for linked, made in phantoms():
        for draft in made:
            assert check_draft(draft, linked) == []
            kinds.update((draft.question_kind, stage) for stage, _ in texts(draft))
    assert {kind for kind, _ in kinds} == set(KINDS)
    for kind in KINDS:
        assert kinds[kind, "medium"] == kinds[kind, "lend"] > (20 if kind == "compare" else 100)  # few have two lesions
        assert (kinds[kind, "easy"] > 100) == (kind not in ("count", "compare"))


def test_phantom_hosts_and_sides_are_the_drawn_ones():
    source = PhantomSource(count=500, seed=7, size=64)
    right = total = 0
    for index, (linked, _) in enumerate(phantoms()):
        truth = source.truth(index)
        for each in linked.annotations:
            if each.box_role == "lesion":
                drawn = truth[int(re.sub(r"\D", "", each.source.index))]
                assert each.facts.get("side") == drawn.side or drawn.side is None or linked.image.patient_directions is None
                right += each.organ == drawn.organ
                total += 1
    assert right / total >= 0.95


def test_closed_answers_are_balanced_over_500_images():
    counts = Counter(
        (stage, text.answer)
        for _, made in phantoms()
        for draft in made
        for stage, text in texts(draft)
        if text.answer_type == "closed"
    )
    for stage in ("easy",):
        share = counts[stage, "Yes"] / (counts[stage, "Yes"] + counts[stage, "No"])
        assert 0.45 <= share <= 0.55
    assert counts["medium", "Yes"] > 100
    assert counts["medium", "No"] > 100


def test_a_box_alone_does_not_give_the_answer_away():
    """Control boxes have the lesions' size and lie as deep in the body."""
    sizes = defaultdict(list)
    for linked, made in phantoms():
        for draft in made:
            if draft.question_kind == "presence" and draft.easy is not None:
                sizes[draft.easy.answer].append(linked.annotations[draft.annotations[0]].source.box_px.area)
    assert abs(np.mean(sizes["Yes"]) / np.mean(sizes["No"]) - 1) < 0.15


def test_every_claim_traces_to_a_fact_and_every_rationale_is_its_claims():
    for linked, made in phantoms():
        of_image = image_facts(linked)
        for draft in made:
            for claim in draft.claims:
                at = claim["annotation"]
                facts = of_image if at is None else linked.annotations[draft.annotations[at]].facts
                assert claim["fact"] in facts
            for stage, text in texts(draft):
                said = [claim["text"] for claim in draft.claims if claim["stage"] == stage]
                position = 0
                for piece in said:
                    position = text.rationale.lower().index(piece.lower(), position) + len(piece)
                left_over = text.rationale.lower()
                for piece in sorted(said, key=len, reverse=True):
                    left_over = left_over.replace(piece.lower(), "", 1)
                assert not left_over.strip(" ,;:."), (text.rationale, said)


def test_no_whole_image_question_holds_its_answer_or_a_box():
    for _, made in phantoms():
        for draft in made:
            for stage, text in texts(draft):
                if stage == "easy":
                    assert "{color} box" in text.question
                    continue
                assert "box" not in text.question
                if text.answer_type == "open":
                    assert not any(
                        re.search(rf"\b{re.escape(answer.lower())}\b", text.question.lower()) for answer in text.answers
                    )


def test_rationales_are_short_and_begin_with_their_box():
    lengths = []
    for _, made in phantoms():
        for draft in made:
            for stage, text in texts(draft):
                if stage != "lend" and draft.annotations:
                    lengths.append(len(text.rationale.split()))
                    assert text.rationale.startswith("<box:")
                    assert "\n" not in text.rationale
    assert np.median(lengths) <= 25


def test_writing_is_deterministic_and_the_seed_changes_phrasings():
    linked = picture(("cyst", 5, 5, 10), ("mass", 60, 70, 12))
    assert drafts(linked) == drafts(linked)
    questions = {draft.easy.question for seed in range(60) for draft in drafts(linked, "what", seed) if draft.easy}
    assert len(questions) >= 4


def test_every_phrasing_of_every_kind_is_used():
    linked = picture(
        ("cyst", 5, 5, 10),
        ("mass", 60, 70, 16),
        spacing_mm=(0.7, 0.7),
        label_scope=("cyst", "mass", "stone"),
    )
    asked = {"easy": Counter(), "medium": Counter()}
    for seed in range(150):
        for draft in drafts(linked, seed=seed):
            for stage, text in texts(draft):
                if stage != "lend":
                    asked[stage][draft.question_kind, text.question] += 1
    phrases = load_phrases("en")
    for stage, kinds in (("easy", phrases.easy), ("medium", phrases.medium)):
        for kind, questions in kinds.items():
            assert len({question for of, question in asked[stage] if of == kind}) >= len(questions) >= 6, (stage, kind)


def test_sizes_need_a_spacing():
    assert drafts(picture(("cyst", 5, 5, 10)), "size") == []
    (draft,) = drafts(picture(("cyst", 5, 5, 10), spacing_mm=(0.5, 1.25)), "size")
    assert draft.easy.answer == draft.medium.answer == draft.lend.answer == "12 x 5 mm"
    assert "12 by 5 mm" in draft.easy.answers
    assert "12 x 5 mm" in draft.easy.rationale
    assert ("size_mm", "easy") in {(claim["fact"], claim["stage"]) for claim in draft.claims}
    (small,) = drafts(picture(("cyst", 5, 5, 10), spacing_mm=(0.12, 0.24)), "size")
    assert small.easy.answer == "2.4 x 1.2 mm"


def test_comparisons_are_of_two_lesions_that_words_tell_apart():
    linked = picture(("cyst", 5, 5, 10), ("cyst", 60, 70, 16))
    firsts = set()
    for seed in range(20):
        (draft,) = drafts(linked, "compare", seed)
        assert draft.medium.answer == draft.lend.answer == "the cyst in the left kidney"
        assert draft.medium.answer_type == "choice"
        assert draft.easy is None
        one, other = (draft.medium.question.index(f"the cyst in the {organ}") for organ in ("left kidney", "liver"))
        firsts.add(one < other)
        assert draft.medium.rationale.endswith("<box:0> is the larger.")
        assert linked.annotations[draft.annotations[0]].organ == "kidney"
        assert check_draft(draft, linked) == []
    assert firsts == {True, False}
    assert drafts(picture(("cyst", 5, 5, 10), ("cyst", 60, 70, 10.5)), "compare") == []  # hardly larger
    assert drafts(picture(("cyst", 5, 5, 10), ("cyst", 20, 30, 16)), "compare") == []  # both in the liver
    assert drafts(picture(("cyst", 5, 5, 10)), "compare") == []


@pytest.mark.parametrize("cap", [1, 2, 4, 6])
def test_the_cap_holds_and_kinds_are_spread(cap):
    linked = picture(("cyst", 5, 5, 10), ("mass", 20, 30, 6), ("cyst", 60, 70, 16), spacing_mm=(0.7, 0.7))
    kinds = Counter()
    for seed in range(200):
        made = drafts(linked, seed=seed, cap=cap)
        assert len(made) == cap
        kinds.update(draft.question_kind for draft in made)
    assert set(kinds) == set(KINDS)
    assert max(kinds.values()) <= 3 * min(kinds.values())


def test_a_lone_lesion_is_asked_for_plainly():
    linked = picture(("cyst", 60, 70, 12))
    (what,) = drafts(linked, "what")
    assert what.domain == "cyst / CT"
    assert what.medium.answer == what.easy.answer == what.lend.answer == "cyst"
    (organ,) = drafts(linked, "which_organ")
    assert organ.medium.answers == ("kidney", "left kidney")
    (where,) = drafts(linked, "where")
    assert where.medium.answers == ("central part of the left kidney", "left kidney, central part")


def test_several_of_a_class_are_answered_with_all_boxes_or_by_the_largest():
    linked = picture(("cyst", 5, 5, 10), ("cyst", 25, 30, 10), ("cyst", 60, 70, 10))
    whats = drafts(linked, "what")
    (offered,) = [draft for draft in whats if draft.medium]
    assert offered.annotations == (0, 1, 2)
    assert set(re.findall(r"<box:(\d)>", offered.medium.rationale)) == set("012")
    assert "the findings" in offered.medium.question
    assert re.findall(r"<box:(\d)>", offered.easy.rationale) == ["0"]
    assert not any(draft.medium for draft in drafts(linked, "where"))  # no words are true of one of them
    linked = picture(("cyst", 5, 5, 10), ("cyst", 25, 30, 10), ("cyst", 60, 70, 16))
    (where,) = [draft for draft in drafts(linked, "where") if draft.medium]
    assert "the largest finding" in where.medium.question
    assert linked.annotations[where.annotations[0]].facts["largest"]


def test_the_and_the_largest_need_to_know_every_lesion_they_could_mean():
    some = (("cyst", 5, 5, 10), ("mass", 60, 70, 16))
    definite = re.compile(r"\bthe (?:largest |)(?:cyst|mass|finding)e?s?\b")
    for scope, labels in (((), {}), (("cyst",), {}), (("cyst", "mass"), {}), (("cyst",), {"no finding": "absent"})):
        linked = picture(*some, label_scope=scope, image_labels=labels)
        for seed in range(12):
            for draft in drafts(linked, seed=seed):
                asked = (
                    (draft.medium.question, draft.lend.question) if draft.medium and draft.question_kind != "describe" else ()
                )
                for question in asked:
                    for words in definite.findall(question):
                        assert any(name in words for name in scope), question
    linked = picture(*some, label_scope=(), image_labels={})
    (where, _) = drafts(linked, "where")
    assert "a cyst in this image" in where.medium.question or "a mass in this image" in where.medium.question
    assert drafts(linked, "compare") == []
    lone = picture(("cyst", 5, 5, 10), label_scope=(), image_labels={})
    assert "a finding in this image" in drafts(lone, "what")[0].medium.question


def test_a_part_is_not_compared_with_its_whole():
    whole = picture(("mass", 5, 5, 30), ("cyst", 10, 10, 8))
    assert drafts(whole, "compare") == []


def test_a_report_that_names_sides_is_no_answer_where_no_side_is_known():
    report = {"findings": "A cyst in the left kidney.", "language": "en"}
    (known,) = drafts(picture(("cyst", 60, 70, 12), report=report), "describe")
    assert known.medium.answer == report["findings"]
    (unknown,) = drafts(picture(("cyst", 60, 70, 12), report=report, patient_directions=None), "describe")
    assert "left" not in unknown.medium.answer.replace("left of the image", "")


def test_several_classes_are_told_apart_by_size_or_place():
    linked = picture(("cyst", 5, 5, 10), ("mass", 60, 70, 10))
    subjects = {draft.medium.answer: draft.medium.question for draft in drafts(linked, "what")}
    assert "in the liver" in subjects["cyst"]
    assert "in the left kidney" in subjects["mass"]
    same_organ = picture(("cyst", 5, 5, 10), ("mass", 25, 30, 10))
    assert not any(draft.medium for draft in drafts(same_organ, "what"))


def test_many_places_are_told_by_organ():
    linked = picture(*(("cyst", x, y, 8) for x, y in ((5, 2), (5, 22), (5, 42), (60, 63), (60, 80))))
    (offered,) = [draft for draft in drafts(linked, "what") if draft.medium]
    assert (
        offered.medium.rationale
        == "<box:0>, <box:1> and <box:2> lie in the liver; <box:3> and <box:4> lie in the kidney: cysts."
    )
    assert check_draft(offered, linked) == []


def test_over_eight_boxes_are_counted_not_listed():
    linked = picture(*(("cyst", 4 + 12 * (k % 3), 4 + 12 * (k // 3), 8) for k in range(9)))
    (count,) = drafts(linked, "count")
    assert count.medium.answer == "9"
    assert "nine" in count.medium.answers
    assert "<box" not in count.medium.rationale
    assert "9 cysts are seen (liver)" in count.medium.rationale
    assert len(count.annotations) == 9
    unknown = replace(linked, image=replace(linked.image, label_scope=()))
    assert not drafts(unknown, "count")
    without = link(unknown.image, seed=0)
    assert any("At least 9 cysts" in draft.medium.rationale for draft in drafts(without, "describe"))


def test_counts_are_right_and_named():
    (count,) = drafts(picture(("cyst", 5, 5, 10), ("cyst", 60, 70, 10), ("mass", 20, 30, 9)), "count")[:1]
    truth = {"cyst": "2", "mass": "1"}
    assert count.medium.answer == truth[count.domain.split(" / ")[0]]


def test_negatives_need_scope_absence_and_certainty():
    def asked(**changes) -> set[str]:
        found = set()
        for seed in range(40):
            for draft in drafts(picture(("cyst", 5, 5, 10), **changes), "presence", seed):
                found |= {
                    f"{stage} {text.answer} {draft.domain.split(' / ')[0]}" for stage, text in texts(draft) if stage != "lend"
                }
        return found

    assert asked() == {"easy Yes cyst", "medium Yes cyst", "easy No cyst", "medium No mass"}
    assert asked(label_scope=()) == set()
    assert asked(label_scope=("cyst",)) == {"easy Yes cyst", "medium Yes cyst", "easy No cyst"}
    assert asked(image_labels={"mass": "uncertain"}) == {"easy Yes cyst", "medium Yes cyst", "easy No cyst"}


def test_an_image_without_findings_offers_medium_alone():
    (draft,) = drafts(picture(image_labels={}))
    assert draft.domain in ("cyst / CT", "mass / CT")
    (said,) = drafts(picture())
    assert said.domain == "no finding / CT"
    assert (draft.annotations, draft.easy, draft.question_kind) == ((), None, "presence")
    assert draft.medium.answer == draft.lend.answer == "No"
    assert "normal" not in draft.medium.rationale
    assert "<box" not in draft.medium.rationale
    assert any(name in draft.medium.rationale for name in ("cyst", "mass"))
    assert drafts(picture(label_scope=())) == []


def test_control_records_offer_easy_alone_and_say_no():
    found = [
        draft
        for seed in range(20)
        for draft in drafts(picture(("cyst", 5, 5, 10)), "presence", seed)
        if draft.easy and draft.easy.answer == "No"
    ]
    assert found
    for draft in found:
        assert (draft.annotations, draft.medium, draft.lend) == ((1,), None, None)
        assert "no cyst" in draft.easy.rationale or "without any cyst" in draft.easy.rationale


def test_projections_are_never_looked_into():
    linked = picture(("cyst", 60, 70, 12), modality="DX", plane="frontal", patient_directions="L\\F")
    for seed in range(10):
        for draft in drafts(linked, seed=seed):
            for _, text in texts(draft):
                assert not re.search(r"\b(in|contains) the (left )?kidney", f"{text.question} {text.rationale} {text.answer}")
    (organ,) = drafts(linked, "which_organ")
    assert re.search("(projects|is projected) over", organ.medium.rationale)


def test_the_organ_question_has_the_same_words_on_every_modality():
    """A word of its own on radiographs would narrow the answer to what a chest film shows."""

    def asked(**image):
        found = [draft for seed in range(40) for draft in drafts(picture(("cyst", 60, 70, 12), **image), "which_organ", seed)]
        return {draft.easy.question for draft in found}, {draft.medium.question for draft in found}

    assert asked(modality="DX", plane="frontal", patient_directions="L\\F") == asked()


def test_the_studys_report_is_the_description():
    report = {"findings": "A cyst is unchanged in the left kidney.", "language": "en"}
    (draft,) = drafts(picture(("cyst", 60, 70, 12), report=report), "describe")
    assert draft.medium.answer == draft.lend.answer == report["findings"]
    assert draft.easy.answer == "Cyst in the central part of the left kidney."
    assert check_draft(draft, picture(("cyst", 60, 70, 12), report=report)) == []


def test_domains_name_the_technique_of_mr_and_unknown_modalities():
    assert drafts(picture(("cyst", 5, 5, 9), modality="MR", technique="t2"))[0].domain == "cyst / MR / t2"
    assert drafts(picture(("cyst", 5, 5, 9), modality=None))[0].domain == "cyst / unknown"
    assert drafts(picture(("cyst", 5, 5, 9), modality="CT", technique="venous"))[0].domain == "cyst / CT"


def test_an_organ_that_the_class_alone_decides_is_not_asked_for():
    linked = picture(("liver cyst", 5, 5, 10))
    assert linked.annotations[0].organ == "liver"
    assert not drafts(linked, "which_organ")
    assert drafts(linked, "where")


@pytest.mark.parametrize(
    ("name", "single", "plural"),
    [
        ("cyst", "a cyst", "cysts"),
        ("infiltration", "an infiltration", "infiltrations"),
        ("mass", "a mass", "masses"),
        ("emphysema", "emphysema", "areas of emphysema"),
        ("lung opacity", "a lung opacity", "areas of lung opacity"),
        ("platelets", "platelets", "platelets"),
        ("fibrosis", "fibrosis", "areas of fibrosis"),
        ("pneumothorax", "a pneumothorax", "pneumothoraxes"),
    ],
)
def test_words(name, single, plural):
    assert one(name) == single
    assert many(name) == plural
    assert name in many(name)


def test_findings_join_equal_sentences():
    facts = {"label": "cyst", "relation": "inside", "location": "liver"}
    assert rationale.findings([facts, facts, {**facts, "label": "mass"}]) == "Two cysts in the liver. Mass in the liver."


def test_kinds_left_out_change_nothing_in_the_others():
    some = ("what", "count")
    for linked, _ in phantoms()[:60]:
        fewer = TemplateWriter(max_per_image=99, kinds=some).drafts(linked, 0)
        every = TemplateWriter(max_per_image=99).drafts(linked, 0)
        assert {draft.question_kind for draft in fewer} <= set(some)
        for kind in some:
            assert [d for d in fewer if d.question_kind == kind] == [d for d in every if d.question_kind == kind]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": "de"}, "--language de: neither en nor a file"),
        ({"max_per_image": 0}, "max_per_image=0"),
        ({"kinds": ("what", "why")}, "kinds='what,why': choose from presence, what"),
        ({"kinds": ()}, "kinds=''"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TemplateWriter(**settings)
