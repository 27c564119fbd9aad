"""Every suite under players that a score must see through: perfect is 1, silence, spam and stock phrases gain nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eval.example import Example, Prediction, Square, Terms
from eval.pool import Pool
from eval.runner import SUITES
from eval.suite import ANSWER, summarise
from eval.suites.behaviour import (
    BLANK,
    MIRRORED,
    OCCLUDED,
    ON_HEALTHY,
    ON_LESION,
    OTHER_COLOUR,
    BehaviourSuite,
    elsewhere,
    repeated,
)
from eval.suites.choice import OPTIONS, ChoiceSuite, truth_of
from eval.suites.classification import ClassificationSuite, _sensitivity_interval, ask_name
from eval.suites.grounding import GroundingSuite
from eval.suites.report import ReportSuite
from eval.suites.vqa import VqaSuite
from medclm.types import Box

TERMS = Terms("direct", Square(336, 14, "pad"))


def pool_of(asked, train=()) -> Pool:
    return Pool(name="made up", asked=list(asked), train=list(train), pictures=None, identity="", left_out={})


def example(number: int, **changes) -> Example:
    given = {
        "patient": f"p{number}",
        "question_kind": "what",
        "answer_type": "open",
        "question": "What is it?",
        "picture": number,
    }
    return Example(id=f"e{number}", **given | changes)


def scores(suite, said) -> dict[str, float | None]:
    judged = suite.judge(suite.examples, [said(one) for one in suite.examples])
    return {name: score.value for name, score in summarise(suite, judged, seed=0).items()}


# --- choice

ORGANS = ("liver", "kidney", "left lung", "brain")
CHOICES = [example(i, answer_type="choice", options=ORGANS, answers=(ORGANS[i % 4],)) for i in range(24)]


def picks(place, sure=5.0, tokens=(1, 1, 2, 1)):
    def said(one):
        sums = np.full(4, -sure)
        sums[place(one)] = 0.0
        return {OPTIONS: Prediction(option_scores=tuple(sums), option_tokens=tokens)}

    return said


def test_choice_perfect_wrong_and_constant():
    suite = ChoiceSuite(pool_of(CHOICES), TERMS)
    perfect = scores(suite, picks(truth_of))
    assert perfect["choice_accuracy"] == perfect["choice_accuracy_normalised"] == 1.0
    assert perfect["risk_coverage_area"] == 0.0
    wrong = scores(suite, picks(lambda one: (truth_of(one) + 1) % 4))
    assert wrong["choice_accuracy"] == 0.0
    assert wrong["calibration_error_15_bins"] > 0.9  # sure and wrong
    flat = scores(suite, lambda one: {OPTIONS: Prediction(option_scores=(-1.0,) * 4, option_tokens=(1,) * 4)})
    assert flat["choice_accuracy"] == pytest.approx(0.25)  # a tie is shared
    assert scores(suite, picks(lambda one: 0))["choice_accuracy"] == pytest.approx(0.25)
    assert scores(suite, lambda one: {OPTIONS: Prediction()})["choice_accuracy"] == 0.0


def test_choice_normalisation_is_by_tokens():
    suite = ChoiceSuite(pool_of([CHOICES[2]]), TERMS)  # truth `left lung`, two tokens
    sums = (-1.2, -3.0, -2.0, -3.0)  # the short `liver` wins by sum, the long one by mean: -1.0
    [values] = suite.judge(suite.examples, [{OPTIONS: Prediction(option_scores=sums, option_tokens=(1, 1, 2, 1))}])
    assert (values["choice_accuracy"], values["choice_accuracy_normalised"]) == (0.0, 1.0)


def test_choice_reads_letters_and_leaves_out_what_has_no_single_truth():
    asked = [
        example(1, question="Where? A) liver B) kidney", answers=("B",)),
        example(2, question="Where?", options=ORGANS, answers=("A", "brain")),
        example(3, question="Where?", options=ORGANS, answers=("spleen",)),
    ]
    suite = ChoiceSuite(pool_of(asked), TERMS)
    assert [one.id for one in suite.examples] == ["e1"]
    assert suite.left_out == {"no options, or not one of them right": 2}
    [ask] = suite.asks(asked[0])
    assert ask.options == ("liver", "kidney")
    assert ask.question.count("A)") == 1


def test_options_that_are_letters_are_options():
    panels = [example(i, answer_type="choice", options=("B", "A", "C"), answers=("BAC"[i % 3],)) for i in range(3)]
    assert [truth_of(one) for one in ChoiceSuite(pool_of(panels), TERMS).examples] == [0, 1, 2]
    suite = VqaSuite(pool_of(panels), TERMS)
    assert scores(suite, lambda one: {ANSWER: Prediction(answer="ABC"[int(one.id[1:])])})["choice_accuracy"] == 1.0


# --- closed and open questions


def test_what_every_answer_being_no_leaves_undefined_is_not_a_number():
    asked = [
        example(i, question_kind="presence", answer_type="closed", answers=("No",), boxes_known=True, lists_boxes=False)
        for i in range(12)
    ]
    pool = pool_of(asked, train=asked)
    no = scores(VqaSuite(pool, TERMS), lambda one: {ANSWER: Prediction(answer="No")})
    assert (no["closed_accuracy"], no["specificity"]) == (1.0, 1.0)
    assert [no[name] for name in ("sensitivity", "balanced_accuracy", "closed_above_floor", "answer_accuracy")] == [None] * 4
    sure = scores(ClassificationSuite(pool, TERMS), lambda one: {ask_name("presence"): Prediction(option_scores=(-2.0, -0.1))})
    assert (sure["specificity"], sure["brier"] < 0.1) == (1.0, True)
    undefined = [name for name in sure if name.startswith(("auroc", "average", "f1", "sensitivity"))]
    assert len(undefined) == 9
    assert [sure[name] for name in undefined] == [None] * 9
    boxes = scores(GroundingSuite(pool, TERMS), lambda one: {ANSWER: Prediction(answer="No")})
    assert {name for name, value in boxes.items() if value is not None} == {"false_positive_rate", "boxes_on_empty"}


def test_an_answer_that_accepts_nothing_is_left_out():
    asked = [example(1, answers=("#",)), example(2, answers=("cyst#a mass",))]
    for make in (VqaSuite, BehaviourSuite):
        suite = make(pool_of(asked, train=asked), TERMS)
        assert [one.id for one in suite.examples] == ["e2"]
        assert suite.left_out == {"no question or no accepted answer": 1}
    assert VqaSuite(pool_of(asked, train=asked), TERMS).guess(asked[1])[ANSWER].answer == "cyst"


def test_the_guess_knows_closed_questions_from_open_ones_of_their_kind():
    closed = [
        example(i, question=f"Is {i} CT?", question_kind="modality", answer_type="closed", answers=("yes",)) for i in range(3)
    ]
    opened = [example(i, question=f"Which is {i}?", question_kind="modality", answers=("MR",)) for i in range(3, 8)]
    unseen = example(9, question="Is it flat?", question_kind="plane", answer_type="closed", answers=("yes",))
    suite = VqaSuite(pool_of([*closed, *opened, unseen], train=closed + opened), TERMS)
    assert {suite.guess(one)[ANSWER].answer for one in opened} == {"MR"}
    assert {suite.guess(one)[ANSWER].answer for one in [*closed, unseen]} == {"yes"}


# --- classification

LABELLED = [
    example(
        i,
        question="",
        labels={"Edema": float(i % 2), "Fracture": float(i % 3 == 0), "Mass": 1.0} | ({"Edema": -1.0} if i == 7 else {}),
    )
    for i in range(30)
]


def odds(of):
    def said(one):
        return {ask_name(name): Prediction(option_scores=(of(one, name, truth), 0.0)) for name, truth in one.labels.items()}

    return said


def test_classification_perfect_reversed_constant():
    suite = ClassificationSuite(pool_of(LABELLED), TERMS)
    assert suite.ranked == ("Edema", "Fracture")
    assert suite.left_out == {"label Mass: only one class, no rank score": 30}
    perfect = scores(suite, odds(lambda one, name, truth: 20 * truth - 10))
    assert perfect["auroc_macro"] == perfect["average_precision_macro"] == perfect["f1_micro"] == 1.0
    assert perfect["sensitivity_at_0.9_specificity_macro"] == 1.0
    assert perfect["brier"] == pytest.approx(0, abs=1e-6)
    assert scores(suite, odds(lambda one, name, truth: -truth))["auroc_macro"] == 0.0
    constant = scores(suite, odds(lambda one, name, truth: 3.0))
    assert constant["auroc_macro"] == 0.5
    assert (constant["sensitivity"], constant["specificity"]) == (1.0, 0.0)
    silent = scores(suite, odds(lambda one, name, truth: 0.0))
    assert (silent["sensitivity"], silent["specificity"]) == (0.0, 1.0)  # even odds say no


def test_yes_and_no_as_numbers_are_no_scores():
    suite = ClassificationSuite(pool_of(LABELLED), TERMS)
    hard = {1.0: (1.0, 0.0), 0.0: (0.0, 1.0), -1.0: (0.0, 1.0)}
    with pytest.raises(ValueError, match="which are decisions"):
        scores(suite, lambda one: {ask_name(name): Prediction(option_scores=hard[truth]) for name, truth in one.labels.items()})


def test_an_interval_of_a_mean_over_labels_is_over_the_same_labels():
    truth = np.array([[i % 2, i == 0] for i in range(40)], dtype=float)
    values = np.concatenate([np.stack([truth[:, 0], 1 - truth[:, 1]], axis=1) + 0.01 * np.arange(40)[:, None], truth], axis=1)
    low, high = _sensitivity_interval(("often", "once"), values, [str(i) for i in range(40)], 0)
    assert (low, high) == (0.5, 0.5)  # of `often` all are found, of `once` none: without it the mean would be 1


def test_uncertain_labels_count_as_told():
    suite = ClassificationSuite(pool_of(LABELLED), TERMS)
    high = scores(suite, odds(lambda one, name, truth: {1.0: 2.0, 0.0: -2.0, -1.0: 3.0}[truth]))
    assert high["auroc_macro"] == high["auroc_macro_uncertain_positive"] == 1.0
    assert high["auroc_macro_uncertain_negative"] < 1.0


def test_a_closed_question_is_a_label_of_its_domain_and_texts_are_refused():
    asked = [
        example(i, question="Is there a cyst?", answer_type="closed", answers=("Yes" if i % 2 else "No",), domain="cyst / CT")
        for i in range(8)
    ]
    suite = ClassificationSuite(pool_of(asked), TERMS)
    assert suite.labels == ("cyst / CT",)
    [ask] = suite.asks(asked[0])
    assert ask.question.startswith("Is there a cyst?")
    with pytest.raises(ValueError, match="e0: cyst / CT has no score"):
        suite.judge(suite.examples, [{ask.name: Prediction(answer="yes")} for _ in asked])


# --- report

TEXTS = [
    "The heart is enlarged. There is a small left pleural effusion. No pneumothorax.",
    "Right lower lobe consolidation. No pleural effusion. Heart size is normal.",
    "Low lung volumes with bibasilar atelectasis. No focal consolidation.",
    "There is mild pulmonary edema with cardiomegaly.",
    "A displaced fracture of the left sixth rib. No pneumothorax.",
    "Clear lungs. No effusion or pneumothorax. The heart is not enlarged.",
]
REPORTS = [example(i, question="", question_kind="findings", answers=(text,)) for i, text in enumerate(TEXTS)]


def wrote(of):
    return lambda one: {ANSWER: Prediction(answer=of(one) or None)}


@pytest.fixture(scope="module")
def report_suite():
    return ReportSuite(pool_of(REPORTS), TERMS)


def test_report_perfect_empty_spam_and_the_floor(report_suite):
    perfect = scores(report_suite, wrote(lambda one: one.answers[0]))
    for name in (
        "report_bleu1",
        "report_bleu4",
        "report_rouge_l",
        "f1_14_micro_uncertain_positive",
        "exact uncertain=positive",
    ):
        assert perfect[name] == pytest.approx(1.0), name
    assert perfect["hallucinated_findings"] == perfect["omitted_findings"] == perfect["side_error_share"] == 0.0
    empty = scores(report_suite, wrote(lambda one: ""))
    assert empty["report_bleu1"] == empty["report_rouge_l"] == empty["f1_14_micro_uncertain_positive"] == 0.0
    assert empty["parsed_rate"] == 0.0
    spam = scores(report_suite, wrote(lambda one: " ".join([one.answers[0]] * 20)))
    assert spam["report_bleu4"] < 0.2
    floor = summarise(report_suite, report_suite.judge(REPORTS, [report_suite.guess(one) for one in REPORTS]), seed=0)
    assert all(score.floor == score.value for name, score in floor.items() if score.floor is not None)
    assert 0 < floor["report_bleu1"].value < 0.6


def test_report_leaves_out_other_languages_and_says_what_was_not_run(report_suite):
    asked = [*REPORTS[:2], example(9, question="", question_kind="findings", answers=("Sin derrame.",), language="es")]
    assert ReportSuite(pool_of(asked), TERMS).left_out == {"not English: these scores are for English": 1}
    assert "CheXbert F1" in report_suite.not_run
    spanish = "No hay derrame pleural ni neumotórax. El corazón es de tamaño normal y los pulmones están claros."
    with pytest.raises(ValueError, match=r"texts\[0\] is not English"):
        ReportSuite(pool_of([example(9, question="", question_kind="findings", answers=(spanish,))]), TERMS)


# --- grounding with confidence

BOXES = [Box(0.1, 0.1, 0.3, 0.3), Box(0.6, 0.6, 0.8, 0.9), None]
BOXED = [
    example(
        i,
        answers=("cyst",),
        boxes_unit=(box,) if box else (),
        boxes_known=True,
        lists_boxes=box is not None,
        domain="cyst / CT",
    )
    for i, box in enumerate(BOXES * 4)
]


def boxed(of):
    def said(one):
        boxes, sure = of(one)
        return {
            ANSWER: Prediction(answer="cyst", boxes_unit=tuple(boxes), box_scores=tuple(sure), boxes_in_rationale=len(boxes))
        }

    return said


def test_boxes_are_ranked_by_their_own_probability():
    suite = GroundingSuite(pool_of(BOXED), TERMS)
    right = scores(suite, boxed(lambda one: (one.boxes_unit, [-0.1] * len(one.boxes_unit))))
    assert right["ap@0.5"] == right["froc@0.5"] == right["mean_iou"] == 1.0
    wrong = Box(0.4, 0.0, 0.5, 0.1)
    unsure = scores(suite, boxed(lambda one: ([*one.boxes_unit, wrong], [-0.1] * len(one.boxes_unit) + [-5.0])))
    assert unsure["ap@0.5"] == 1.0  # spurious boxes, but all ranked below the right ones
    assert unsure["mean_iou"] == 0.5
    sure = scores(suite, boxed(lambda one: ([*one.boxes_unit, wrong], [-5.0] * len(one.boxes_unit) + [-0.1])))
    assert sure["ap@0.5"] < 0.7
    assert sure["froc@0.5"] < unsure["froc@0.5"]


def test_who_writes_no_box_finds_nothing():
    found = scores(GroundingSuite(pool_of(BOXED), TERMS), boxed(lambda one: ((), ())))
    assert found["ap@0.5"] == found["froc@0.3"] == found["mean_iou"] == 0.0


def test_a_lesion_annotated_twice_is_one():
    twice = [replace(one, boxes_unit=one.boxes_unit * 2) for one in BOXED]
    found = scores(
        GroundingSuite(pool_of(twice), TERMS), boxed(lambda one: (one.boxes_unit[:1], [-0.1] * bool(one.boxes_unit)))
    )
    assert found["mean_iou"] == found["acc@0.7"] == found["ap@0.5"] == found["froc@0.5"] == found["answer_and_box"] == 1.0


def test_boxes_without_a_score_are_not_ranked():
    suite = GroundingSuite(pool_of(BOXED), TERMS)
    found = scores(suite, boxed(lambda one: (one.boxes_unit, ())))
    assert found["mean_iou"] == 1.0
    assert found["ap@0.5"] is None
    assert suite.not_run["ap@0.5"] == "not run: no box has a score"


def test_a_phrase_without_an_answer_is_judged_by_its_boxes_alone():
    [one] = GroundingSuite(pool_of([BOXED[0]]), TERMS).examples
    phrase = Example(**{**vars(one), "answers": ()})
    suite = GroundingSuite(pool_of([phrase]), TERMS)
    [values] = suite.judge([phrase], [boxed(lambda one: (one.boxes_unit, [-0.1]))(phrase)])
    assert values["mean_iou"] == 1.0
    assert "answer_and_box" not in values


# --- behaviour

SIDES = [
    example(
        i,
        question_kind="where",
        question="Where is it?",
        answers=("left lung" if i % 2 else "right lung",),
        boxes_unit=(Box(0.2, 0.3, 0.4, 0.5),),
        boxes_known=True,
        pointed="Is the {color} region a nodule?",
        domain="nodule / DX",
    )
    for i in range(6)
]


def looks(one):
    """A model that sees: changes what it must and nothing else."""
    truth = one.answers[0]
    other = truth.replace("left", "@").replace("right", "left").replace("@", "right")
    answers = {ask.name: "nothing" for ask in BehaviourSuite(pool_of(SIDES), TERMS).asks(one)}
    answers |= {ANSWER: truth, MIRRORED: other, ON_LESION: "yes", OTHER_COLOUR: "Yes.", ON_HEALTHY: "no"}
    return {name: Prediction(text=text, answer=text, rationale=f"It is in the {text}.") for name, text in answers.items()}


def blind(one):
    """A model that says the same whatever it is shown."""
    names = [ask.name for ask in BehaviourSuite(pool_of(SIDES), TERMS).asks(one)]
    return {name: Prediction(text="left lung", answer="left lung" if "box" not in name else "yes") for name in names}


def test_behaviour_tells_seeing_from_blind():
    suite = BehaviourSuite(pool_of(SIDES), TERMS)
    sees, blinded = scores(suite, looks), scores(suite, blind)
    for name in ("changed_when_occluded", "side_changed_when_mirrored", "no_on_healthy_tissue", "rationale_names_answer"):
        assert sees[name] == 1.0, name
    for name in ("same_on_blank", "same_on_other_patient", "changed_with_colour", "yes_on_healthy_tissue"):
        assert sees[name] == 0.0, name
    for name in ("changed_when_occluded", "side_changed_when_mirrored", "no_on_healthy_tissue"):
        assert blinded[name] == 0.0, name
    assert blinded["same_on_blank"] == blinded["yes_on_healthy_tissue"] == 1.0
    silent = scores(suite, lambda one: {ask.name: Prediction() for ask in suite.asks(one)})
    assert silent["answered"] == 0.0
    assert silent["changed_when_occluded"] is silent["same_on_blank"] is None  # silence earns no rate


def test_behaviour_asks_what_applies():
    suite = BehaviourSuite(pool_of([*SIDES, example(9, answers=("cyst",))]), TERMS)
    names = [ask.name for ask in suite.asks(SIDES[0])]
    assert set(names) == {ANSWER, BLANK, "swapped", OCCLUDED, MIRRORED, ON_LESION, OTHER_COLOUR, ON_HEALTHY}
    assert [ask.name for ask in suite.asks(suite.examples[-1])] == [ANSWER, BLANK]  # nobody else in its domain, no box, no side
    pointed = {ask.name: ask for ask in suite.asks(SIDES[0])}
    assert pointed[ON_LESION].view.colour in pointed[ON_LESION].question
    assert pointed[ON_LESION].view.colour == pointed[ON_HEALTHY].view.colour != pointed[OTHER_COLOUR].view.colour
    [healthy] = pointed[ON_HEALTHY].view.boxes_unit
    assert healthy.x1 <= 0.2 or healthy.x0 >= 0.4 or healthy.y1 <= 0.3 or healthy.y0 >= 0.5


def test_no_healthy_place_and_repetition():
    assert elsewhere([Box(0.0, 0.0, 1.0, 0.9)], seed=1) is None
    assert repeated("one two three four five six") == 0.0
    assert repeated("a b c d " * 1) == 0.0
    assert repeated("the left lung is clear " * 5) == pytest.approx(1 - 4 / 17)  # 20 words without articles: 17 grams, 4 kinds


def test_every_suite_says_what_it_left_out_and_takes_an_empty_pool_without_a_crash():
    for name, make in SUITES.items():
        suite = make(pool_of([]), TERMS)
        assert suite.name == name
        assert summarise(suite, suite.judge([], []), seed=0)
