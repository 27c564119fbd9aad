"""What scores are called and what they mean, in words for somebody who does not know the code."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """A score in words."""

    title: str
    sentence: str
    """What the number says; empty where the name says it."""
    lower_is_better: bool = False


WORDS: dict[str, Words] = {
    # vqa
    "answer_accuracy": Words("Names it correctly", "Share of open what-is-it and which-organ questions whose answer names what is right and nothing else."),
    "overall": Words("Answered correctly", "Share of all questions that the rules of this profile call right."),
    "closed_accuracy": Words("Closed questions right", "Share of yes/no and multiple-choice questions answered correctly."),
    "open_token_f1": Words("Words shared with the reference", "Overlap of the words of an open answer with those of the reference: 1 = the same words, 0 = none."),
    "open_token_recall": Words("Words of the reference found", "Share of the words of the reference that its answer has, however much else it says."),
    "open_exact_match": Words("Word for word", "Share of open answers that are the reference word for word."),
    "closed_above_floor": Words("Closed questions above the guess", "How far closed answers rise above always giving the most frequent one: 0 = not at all, 1 = all right."),
    "sensitivity": Words("Sensitivity", "Share of what is truly there that it says is there."),
    "specificity": Words("Specificity", "Share of what is truly absent that it says is absent."),
    "balanced_accuracy": Words("Balanced accuracy", "Mean of sensitivity and specificity, so that saying yes to everything earns 0.5."),
    "parsed_rate": Words("Replies that could be read", "Share of replies with an answer in them; all others count as wrong."),
    "unparsed": Words("Replies that could not be read", "Share of replies without an answer in them; they count as wrong.", True),
    # grounding
    "answer_and_box": Words("Answer and box both right", "Share of questions answered correctly with boxes that overlap the true ones by at least half (IoU 0.5)."),
    "mean_iou": Words("Overlap of boxes", "Intersection over union of its boxes with the true ones: 1 = the same, 0 = apart. A missed box and a box too many count 0."),
    "right_for_wrong_reason": Words("Right for the wrong reason", "Share of questions answered correctly although its boxes lie elsewhere (IoU below 0.1).", True),
    "false_positive_rate": Words("Boxes where nothing is", "Share of images without the asked finding on which it draws a box all the same.", True),
    "boxes_on_empty": Words("Boxes per image where nothing is", "Boxes drawn on an image without the asked finding, on average.", True),
    "reason_format_rate": Words("Reasons with a box and an answer", "Share of replies whose reasoning points at a box and which end in an answer."),
    # report
    "f1_13_micro_uncertain_positive": Words("Findings in agreement", "F1 over the 13 findings that our own labeller rule14 reads in its report and in the radiologist's; uncertain counts as present. 1 = the same findings."),
    "f1_14_micro_uncertain_positive": Words("Findings in agreement, No Finding included", "The same over 14 observations, of which one is No Finding."),
    "report_bleu4": Words("Wording in agreement (BLEU-4)", "How many of its sequences of one to four words the reference has too (geometric mean of the four shares, short texts penalised). It rewards stock phrases: mind the floor."),
    "report_rouge_l": Words("Wording in agreement (ROUGE-L)", "Longest sequence of words shared with the reference, as an F-score. It rewards stock phrases: mind the floor."),
    "hallucinated_findings": Words("Findings made up", "Findings in its report that the reference does not have, per report on average.", True),
    "omitted_findings": Words("Findings left out", "Findings of the reference that its report does not have, per report on average.", True),
    "unsupported_change": Words("Changes without a prior", "Share of its reports that say new, unchanged or the like where the reference does not.", True),
    "side_error_share": Words("Wrong sides", "Share of the sides in its reports that contradict the reference.", True),
    # classification
    "auroc_macro": Words("Ranks present above absent (AUROC)", "Chance that an image with a finding gets a higher score than one without, averaged over findings: 0.5 = a coin."),
    "average_precision_macro": Words("Average precision", "Precision averaged over all sensitivities, then over findings. Without looking it is the share of images that have the finding."),
    "brier": Words("Brier score", "Mean squared distance of its probability from the truth: 0 = certain and right.", True),
    "calibration_error_15_bins": Words("Calibration error", "How far its confidence lies from how often it is right: 0 = as sure as it should be.", True),
    # choice
    "choice_accuracy": Words("Right option", "Share of questions in which the right option is the likeliest."),
    "choice_accuracy_normalised": Words("Right option, per token", "The same with each option's log-likelihood divided by its length, so that short options are not favoured."),
    "risk_coverage_area": Words("Risk where it is sure", "Mean error when only its surest answers are kept, over all shares kept.", True),
    "ap@0.5": Words("Average precision", "Boxes ranked by the model's own certainty: precision over all recalls at IoU 0.5, mean over domains."),
    "froc@0.5": Words("FROC at IoU 0.5", "Share of lesions found at 1/8 to 8 false boxes a question, mean of the seven."),
    # behaviour
    "changed_when_occluded": Words("Changes when the lesion is hidden", "Share of right answers that change once the lesion is painted over. Low = it does not need to see the lesion."),
    "same_on_blank": Words("Same on a grey picture", "Share of answers that stay the same when the picture is plain grey. High = said without looking.", True),
    "same_on_other_patient": Words("Same on another patient", "Share of answers that stay the same on a picture of another patient of the same kind. High = said without looking.", True),
    "side_changed_when_mirrored": Words("Side follows the mirror", "Share of right sides that become the other side when the picture is mirrored."),
    "yes_on_healthy_tissue": Words("Yes to healthy tissue", "Share of regions without a lesion of which it says that they show one.", True),
    "no_on_healthy_tissue": Words("No to healthy tissue", "Share of regions moved from a lesion to healthy tissue at which its yes becomes a no."),
    "changed_with_colour": Words("Changes with the box's colour", "Share of answers that change when nothing but the colour of the box does.", True),
    "repeated_4grams": Words("Repeats itself", "Share of its four-word sequences that the same text has said before.", True),
    "rationale_names_answer": Words("Reasoning names the answer", "Share of reasonings in which every word of the answer stands."),
}  # fmt: skip
"""Score -> words; what is missing is called by its own name."""


def words(name: str) -> Words:
    return WORDS.get(name) or Words(name.replace("_", " "), "")
