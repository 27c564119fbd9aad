"""How much the harness alone moves a score: the same predictions under every scoring profile, as markdown tables.

python benchmarks/profiles.py                       # made-up predictions, then the questions of VQA-Med 2019 beside the project
python benchmarks/profiles.py --data DIR            # DIR/VQAMed2019_Test_Questions_w_Ref_Answers.txt

No model and no image: predictions are the truth, nothing, and answers that look at nothing. Ends with 1 where our own profile
gives anything to an answer that deserves none, or less than everything to the truth.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medclm.metrics.parsing import alternatives, normalise
from medclm.metrics.profiles import PROFILES, Profile

VQA_MED = Path(__file__).resolve().parents[2] / "shared" / "data" / "vqa_med_2019_text"
QUESTIONS = "VQAMed2019_Test_Questions_w_Ref_Answers.txt"
TOKEN_COLUMNS = ("open_token_precision", "open_token_recall", "open_token_f1")
COLUMNS = ("overall", "closed_accuracy", "closed_accuracy_dropping", "open_exact_match", *TOKEN_COLUMNS)
BLIND = ("empty", "yes and no", "normal")
"""Predictions that answer nothing: nothing of them may count as right under our own profile."""


class Question(NamedTuple):
    """One question with its accepted answers."""

    category: str
    text: str
    answer_type: str
    answers: tuple[str, ...]


ORGAN = ("Which organ is affected?", "open", "left kidney")
CHOICE = ("Which organ is affected? A) liver B) kidney", "choice", "kidney")
AIR = ("Is there a pneumothorax?", "closed", "no")
LIST = "left right upper lower liver spleen kidney lung " * 25
EXAMPLES = (
    (*AIR, "No."),
    (*AIR, "normal"),
    (*AIR, "yes and no"),
    ("Is there a nodule?", "closed", "yes", "Yes, a nodule."),
    (*ORGAN, "Left kidney."),
    (*ORGAN, "right kidney"),
    (*ORGAN, "left left left left"),
    (*ORGAN, LIST.strip()),
    (*CHOICE, "I do not know"),
    (*CHOICE, "B. liver"),
)
"""Question, answer type, truth, prediction: made up, one for each way in which harnesses differ."""
OPEN_COLUMN = {
    "medclm": "overall",
    "llava_med": "open_token_recall",
    "medevalkit": "open_exact_match",
    "octomed": "open_token_f1",
}
"""What each profile quotes for open answers."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=VQA_MED, help=f"folder with {QUESTIONS}")
    data = parser.parse_args().data
    print_examples()
    try:
        questions = read_questions(data / QUESTIONS)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    scored = scores(questions)
    print_scores(scored, Counter(question.answer_type for question in questions))
    failures = undeserved(scored["medclm"])
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def read_questions(path: Path) -> list[Question]:
    """`image|category|question|answer`, alternatives joined by `#`; closed where every accepted answer is yes or no.

    Raises:
        ValueError: missing file, or a line of another form; names the line and the cure.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file: give its folder with --data")
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("|")
        if len(fields) != 4 or not alternatives(fields[3:]):
            raise ValueError(f"{path}:{number}: {line!r}: expected image|category|question|answer; correct the line")
        answers = tuple(alternatives(fields[3:]))
        closed = {normalise(answer) for answer in answers} <= {"yes", "no"}
        questions.append(Question(fields[1], fields[2], "closed" if closed else "open", answers))
    return questions


def predictions(questions: Sequence[Question]) -> dict[str, list[str]]:
    """Answers by the name of what gives them; the majority is that of these very questions, more than a blind guess knows."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        counts[question.category][question.answers[0]] += 1
    truths = [question.answers[0] for question in questions]
    return {
        "perfect": truths,
        **{name: ["" if name == "empty" else name] * len(questions) for name in BLIND},
        "majority of the category": [counts[question.category].most_common(1)[0][0] for question in questions],
        "truth 20 times": [" ".join([truth] * 20) for truth in truths],
    }


def scores(questions: Sequence[Question]) -> dict[str, dict[str, dict[str, float]]]:
    """Means of every column by profile and prediction, each answer written as the profile's prompt asks."""
    said = predictions(questions)
    return {
        name: {kind: means(profile, questions, answers) for kind, answers in said.items()} for name, profile in PROFILES.items()
    }


def means(profile: Profile, questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    rows = [
        profile.judge(question.text, question.answer_type, profile.completion(answer), question.answers)
        for question, answer in zip(questions, answers, strict=True)
    ]
    return {
        column: float(np.mean([row[column] for row in rows if column in row]))
        for column in profile.columns
        if any(column in row for row in rows)
    }


def undeserved(ours: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What our profile gives where nothing is due, or withholds from the truth; empty if all is well."""
    perfect = ours["perfect"]
    failures = [f"medclm: perfect predictions have {name} {value:.4f}" for name, value in perfect.items() if value != 1.0]
    for kind in BLIND:
        for column in ("overall", "closed_accuracy", "open_exact_match"):
            if ours[kind][column] != 0.0:
                failures.append(f"medclm: {kind!r} has {column} {ours[kind][column]:.4f}")
    repeated = ours["truth 20 times"]
    return failures + [
        f"medclm: saying the truth 20 times raises {column} to {value:.4f}"
        for column, value in repeated.items()
        if value > perfect[column]
    ]


def print_examples() -> None:
    print(f"| truth | prediction | {' | '.join(PROFILES)} |\n|---|---|{'---|' * len(PROFILES)}")
    for question, answer_type, truth, said in EXAMPLES:
        cells = []
        for name, profile in PROFILES.items():
            values = profile.judge(question, answer_type, profile.completion(said), [truth])
            cells.append(f"{values[OPEN_COLUMN[name] if answer_type == 'open' else 'closed_accuracy']:.2f}")
        shown = said if len(said) < 40 else f"{said[:26]}... ({len(said.split())} words)"
        print(f"| {truth} ({answer_type}) | {shown} | {' | '.join(cells)} |")


def print_scores(scored: Mapping[str, Mapping[str, Mapping[str, float]]], types: Mapping[str, int]) -> None:
    print(f"\n{sum(types.values())} questions: {', '.join(f'{number} {name}' for name, number in sorted(types.items()))}\n")
    print(f"| profile | prediction | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for name, kinds in scored.items():
        for kind, columns in kinds.items():
            cells = [f"{columns[column]:.3f}" if column in columns else "-" for column in COLUMNS]
            print(f"| {name} | {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
