"""Suite `vqa`: are the answers right, asked without a box. Scores as in medclm/metrics/answers.py.

Under another profile (`--profile`) the same questions are asked and judged as another harness does, flaws included, so that a number
can be held against published ones (docs/profiles.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.example import Ask, Example, Prediction, Said, Terms, Values
from eval.pool import Pool
from eval.suite import ANSWER, Metric, plain, plain_ask
from medclm.metrics.answers import NAMING_KINDS, Vocabulary, judge, location_vocabulary, vocabulary
from medclm.metrics.floors import MajorityAnswer
from medclm.metrics.parsing import alternatives
from medclm.metrics.profiles import profile_named


class Answers:
    """What judging an answer needs beside it: the image-free guess, and all names that answers of a kind may use."""

    def __init__(self, pool: Pool) -> None:
        answered = [(one, accepted[0]) for one in pool.train if (accepted := alternatives(one.answers))]
        self.has_guesses = bool(answered)
        self._by_kind = MajorityAnswer((_kind(one), one.question, answer) for one, answer in answered)
        self._by_type = MajorityAnswer((one.answer_type, one.question, answer) for one, answer in answered)
        opened = [one for one in [*pool.train, *pool.asked] if one.answer_type == "open"]
        self._names: dict[str, Vocabulary] = {
            kind: vocabulary(one.answers for one in opened if one.question_kind == kind) for kind in NAMING_KINDS
        }
        self._names["where"] = location_vocabulary(one.answers for one in opened if one.question_kind == "where")

    def guess(self, example: Example) -> str | None:
        """The commonest answer of training to these words, else to questions of its kind, else to closed or to open ones."""
        by_kind = self._by_kind.guess(_kind(example), example.question)
        return by_kind or self._by_type.guess(example.answer_type, example.question)

    def judge(self, example: Example, answer: str | None) -> Values:
        names = self._names.get(example.question_kind, frozenset())
        kind, answer_type = example.question_kind, example.answer_type
        return judge(kind, answer_type, example.question, answer, example.answers, names, example.options)


def _kind(example: Example) -> str:
    """Many kinds of public benchmarks have yes or no questions and open ones: the majority of both is right for one only."""
    return f"{example.answer_type} {example.question_kind}"


def _balanced(means: np.ndarray) -> np.ndarray:
    return np.asarray((means[..., 0] + means[..., 1]) / 2)


def _above_floor(means: np.ndarray) -> np.ndarray:
    """(acc - floor) / (1 - floor): 0 = no better than the guess, 1 = perfect; undefined where the guess is perfect."""
    accuracy, floor = means[..., 0], means[..., 1]
    return np.asarray(np.divide(accuracy - floor, 1 - floor, out=np.full_like(accuracy, np.nan), where=floor < 1))


class VqaSuite:
    """Every example that has a question and an accepted answer."""

    name = "vqa"
    headline = ("answer_accuracy", "closed_accuracy", "open_token_f1")

    def __init__(self, pool: Pool, terms: Terms) -> None:
        self.not_run: dict[str, str] = {}
        self.examples = [one for one in pool.asked if one.question and alternatives(one.answers)]
        missing = len(pool.asked) - len(self.examples)
        self.left_out = pool.left_out | ({"no question or no accepted answer": missing} if missing else {})
        self._terms = terms
        self._answers = Answers(pool)

    def asks(self, example: Example) -> Sequence[Ask]:
        return [plain_ask(example, self._terms)]

    def metrics(self) -> list[Metric]:
        named = [f"answer_accuracy_{kind}" for kind in NAMING_KINDS]
        closed = [
            Metric("closed_above_floor", ("closed_accuracy", "closed_floor"), _above_floor),
            Metric("balanced_accuracy", ("sensitivity", "specificity"), _balanced),
        ]
        opened = ["open_token_f1", "open_token_precision", "open_token_recall", "open_exact_match", "open_bleu1_mean"]
        kinds = [
            "where_accuracy",
            "count_accuracy",
            "size_accuracy",
            "side_accuracy",
            "describe_token_f1",
            "describe_bleu4_mean",
        ]
        return [
            *plain("answer_accuracy", *named, "closed_accuracy"),
            *closed,
            *plain("sensitivity", "specificity", "choice_accuracy", *opened, *kinds),
            *plain("parsed_rate", "unparsed", has_floor=False),
        ]

    def guess(self, example: Example) -> Said | None:
        answer = self._answers.guess(example)
        return None if answer is None else {ANSWER: Prediction(answer=answer)}

    def judge(self, examples: Sequence[Example], said: Sequence[Said]) -> list[Values]:
        return [self._judge(example, one[ANSWER]) for example, one in zip(examples, said, strict=True)]

    def _judge(self, example: Example, prediction: Prediction) -> Values:
        values = self._answers.judge(example, prediction.answer)
        if "closed_accuracy" in values and self._answers.has_guesses:
            values["closed_floor"] = self._answers.judge(example, self._answers.guess(example))["closed_accuracy"]
        parsed = prediction.answer is not None
        return values | {"parsed_rate": float(parsed), "unparsed": float(not parsed)}


class ProfiledVqaSuite:
    """The questions of `vqa` under another harness's rules: its prompt, its words, its scores."""

    name = "vqa"

    def __init__(self, pool: Pool, terms: Terms) -> None:
        self.not_run: dict[str, str] = {}
        inner = VqaSuite(pool, terms)
        self.examples, self.left_out = inner.examples, inner.left_out
        self._guess, self._profile = inner.guess, profile_named(terms.profile)
        self.headline = self._profile.headline

    def metrics(self) -> list[Metric]:
        return plain(*self._profile.columns)

    def asks(self, example: Example) -> Sequence[Ask]:
        return [Ask(ANSWER, self._profile.prompt(example.question, example.answer_type))]

    def guess(self, example: Example) -> Said | None:
        guessed = self._guess(example)
        if guessed is None:
            return None
        return {ANSWER: Prediction(text=self._profile.completion(guessed[ANSWER].answer or ""))}

    def judge(self, examples: Sequence[Example], said: Sequence[Said]) -> list[Values]:
        return [
            self._profile.judge(example.question, example.answer_type, one[ANSWER].text, example.answers)
            for example, one in zip(examples, said, strict=True)
        ]


def vqa_suite(pool: Pool, terms: Terms) -> VqaSuite | ProfiledVqaSuite:
    """The suite under the profile of `terms`.

    Raises:
        ValueError: no such profile.
    """
    return VqaSuite(pool, terms) if terms.profile == "medclm" else ProfiledVqaSuite(pool, terms)
