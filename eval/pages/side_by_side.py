"""Two evaluations of the same questions on one page: paired tests score by score, and the cases that only one of them got right.

Reads what the evaluations left: results.json, settings.json, predictions.jsonl and the kept pictures. Knows no suite and no model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.pages.cases import RIGHT, UNJUDGED, Case, lottery, read_cases
from eval.pages.gallery import LOOKS, Card, Kept, about, badge, figure, gallery, kept_pictures, reasoning, reply, store, truth
from eval.pages.page import NOTICE, cell, column, scrolling, shell, text
from eval.pages.plots import share_bar
from eval.pages.report_script import SCRIPT
from eval.pages.report_style import STYLE
from eval.pages.report_words import words
from medclm.metrics.intervals import FEWEST_PATIENTS, Paired, paired_test

MOST_CASES = 60
"""Shown in all, shared evenly among the verdicts."""
ONLY_FIRST, ONLY_SECOND, NEITHER, BOTH = (
    "only the first is right",
    "only the second is right",
    "neither is right",
    "both are right",
)
FIRST, SECOND, ALIKE = "the first is better", "the second is better", "alike"
VERDICTS = {
    ONLY_FIRST: ("one", "✓✗"),
    ONLY_SECOND: ("other", "✗✓"),
    NEITHER: ("bad", "✗✗"),
    BOTH: ("good", "✓✓"),
    FIRST: ("one", ">"),
    SECOND: ("other", "<"),
    ALIKE: ("none", "="),
    UNJUDGED: ("none", "–"),
}
"""Verdict -> class and sign; the upper four where both are called right or not, the next three where both are graded only."""
_DECIDED = "judged right"


@dataclass(frozen=True)
class Pair:
    """One question, answered twice."""

    first: Case
    second: Case

    @property
    def verdict(self) -> str:
        if UNJUDGED not in (self.first.outcome, self.second.outcome):
            rights = (self.first.outcome == RIGHT, self.second.outcome == RIGHT)
            return {(True, False): ONLY_FIRST, (False, True): ONLY_SECOND, (False, False): NEITHER, (True, True): BOTH}[rights]
        one, other = self.first.grade, self.second.grade
        if one is None or other is None:
            return UNJUDGED
        return ALIKE if one == other else FIRST if one > other else SECOND


@dataclass(frozen=True)
class Evaluation:
    """A finished folder."""

    folder: Path
    results: Mapping[str, Any]
    settings: Mapping[str, Any]
    cases: Mapping[str, Case]
    """By id."""


def write_side_by_side(path: Path, first_folder: Path, second_folder: Path) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        first_folder, second_folder: such as runs/NAME/eval/vqa-test.

    Raises:
        ValueError: a folder is no evaluation, they are of different suites, or they share no question; names them and the cure.
        OSError: the file cannot be written.
    """
    first, second = _read(first_folder), _read(second_folder)
    if first.results["suite"] != second.results["suite"]:
        raise ValueError(
            f"{first_folder} is of suite {first.results['suite']}, {second_folder} of {second.results['suite']}: give two of one suite"
        )
    pairs, unpaired = pair_up(first, second)
    if not pairs:
        raise ValueError(f"{first_folder} and {second_folder} share no example: evaluate the same split of the same benchmark")
    kept = kept_pictures(first_folder, first.cases.values()) | kept_pictures(second_folder, second.cases.values())
    shown = chosen(pairs, first.results["headline"])
    pictured = {name for pair in shown for name in (pair.first.picture, pair.second.picture)}
    kept = {name: one for name, one in kept.items() if name in pictured}
    title = f"{first.results['suite']}: two models, {len(pairs):,} questions"
    body = [
        *_top(title, first, second, unpaired),
        *_tests(pairs, first, second),
        *_cases(pairs, shown, first, kept),
        *_differences(first, second),
        *store(kept),
    ]
    path.write_text(shell(title, style=STYLE, script=SCRIPT, body=body), encoding="utf-8")


def _read(folder: Path) -> Evaluation:
    found = []
    for name in ("results.json", "settings.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: no {name}: give the folder of a finished evaluation, such as runs/NAME/eval/vqa-test")
        found.append(json.loads((folder / name).read_text(encoding="utf-8")))
    return Evaluation(folder, found[0], found[1], {case.id: case for case in read_cases(folder)})


