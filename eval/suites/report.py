"""Suite `report`: is a written findings section what a radiologist wrote, in words and in findings. English only.

Words: BLEU of the corpus and of each report, ROUGE-L, METEOR, CIDEr (medclm/metrics/report_text.py). Findings: our own 14-finding
labeller, rule14, on both texts (medclm/metrics/findings.py); it is not the CheXpert labeller, and its F1 is not "CheXpert F1". Scores
that need what is not installed are listed as not run, never left out of sight. F1 over 13 findings is the headline: over 14, `No
Finding` counts as found wherever none is, and on a set of mostly normal films the word `normal` alone earns 0.6
(benchmarks/adversaries.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eval.example import Ask, Example, Prediction, Said, Terms, Values, number_of
from eval.pool import Pool
from eval.suite import ANSWER, Metric, plain
from medclm.data.render import with_instruction
from medclm.draws import generator
from medclm.metrics import findings, report_text
from medclm.metrics.rule14_phrases import OBSERVATIONS

QUESTIONS = {
    "findings": "Write the findings section of the radiology report for this image.",
    "impression": "Write the impression section of the radiology report for this image.",
}
"""Question kind -> how it is asked."""
OTHER_SCORERS = {
    "CheXbert F1": "needs the CheXbert weights",
    "RadGraph F1": "needs the package radgraph and its weights",
    "RaTEScore": "needs the package RaTEScore and its weights",
    "GREEN": "needs the package green-score and its weights",
    "RadEval": "needs the package RadEval and the weights of its scorers",
}
"""Scorers that are models of their own."""


class ReportSuite:
    """Every example whose truth is a section of an English report."""

    name = "report"
    headline = ("f1_13_micro_uncertain_positive", "report_bleu4", "report_rouge_l")

    def __init__(self, pool: Pool, terms: Terms) -> None:
        reasons = Counter(reason for one in pool.asked if (reason := _unasked(one)))
        self.examples = [one for one in pool.asked if not _unasked(one)]
        self.left_out = pool.left_out | dict(reasons)
        self.not_run: dict[str, str] = {name: f"not run: {needs}" for name, needs in OTHER_SCORERS.items()}
        report_text.require_english([one.answers[0] for one in self.examples])
        trained = [one for one in pool.train if not _unasked(one)]
        self._texts = {kind: [one for one in trained or self.examples if one.question_kind == kind] for kind in QUESTIONS}

    def metrics(self) -> list[Metric]:
        bleu = [Metric(f"report_bleu{n}", report_text.BLEU_COLUMNS, report_text.corpus_bleu_formula(n)) for n in (1, 2, 3, 4)]
        f1 = [
            Metric(f"f1_{names}_{kind}_uncertain_{mode}", findings.columns(names, mode), formula)
            for mode in findings.UNCERTAIN_AS
            for names in findings.SETS
            for kind, formula in (("micro", findings.f1_micro), ("macro", findings.f1_macro))
        ]
        each = [
            Metric(f"f1 {name}", tuple(f"{cell} {name} uncertain=positive" for cell in ("tp", "fp", "fn")), findings.f1_micro)
            for name in OBSERVATIONS
        ]
        return [
            *f1,
            *plain("hallucinated_findings", "omitted_findings", "unsupported_change", "exact uncertain=positive"),
            Metric("side_error_share", findings.SIDE_COLUMNS, findings.side_error_share),
            *bleu,
            *plain(*(f"report_bleu{n}_mean" for n in (1, 2, 3, 4)), "report_rouge_l", "report_cider"),
            Metric("report_meteor", report_text.METEOR_COLUMNS, report_text.meteor_score),
            *plain("report_meteor_mean"),
            *each,
            *plain("parsed_rate", has_floor=False),
        ]

    def asks(self, example: Example) -> Sequence[Ask]:
        return [Ask(ANSWER, with_instruction(QUESTIONS[example.question_kind], "direct"))]

    def guess(self, example: Example) -> Said | None:
        """The report of another patient, of training where there is any: about 0.3 BLEU-1 for knowing nothing."""
        others = [one for one in self._texts[example.question_kind] if one.patient != example.patient]
        if not others:
            return None
        at = generator(0, "eval.report.other", number_of(example.id)).integers(len(others))
        return {ANSWER: Prediction(answer=others[int(at)].answers[0])}

    def judge(self, examples: Sequence[Example], said: Sequence[Said]) -> list[Values]:
        texts = [one[ANSWER].answer or "" for one in said]
        truths = [example.answers[0] for example in examples]
        worded = report_text.judge_reports(texts, truths)
        self.not_run |= worded.not_run
        return [
            words | findings.judge(text, truth) | {"parsed_rate": float(one[ANSWER].answer is not None)}
            for words, text, truth, one in zip(worded.values, texts, truths, said, strict=True)
        ]


def _unasked(example: Example) -> str:
    """Why an example has no place here, or nothing."""
    if example.question_kind not in QUESTIONS or example.question or not example.answers:
        return "no report section"
    return "" if example.language == "en" else "not English: these scores are for English"
