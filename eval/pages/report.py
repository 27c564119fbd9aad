"""The page of an evaluated suite, report.html: scores with intervals and floors, subgroups, what was left out, and cases to look at.

One file that opens from disk; every text is escaped. Knows no suite and no model: reads what the runner hands over, the kept
pictures, and the results of a run on grey pictures where one lies beside it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.pages.cases import OUTCOMES, SHOWN, Case, tally
from eval.pages.gallery import LOOKS, Card, about, badge, figure, gallery, kept_pictures, reasoning, reply, store, truth, values
from eval.pages.page import NOTICE, cell, column, scrolling, shell, text
from eval.pages.plots import share_bar, whiskers
from eval.pages.report_script import SCRIPT
from eval.pages.report_style import STYLE
from eval.pages.report_words import words

BLANK = "-blank"
"""What the folder of a run on grey pictures is called after the folder that it is a floor of."""
_FEW = 24
"""Scores that stand in the open; a longer table is folded below its headline."""
_DIMENSIONS = ("domain", "question kind", "lesion size", "organ", "side", "part of the image", "modality", "plane", "view")
"""Come first, in this order."""
_SIZES = {"lt1": "short side under 1 patch", "1to2": "1 to 2 patches", "2to4": "2 to 4 patches", "gt4": "over 4 patches"}


def write_report(path: Path, *, results: Mapping[str, Any], settings: Mapping[str, Any], cases: Sequence[Case]) -> None:
    """Write the page.

    Args:
        path: in the folder of the suite, with the cases' pictures in `pictures` beside it.
        results: as in results.json; `headline` names the scores that stand for the suite.
        settings: as in settings.json: how the model was asked.
        cases: all that were judged, in order; those with `chosen` are shown.

    Raises:
        ValueError: a picture that a case names is missing.
        OSError: the file cannot be written.
    """
    shown = sorted((case for case in cases if case.chosen), key=lambda case: list(SHOWN).index(case.chosen[0]))
    kept = kept_pictures(path.parent, shown)
    blank, why = blank_scores(path.parent, settings)
    headline = results["headline"]
    body = [
        *_top(results, settings, cases),
        *_headline(results, headline, blank),
        *_scores(results["scores"], blank, why),
        *_breakdown(results, headline),
        *_left_out(results),
        *_cases(cases, shown, [*results["scores"]], headline, kept),
        *_settings(results, settings),
        *store(kept),
    ]
    path.write_text(shell(_title(results), style=STYLE, script=SCRIPT, body=body), encoding="utf-8")


def blank_scores(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, float], str]:
    """Scores of the run on grey pictures beside `folder`, and why there are none though there is such a run.

    A floor is one only if everything else was asked alike, so a run under other settings is none.
    """
    beside = folder.with_name(folder.name + BLANK)
    if not (beside / "results.json").is_file() or not (beside / "settings.json").is_file():
        return {}, ""
    other = json.loads((beside / "settings.json").read_text(encoding="utf-8"))
    differing = sorted(key for key in settings.keys() | other.keys() if settings.get(key) != other.get(key))
    if differing != ["blank_image"]:
        odd = ", ".join(key for key in differing if key != "blank_image") or "with the pictures"
        return {}, f"The run on grey pictures in {beside.name} was asked otherwise ({odd}), so it is no floor of this one."
    scores = json.loads((beside / "results.json").read_text(encoding="utf-8"))["scores"]
    return {name: score["value"] for name, score in scores.items() if score["value"] is not None}, ""


def _title(results: Mapping[str, Any]) -> str:
    where = f" on {results['benchmark']}" if "benchmark" in results else ""
    return f"{results['suite']}{where}: {results['n']:,} questions"


# Scores.


def _top(results: Mapping[str, Any], settings: Mapping[str, Any], cases: Sequence[Case]) -> Iterator[str]:
    yield f"<header><h1>{text(_title(results))}</h1><p class='notice'>{NOTICE}</p>"
    people = len({case.patient for case in cases})
    split = f", split {settings['split']}" if "split" in settings else ""
    asked = f"{results['n']:,} questions about {people:,} patient{'' if people == 1 else 's'}{split}"
    who = results.get("checkpoint") or results.get("predictions")
    model = f", answered by <code>{text(who)}</code>" if who else ""
    yield f"<p>{text(asked)}{model}.</p>"
    if settings.get("blank_image"):
        yield "<p class='banner'>The model saw a plain grey picture in place of each image: these scores are a floor, and the pictures below are what it did not see.</p>"
    links = {"groups": "Subgroups", "left-out": "Left out", "cases": "Cases", "settings": "Settings"}
    parts = " ".join(f"<a href='#{anchor}'>{name}</a>" for anchor, name in links.items())
    yield f"<nav aria-label='Parts'>{parts}</nav></header>"


def _headline(results: Mapping[str, Any], headline: Sequence[str], blank: Mapping[str, float]) -> Iterator[str]:
    yield "<div class='headline'>"
    for name in headline:
        score = results["scores"].get(name)
        if score is None or not score["n"]:
            continue
        said = words(name)
        yield f"<section class='score'><h2>{text(said.title)}</h2><p class='value'>{_number(score['value'])}</p>"
        yield whiskers(score, blank.get(name))
        floors = [f"95 % interval {_interval(score['ci95'])}"] if score["ci95"] else []
        floors += [f"without looking {_number(score['floor'])}"] if score["floor"] is not None else []
        floors += [f"on grey pictures {_number(blank[name])}"] if name in blank else []
        floors.append(f"n = {score['n']:,}")
        yield f"<p class='floors'>{text(' · '.join(floors))}</p>"
        better = " Lower is better." if said.lower_is_better else ""
        yield f"<p class='note'>{text(said.sentence + better)} <code>{text(name)}</code></p></section>"
    yield "</div>"


def _scores(scores: Mapping[str, Mapping[str, Any]], blank: Mapping[str, float], why: str) -> Iterator[str]:
    known = {name: score for name, score in scores.items() if score["n"]}
    columns = [("score", False), ("", False), ("value", True), ("95 % interval", True), ("floor", True)]
    columns += [("on grey pictures", True)] if blank else []
    heads = "".join(column(name, numeric=numeric) if name else "<td></td>" for name, numeric in [*columns, ("n", True)])
    rows = []
    for name, score in known.items():
        lower = " <span class='soft'>lower is better</span>" if words(name).lower_is_better else ""
        ci95 = score["ci95"]
        cells = [
            f"<th scope='row' title='{text(words(name).sentence)}'>{text(name)}{lower}</th><td>{whiskers(score, blank.get(name))}</td>",
            cell(_number(score["value"]), score["value"], "strong"),
            cell(_interval(ci95), ci95 and ci95[0]),
            cell(_number(score["floor"]), score["floor"]),
            *([cell(_number(blank.get(name)), blank.get(name))] if blank else []),
            cell(f"{score['n']:,}", score["n"]),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    table = scrolling("Scores", f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>")
    opened = " open" if len(known) <= _FEW else ""
    yield f"<details{opened}><summary><h2>All {len(known)} scores</h2></summary>{table}"
    yield "<p class='note'>A line is the 95 % bootstrap interval over patients, a dot the value, a tick the floor: the same score of a guess made without "
    yield f"looking at the image{', a ring that of the model itself when all it saw was a grey picture' if blank else ''}. A column's head sorts by it.</p>"
    empty = [name for name, score in scores.items() if not score["n"]]
    yield f"<p class='note'>No example for: {text(', '.join(empty))}.</p>" if empty else ""
    yield f"<p class='note'>{text(why)}</p></details>" if why else "</details>"


def _breakdown(results: Mapping[str, Any], headline: Sequence[str]) -> Iterator[str]:
    """Subgroups of each dimension; lesion sizes are scores of their own, and stand here too."""
    scores = results["scores"]
    dimensions = dict(results.get("breakdown", {}))
    sizes = {title: scores.get(f"mean_iou_{size}_patches") for size, title in _SIZES.items()}
    sized = {title: {"mean_iou": score} for title, score in sizes.items() if score is not None and score["n"]}
    if len(sized) > 1:
        dimensions["lesion size"] = sized
    yield "<h2 id='groups'>Subgroups</h2>"
    if not dimensions:
        yield "<p>All questions are of one group.</p>"
        return
    yield "<p class='note'>Groups with fewer than 10 questions have a number and no score; lesion sizes are always scored. The faint line is the score of all questions. Small groups have "
    yield "wide intervals: a difference between two of them says little where they overlap.</p><div class='tables'>"
    for dimension in sorted(dimensions, key=lambda name: _DIMENSIONS.index(name) if name in _DIMENSIONS else len(_DIMENSIONS)):
        groups = dimensions[dimension]
        names = [name for name in headline if any(name in group for group in groups.values())]
        yield f"<section><h3>{text(dimension.replace('_', ' '))}</h3>"
        heads = column("group", numeric=False) + "".join(
            f"{column(words(name).title, numeric=False)}{column('n', numeric=True)}" for name in names
        )
        rows = "".join(
            f"<tr><th scope='row'>{text(group)}</th>{''.join(_group_cells(found.get(name), scores.get(name)) for name in names)}</tr>"
            for group, found in groups.items()
        )
        yield scrolling(dimension, f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>") + "</section>"
    yield "</div>"


def _group_cells(score: Mapping[str, Any] | None, whole: Mapping[str, Any] | None) -> str:
    if score is None or not score["n"]:
        return "<td>–</td>" + cell("0", 0)
    if score["value"] is None:
        return "<td class='soft'>too few</td>" + cell(f"{score['n']:,}", score["n"])
    value = f" data-v='{score['value']:.10g}'"
    told = f"<b>{_number(score['value'])}</b> <span class='soft'>{_interval(score['ci95'])}</span>"
    reference = whole["value"] if whole else None
    return f"<td{value}><span class='bar-and-number'>{whiskers(score, None, reference)}<span>{told}</span></span></td>" + cell(
        f"{score['n']:,}", score["n"]
    )


def _left_out(results: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2 id='left-out'>What was left out</h2>"
    left_out = results.get("left_out", {})
    if left_out:
        yield _pairs({why: f"{number:,}" for why, number in left_out.items()})
    else:
        yield "<p>Nothing: every question of the split was asked.</p>"
    if results.get("not_run"):
        yield "<h3>Scores that were not run</h3>" + _pairs(results["not_run"])


# Cases.


def _cases(
    cases: Sequence[Case], shown: Sequence[Case], names: Sequence[str], headline: Sequence[str], kept: Mapping[str, Any]
) -> Iterator[str]:
    counts = tally(cases)
    yield "<h2 id='cases'>Cases</h2>"
    if not cases:
        yield "<p>There is none.</p>"
        return
    yield share_bar([(LOOKS[outcome][0], number) for outcome, number in counts.items()])
    told = " ".join(
        f"<li>{badge(outcome, LOOKS)} {number:,} <span class='soft'>{number / len(cases):.0%}</span></li>"
        for outcome, number in counts.items()
    )
    yield f"<ul class='tally'>{told}</ul>"
    why = Counter(reason for case in shown for reason in case.chosen)
    reasons = ", ".join(f"{reason} ({why[reason]})" for reason in SHOWN if why[reason])
    yield f"<p class='note'>{len(shown):,} of {len(cases):,} are shown: {text(reasons)}. Only the random draw shows how the whole looks. "
    yield "Truth is solid green, the model's boxes are dashed orange. A click on a picture enlarges the case; arrow keys walk on, Escape closes.</p>"
    yield from gallery([_card(case, names, headline, kept) for case in shown], LOOKS, OUTCOMES, names)


def _card(case: Case, names: Sequence[str], headline: Sequence[str], kept: Mapping[str, Any]) -> Card:
    picture = figure(case, kept, case.question)
    seen = f"<div class='seen'>{picture}</div>" if picture else ""
    told = (
        f"<p class='head'>{badge(case.outcome, LOOKS)} {about(case)}</p><h3>{text(case.question)}</h3>"
        f"<div class='both'>{truth(case)}{reply(case)}</div>{reasoning(case)}{values(case, names, headline)}"
        f"<p class='soft'>shown as {text(', '.join(case.chosen))}</p>"
    )
    return Card(
        case.outcome,
        case.domain,
        case.kind,
        case.chosen,
        bool(case.boxes_unit or case.said_unit),
        case.scores,
        f"{seen}<div class='told'>{told}</div>",
    )


# How it was asked.


def _settings(results: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    known = {"suite", "n", "headline", "scores", "breakdown", "left_out", "not_run", "versions"}
    notes = {name: value for name, value in results.items() if name not in known}
    yield f"<h2 id='settings'>Settings</h2><details><summary>How the model was asked</summary>{_pairs({**notes, **settings})}</details>"
    yield f"<details><summary>Versions</summary>{_pairs(results.get('versions', {}))}</details>"


def _pairs(pairs: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th scope='row'>{text(name)}</th><td>{text(_plain(value))}</td></tr>" for name, value in pairs.items())
    return f"<table class='pairs'><tbody>{rows}</tbody></table>"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(ci95: Sequence[float] | None) -> str:
    return "–" if ci95 is None else "{:.3f} to {:.3f}".format(*ci95)