def pair_up(first: Evaluation, second: Evaluation) -> tuple[list[Pair], dict[str, int]]:
    """The questions that both answered, in the order of the first, and how many are left out by reason.

    A question of one id that reads otherwise or has another truth is another question.
    """
    shared = [Pair(case, second.cases[name]) for name, case in first.cases.items() if name in second.cases]
    same = [pair for pair in shared if _asked(pair.first) == _asked(pair.second)]
    unpaired = {
        "only in the first": len(first.cases) - len(shared),
        "only in the second": len(second.cases) - len(shared),
        "another question or truth under one id": len(shared) - len(same),
    }
    # a picture that one of them kept serves both
    joined = [
        Pair(*(replace(one, picture=pair.first.picture or pair.second.picture) for one in (pair.first, pair.second)))
        for pair in same
    ]
    return joined, {why: number for why, number in unpaired.items() if number}


def _asked(case: Case) -> tuple[object, ...]:
    return case.question, case.answers, case.boxes_unit, dict(case.labels)


def paired_scores(pairs: Sequence[Pair], names: Sequence[str]) -> dict[str, tuple[float, float, int, Paired]]:
    """Score -> mean of the first, of the second, questions, and the paired test of their difference, over patients.

    Only scores that single questions have can be paired; `judged right` is over all that both call right or not.
    """
    found = {}
    for name in (_DECIDED, *names):
        values = [(_value(pair.first, name), _value(pair.second, name), pair.first.patient) for pair in pairs]
        both = [(one, other, patient) for one, other, patient in values if one is not None and other is not None]
        if both:
            one, other = np.array([row[0] for row in both]), np.array([row[1] for row in both])
            test = paired_test(one, other, [row[2] for row in both])
            found[name] = (float(one.mean()), float(other.mean()), len(both), test)
    return found


def _value(case: Case, name: str) -> float | None:
    if name == _DECIDED:
        return None if case.outcome == UNJUDGED else float(case.outcome == RIGHT)
    return case.scores.get(name)


def chosen(pairs: Sequence[Pair], headline: Sequence[str]) -> list[Pair]:
    """At most `MOST_CASES`, evenly among the verdicts; those with a picture first, then by the draw of their ids."""
    drawn = sorted(pairs, key=lambda pair: (pair.first.picture is None, lottery(0, pair.first.id)))
    verdicts = [verdict for verdict in VERDICTS if any(pair.verdict == verdict for pair in pairs)]
    share = MOST_CASES // len(verdicts)
    return [pair for verdict in verdicts for pair in [one for one in drawn if one.verdict == verdict][:share]]


# The page.


def _name(one: Evaluation) -> str:
    return str(one.results.get("checkpoint") or one.results.get("predictions") or one.folder.name)


def _top(title: str, first: Evaluation, second: Evaluation, unpaired: Mapping[str, int]) -> Iterator[str]:
    yield f"<header><h1>{text(title)}</h1><p class='notice'>{NOTICE}</p>"
    rows = "".join(
        f"<tr><th scope='row'>{which}</th><td>{text(_name(one))}</td><td class='soft'>{text(one.folder.as_posix())}</td></tr>"
        for which, one in (("First", first), ("Second", second))
    )
    yield f"<table class='pairs'><tbody>{rows}</tbody></table>"
    if unpaired:
        yield f"<p class='note'>Left out: {text('; '.join(f'{number:,} {why}' for why, number in unpaired.items()))}.</p>"
    yield "</header>"


