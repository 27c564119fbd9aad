"""The numbers of a corpus as titled tables of words, in reading order; the text and the page show the same ones.

Plain text throughout, escaped nowhere. Knows neither files nor layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medclm.corpus.report.flow import by_source, entries_in_and_out, images_in_and_out
from medclm.corpus.report.lesions import ClassCounts
from medclm.corpus.report.rejects import LEVELS, UNSUPPORTED
from medclm.corpus.report.summary import MAJORITY_LIMIT, STAGES, Summary
from medclm.corpus.review.summary import review_of
from medclm.data.schema import RELATIONS, SPLITS
from medclm.metrics.boxes import STRATA

Row = tuple[str, ...]
_SIZES = dict(zip(STRATA, ("< 1 patch", "1 to 2", "2 to 4", "> 4"), strict=True))


@dataclass(frozen=True)
class Table:
    title: str
    header: Row
    """Empty = the rows name themselves."""
    rows: Sequence[Row]
    """The most important first."""
    notes: tuple[str, ...] = ()
    bars: tuple[float, ...] = ()
    """Shares 0..1, one a row, for a bar behind it; empty = none."""


def tables(summary: Summary) -> list[Table]:
    """Every table that has something to say."""
    found = [
        images_table(summary),
        _sources(summary),
        _reasons(summary),
        _writers(summary),
        _splits(summary),
        _domains(summary),
        _stages(summary),
        _hard(summary),
        _organs(summary),
        _histogram(summary),
        _sizes(summary),
        _counted("question kinds", summary.records["question_kind"]),
        _counted("languages", summary.records["language"]),
        _counted("images by modality", summary.images["modality"]),
        _counted("images by plane", summary.images["plane"]),
        Table("rows stored", (), [(kind, str(rows)) for kind, rows in summary.tables.items()]),
    ]
    return [table for table in found if table.rows]


def warnings(summary: Summary) -> list[str]:
    """What a person should know before training."""
    found = [f"split {split} is empty" for split in SPLITS if not summary.records["split"][split]]
    for name, source in summary.manifest.get("sources", {}).items():
        if unknown := source.get("images_without_patient", 0):
            found.append(
                f"source {name}: {unknown} images state no patient and count as one each: pictures of one patient may be in two "
                "splits (--patient-field, --patient-pattern)"
            )
    for key in summary.one_sided():
        balance = summary.hard[key]
        answers = f"{balance.share:.0%} of {balance.answers.total()} Hard answers are {balance.majority[0]!r}"
        found.append(f"{key[0]}, {key[1]}: {answers} (limit {MAJORITY_LIMIT:.0%})")
    return found


def review_state(manifest: Mapping[str, Any]) -> str:
    """Whether readers have judged samples of the corpus, and what they found."""
    entry = review_of(manifest)
    if entry.get("state") != "reviewed":
        return "unreviewed: no reader has judged samples of this corpus (corpus.py review)"
    upper, kappa = entry.get("upper"), entry.get("kappa")
    numbers = [f"{entry.get('n')} samples", f"{entry.get('wrong')} wrong", f"{entry.get('unanswerable')} unanswerable"]
    numbers += [f"upper bound {upper:.2%}"] if upper is not None else []
    numbers += [f"kappa {kappa:.3f}"] if kappa is not None else []
    state = "accepted" if entry.get("accepted") else "not accepted"
    return f"reviewed, {state}: {', '.join(numbers)}; readers {', '.join(map(str, entry.get('readers', ())))}"


def images_table(summary: Summary) -> Table:
    """In = kept + what went out, by named reason."""
    flow = images_in_and_out(summary) if summary.entries is None else entries_in_and_out(summary)
    rows = [(name, str(count)) for name, count in flow.lines]
    return Table(f"{flow.unit} in and out", (), rows, notes=flow.notes)


def _sources(summary: Summary) -> Table:
    rows = []
    for name, read, kept, licence in by_source(summary):
        left_out = None if read is None else read - kept
        rows.append((name, _known(read), str(kept), _known(left_out), licence))
    return Table("images by source", ("source", "read", "kept", "left out", "licence"), rows)


def _reasons(summary: Summary) -> Table:
    found = sorted(summary.rejected.reasons.items(), key=lambda item: (LEVELS.index(item[0][0]), -item[1].count, item[0][1]))
    rows = [(reason, level, str(one.count), one.index, one.detail) for (level, reason), one in found]
    merged = rows and len(summary.images["source"]) > 1
    notes = ("of all sources together: a reject does not name its source",) if merged else ()
    header = ("reason", "what went out", "count", "first at", "example") if rows else ()
    return Table("rejects by reason", header, rows or [("none",)], notes=notes)


def _writers(summary: Summary) -> Table:
    checks = summary.rejected.checks
    rows = []
    for writer in sorted({*summary.records["writer"], *checks} - {""}):
        kept, failed = summary.records["writer"][writer], checks.get(writer, Counter())
        judged = kept + failed.total()
        rows.append((writer, str(kept), str(failed.total()), str(failed[UNSUPPORTED]), _share(failed[UNSUPPORTED], judged)))
    notes = ["share of unsupported claims among the records that checks judged, after every retry"]
    if "" in checks:
        lost = checks[""]
        notes.append(f"{lost.total()} refused records do not name their writer ({lost[UNSUPPORTED]} for an unsupported claim)")
    header = ("writer", "records kept", "refused by a check", "unsupported claim", "share")
    return Table("writers", header, rows, notes=tuple(notes))


def _splits(summary: Summary) -> Table:
    rows = [(split, str(summary.records["split"][split]), str(summary.patients[split])) for split in SPLITS]
    return Table("splits", ("split", "records", "patients"), rows)


def _domains(summary: Summary) -> Table:
    found = sorted(summary.domains.items(), key=lambda item: (-item[1].total(), item[0]))
    rows = [(name, str(counts.total()), *(str(counts[split]) for split in SPLITS)) for name, counts in found]
    note = "what was rejected is not known by domain: a domain begins with a record"
    return Table("records by domain", ("domain", "records", *SPLITS), rows, notes=(note,) if summary.rejected.reasons else ())


def _stages(summary: Summary) -> Table:
    rows = [
        (stage, str(kinds.total()), ", ".join(f"{name} {n}" for name, n in sorted(kinds.items())))
        for stage, kinds in ((stage, summary.stages[stage]) for stage in STAGES)
    ]
    without = summary.manifest.get("hard", {}).get("without_partner")
    notes = () if without is None else (f"{without} records found no Hard partner",)
    return Table("stages offered", ("stage", "records", "answer types"), rows, notes=notes)


def _hard(summary: Summary) -> Table:
    share = summary.majority_share
    if share is None:
        return Table("Hard answers", (), [])
    one_sided = summary.one_sided()
    order = one_sided + sorted(summary.hard.keys() - set(one_sided), key=lambda key: (-summary.hard[key].answers.total(), key))
    rows = []
    for key in order:
        balance = summary.hard[key]
        mark = "above the limit" if key in one_sided else ""
        rows.append((*key, str(balance.answers.total()), f"{balance.share:.0%}", balance.majority[0], mark))
    note = (
        f"{share:.1%} of the Hard answers equal the commonest one of their domain and kind; {len(one_sided)} of {len(order)} pairs "
        f"are above {MAJORITY_LIMIT:.0%}; kind what is not judged: its answer is the domain's class"
    )
    return Table("Hard answers", ("domain", "kind", "answers", "commonest", "which", ""), rows, notes=(note,))


def _organs(summary: Summary) -> Table:
    rows = []
    for name, counts in _by_class(summary):
        relations = [str(counts.relations[relation]) for relation in RELATIONS]
        margins = [_number(counts.margin(0.5)), _number(counts.margin(0.1)), str(counts.margins.total())]
        rows.append((name, str(counts.lesions), *relations, *margins, str(counts.without_row)))
    without = sum(counts.without_row > 0 for counts in summary.lesions.classes.values())
    notes = (
        f"{without} of {len(summary.lesions.classes)} classes have no row in the table of plausible organs: all organs were candidates; a class that is an organ itself has no host",
        "margin: score of the host less that of the best unrelated organ, where masks decided; 1 = no rival, near 0 = a toss-up",
    )
    header = (
        "class",
        "lesions",
        *(name.replace("_", " ") for name in RELATIONS),
        "margin median",
        "10th pct",
        "with a margin",
        "no table row",
    )
    return Table("organ relation by class", header, rows, notes=notes)


def _histogram(summary: Summary) -> Table:
    every, square = summary.lesions.all, summary.square
    total = every.sizes.total()
    rows = [(_SIZES[name], str(every.sizes[name]), _share(every.sizes[name], total)) for name in STRATA]
    notes = (
        f"short side on the model's square of {square.side} px, patches of {square.patch} px, {square.fit}",
        f"{every.under_min} of {total} lesions are under data.min_side = {square.min_side:g} px and are not trained on",
        f"{every.lesions - total} lesions have no box; {summary.lesions.controls} control boxes are not counted",
    )
    bars = tuple(every.sizes[name] / total for name in STRATA) if total else ()
    return Table("lesions by size", ("short side", "lesions", "share"), rows if total else [], notes=notes, bars=bars)


def _sizes(summary: Summary) -> Table:
    rows = []
    for name, counts in _by_class(summary):
        total = counts.sizes.total()
        sizes = [str(counts.sizes[stratum]) for stratum in STRATA]
        rows.append((name, *sizes, _share(counts.sizes[STRATA[0]], total), str(counts.under_min)))
    header = ("class", *_SIZES.values(), "sub-patch share", "under min_side")
    return Table("lesions by class and size", header, rows)


def _by_class(summary: Summary) -> list[tuple[str, ClassCounts]]:
    """All together first, then the classes, the commonest first."""
    classes = sorted(summary.lesions.classes.items(), key=lambda item: (-item[1].lesions, item[0]))
    return [("all", summary.lesions.all), *classes] if len(classes) > 1 else classes


def _counted(title: str, counts: Counter[str]) -> Table:
    return Table(title, (), [(name, str(n)) for name, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))])


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _known(value: int | None) -> str:
    return "not known" if value is None else str(value)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
