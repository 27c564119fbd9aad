"""Scoring profiles of visual question answering: one prediction judged by our rules or as another harness would judge it.

A number means nothing without its harness: MedGemma-4B-IT has 49.9 on VQA-RAD in its own report and 72.5 in Lingshu's
(MedEvalKit issue 21). A profile states what is asked (`prompt`), how words are read (`tokeniser`) and how one prediction is
judged; the means of the judged values are the scores as that harness prints them. docs/profiles.md has the flaws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from medclm.metrics import answers as own
from medclm.metrics import profiles_llava_med, profiles_medevalkit, profiles_octomed
from medclm.metrics.parsing import alternatives, split_completion

ANSWER_TYPES = ("closed", "open", "choice")

Rule = Callable[[str, str, str, Sequence[str]], dict[str, float]]
"""(question, answer type, prediction's text, accepted alternatives) -> values."""


@dataclass(frozen=True)
class Profile:
    """One way to ask and to judge."""

    name: str
    source: str
    """Paper and, where there is one, repository of the rules."""
    suffixes: Mapping[str, str]
    """What is appended to a question, by answer type. Other harnesses' requests are in our words: theirs are in `source`."""
    answer_form: str
    """How `{answer}` stands in a completion that obeys the prompt."""
    tokeniser: str
    """How words are read, in words."""
    columns: tuple[str, ...]
    """Every value that `judge` may give; the mean over examples that have it is the score of that name."""
    headline: tuple[str, ...]
    """The columns that papers quote."""
    rule: Rule

    def prompt(self, question: str, answer_type: str) -> str:
        """The question as this profile asks it; options, if any, already stand in it.

        Raises:
            ValueError: no such answer type.
        """
        return question + self.suffixes[_known(answer_type)]

    def completion(self, answer: str) -> str:
        """`answer` as a model that obeys the prompt writes it."""
        return self.answer_form.replace("{answer}", answer)

    def judge(self, question: str, answer_type: str, prediction_text: str, answers: Sequence[str]) -> dict[str, float]:
        """Values of one prediction, each in 0..1 under the name of the mean it enters; what does not apply is left out.

        Args:
            question: with its options (`A) ... B) ...`) where it is a choice.
            answer_type: `closed`, `open` or `choice`.
            prediction_text: the whole completion; the profile finds the answer in it.
            answers: accepted alternatives, each split on `#`.

        Raises:
            ValueError: no such answer type, or no accepted answer.
        """
        accepted = alternatives(answers)
        if not accepted:
            raise ValueError(
                f"answers {list(answers)!r} of {question!r} accept nothing: leave the question out, counted by name"
            )
        return self.rule(question, _known(answer_type), prediction_text, accepted)


def _known(answer_type: str) -> str:
    if answer_type not in ANSWER_TYPES:
        raise ValueError(f"answer_type {answer_type!r}: expected one of {', '.join(ANSWER_TYPES)}")
    return answer_type


def profile_named(name: str) -> Profile:
    """The profile of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PROFILES:
        raise ValueError(f"profile {name!r}: expected one of {', '.join(PROFILES)}")
    return PROFILES[name]


def _medclm(question: str, answer_type: str, text: str, answers: Sequence[str]) -> dict[str, float]:
    """answers.py without a question kind: foreign data has none, so an open answer is right on a whole match only."""
    answer = split_completion(text).answer
    values = own.judge("", answer_type, question, answer, answers, frozenset())
    return {"overall": values.pop("right"), **values, "parsed_rate": float(answer is not None)}


def _best(judge: Callable[[str, str, str, str], dict[str, float]]) -> Rule:
    """A rule for one accepted answer, over all: the best value of each column. The harnesses know only one."""

    def rule(question: str, answer_type: str, text: str, answers: Sequence[str]) -> dict[str, float]:
        best: dict[str, float] = {}
        for answer in answers:
            for column, value in judge(question, answer_type, text, answer).items():
                best[column] = max(best.get(column, 0.0), value)
        return best

    return rule


def _suffixes(*, closed: str, opened: str, choice: str) -> Mapping[str, str]:
    return MappingProxyType({"closed": closed, "open": opened, "choice": choice})


_CLOSED = ("closed_accuracy", "choice_accuracy")
_TOKENS = ("open_token_precision", "open_token_recall", "open_token_f1", "open_exact_match")
_OWN_COLUMNS = ("open_bleu1_mean", "side_accuracy", "parsed_rate")
_OWN_SUFFIX = "\nReason, give the box, then answer."
_BOX_SUFFIX = "\nThink step by step, then write the final answer in \\boxed{}."

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                name="medclm",
                source="medclm/metrics/answers.py",
                suffixes=_suffixes(closed=_OWN_SUFFIX, opened=_OWN_SUFFIX, choice=_OWN_SUFFIX),
                answer_form="Answer: {answer}",
                tokeniser="parsing.tokens: compatibility forms folded, lower case, no punctuation or articles, digits, L/R",
                columns=("overall", *_CLOSED, "sensitivity", "specificity", *_TOKENS, *_OWN_COLUMNS),
                headline=("overall", "closed_accuracy", "open_exact_match", "open_token_f1"),
                rule=_medclm,
            ),
            Profile(
                name="llava_med",
                source="Li et al. 2023, arXiv 2306.00890; microsoft/LLaVA-Med llava/eval/run_eval_batch.py, run_eval.py",
                suffixes=_suffixes(closed="", opened="", choice=""),
                answer_form="{answer}",
                tokeniser="vqa_normalise (VQA challenge), then split at blanks; closed: no words, letters",
                columns=(*_CLOSED, "closed_accuracy_dropping", *_TOKENS, "open_accuracy"),
                headline=("closed_accuracy", "open_token_recall"),
                rule=_best(profiles_llava_med.judge),
            ),
            Profile(
                name="medevalkit",
                source="Xu et al. 2025, arXiv 2506.07044; alibaba-damo-academy/MedEvalKit utils/",
                suffixes=_suffixes(
                    closed="\nSay yes or no and nothing else.",
                    opened="\nGive a short answer.",
                    choice="\nGive only the letter of the right option.",
                ),
                answer_form="{answer}",
                tokeniser="lower case, split at blanks, punctuation kept; distinct words",
                columns=("overall", *_CLOSED, *_TOKENS),
                headline=("overall", "closed_accuracy", "open_exact_match"),
                rule=_best(profiles_medevalkit.judge),
            ),
            Profile(
                name="octomed",
                source="Ossowski et al. 2025, arXiv 2511.23269; model card OctoMed/OctoMed-7B (scorer not published)",
                suffixes=_suffixes(closed=_BOX_SUFFIX, opened=_BOX_SUFFIX, choice=_BOX_SUFFIX),
                answer_form="\\boxed{{answer}}",
                tokeniser="squad_normalise (SQuAD, assumed), then split at blanks; multisets",
                columns=(*_CLOSED, *_TOKENS),
                headline=("closed_accuracy", "open_token_f1"),
                rule=_best(profiles_octomed.judge),
            ),
        )
    }
)
"""By name."""