def _tests(pairs: Sequence[Pair], first: Evaluation, second: Evaluation) -> Iterator[str]:
    headline = first.results["headline"]
    names = [name for name in first.results["scores"] if name in second.results["scores"]]
    found = paired_scores(pairs, [*headline, *(name for name in names if name not in headline)])
    columns = ["first", "second", "first − second", "95 % interval", "p", "n", "patients"]
    heads = column("score", numeric=False) + "".join(column(name, numeric=True) for name in columns)
    rows = "".join(_test(name, *of) for name, of in found.items())
    yield "<h2>Scores</h2>" + scrolling("Scores", f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>")
    yield "<p class='note'>On the questions that both answered. Intervals are bootstrapped over patients, p is of a sign-flip test over patients; a difference whose "
    yield "interval leaves out 0 is bold. No p is corrected for the number of scores: look first at the one that was chosen before.</p>"
    if any(test.p_value is None for *_, test in found.values()):
        yield f"<p class='note'>No p-value below {FEWEST_PATIENTS} patients: such a difference is descriptive only.</p>"
    missing = [name for name in names if name not in found and first.results["scores"][name]["n"]]
    yield f"<p class='note'>Not of single questions, so not paired: {text(', '.join(missing))}.</p>" if missing else ""


def _test(name: str, one: float, other: float, n: int, test: Paired) -> str:
    lower = " <span class='soft'>lower is better</span>" if words(name).lower_is_better else ""
    apart = test.ci95 is not None and (test.ci95[0] > 0 or test.ci95[1] < 0)
    cells = [
        f"<th scope='row' title='{text(words(name).sentence)}'>{text(name)}{lower}</th>",
        cell(f"{one:.3f}", one),
        cell(f"{other:.3f}", other),
        cell(_signed(test.difference), test.difference, "strong" if apart else ""),
        cell("–" if test.ci95 is None else " to ".join(map(_signed, test.ci95)), test.ci95 and test.ci95[0]),
        cell("–" if test.p_value is None else "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}", test.p_value),
        cell(f"{n:,}", n),
        cell(f"{test.patients:,}", test.patients),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _cases(pairs: Sequence[Pair], shown: Sequence[Pair], first: Evaluation, kept: Mapping[str, Kept]) -> Iterator[str]:
    tallied = Counter(pair.verdict for pair in pairs)
    counts = {verdict: tallied[verdict] for verdict in VERDICTS if tallied[verdict]}
    yield "<h2 id='cases'>Cases</h2>" + share_bar([(VERDICTS[verdict][0], number) for verdict, number in counts.items()])
    told = " ".join(
        f"<li>{badge(verdict, VERDICTS)} {number:,} <span class='soft'>{number / len(pairs):.0%}</span></li>"
        for verdict, number in counts.items()
    )
    yield f"<ul class='tally'>{told}</ul>"
    yield f"<p class='note'>{len(shown):,} of {len(pairs):,} are shown, as many of each verdict as there is room for; those first of which one of the evaluations kept a picture. "
    yield "Truth is solid green, the model's boxes are dashed orange. A click on a picture enlarges the case; arrow keys walk on, Escape closes.</p>"
    headline = first.results["headline"]
    names = [*headline, *(name for name in first.results["scores"] if name not in headline)]
    yield from gallery([_card(pair, names, kept) for pair in shown], VERDICTS, list(VERDICTS), names, of="difference in ")


def _card(pair: Pair, names: Sequence[str], kept: Mapping[str, Kept]) -> Card:
    one, other = pair.first, pair.second
    apart = {name: one.scores[name] - other.scores[name] for name in names if name in one.scores and name in other.scores}
    sides = "".join(
        f"<div class='side'><h4>{which} {badge(case.outcome, LOOKS)}</h4>{figure(case, kept, f'{which}: {case.question}')}{reply(case, 'Answer')}{reasoning(case)}</div>"
        for which, case in (("First", one), ("Second", other))
    )
    rows = "".join(
        f"<tr><th scope='row'>{text(name)}</th>{cell(f'{one.scores[name]:.3g}', None)}{cell(f'{other.scores[name]:.3g}', None)}</tr>"
        for name in apart
    )
    table = f"<table class='pairs'><tbody><tr><td></td><td>first</td><td>second</td></tr>{rows}</tbody></table>"
    told = (
        f"<div class='told'><p class='head'>{badge(pair.verdict, VERDICTS)} {about(one)}</p><h3>{text(one.question)}</h3>{truth(one)}</div>{sides}"
        f"<div class='told'><details><summary>values</summary>{table}</details><p class='soft'>case <code>{text(one.id)}</code>, patient <code>{text(one.patient)}</code></p></div>"
    )
    return Card(
        pair.verdict,
        one.domain,
        one.kind,
        (),
        bool(one.boxes_unit or one.said_unit or other.said_unit),
        apart,
        f"<div class='pair'>{told}</div>",
    )


def _differences(first: Evaluation, second: Evaluation) -> Iterator[str]:
    keys = [key for key in {**first.settings, **second.settings} if first.settings.get(key) != second.settings.get(key)]
    yield "<h2>Asked otherwise</h2>"
    if not keys:
        yield "<p>Nothing: both were asked under the same settings.</p>"
        return
    rows = "".join(
        f"<tr><th scope='row'>{text(key)}</th><td>{text(first.settings.get(key, '–'))}</td><td>{text(second.settings.get(key, '–'))}</td></tr>"
        for key in keys
    )
    heads = "".join(f"<th scope='col'>{name}</th>" for name in ("setting", "first", "second"))
    yield f"<table class='pairs'><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
