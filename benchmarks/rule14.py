"""How far `rule14` agrees with the human coders of the Open-i reports (MeSH terms), observation by observation.

python benchmarks/rule14.py --data ../shared/data/openi_reports      # reports.jsonl: findings, impression, mesh_major

The tables of rule14 were written on the first 300 reports; the others are held out and printed apart. Coders of MeSH terms
have habits of their own (below, each with its reason), so this is agreement of two readings of a text, not accuracy. Prints
counts, agreement and Cohen's kappa with a 95 % bootstrap interval over reports; never a report's words.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medclm.metrics.findings import kappa_columns, kappa_of_means, positive
from medclm.metrics.intervals import bootstrap_ci95, estimate
from medclm.metrics.rule14 import OBSERVATIONS, Side, Status, as_arrays, label

DEVELOPED_ON = 300
"""Reports, in file order, that the tables of rule14 were written on."""
FREQUENT = 10
"""Positive reports of the coders below which a kappa is too noisy to be aimed at."""


class Row(NamedTuple):
    """Terms whose text matches `term` mean `observations`; the first row that matches counts."""

    term: str
    observations: tuple[str, ...]
    status: Status
    reason: str


_P, _U = Status.PRESENT, Status.UNCERTAIN
MESH: tuple[Row, ...] = (
    Row(r"Cardiomegaly/borderline|Cardiac Shadow/(enlarged/)?borderline", ("Cardiomegaly",), _U, "borderline is neither"),
    Row(r"Cardiomegaly|Cardiac Shadow/enlarged|Heart Atria/.*enlarged", ("Cardiomegaly",), _P, ""),
    Row(r"Cardiac Shadow/.*prominent", ("Cardiomegaly",), _U, "prominent is not called enlarged"),
    Row(r"Mediastinum/prominent", ("Enlarged Cardiomediastinum",), _U, "prominent is not called widened"),
    Row(r"(Opacity|Density)/.*round", ("Lung Lesion",), _P, "how the coders write a nodular opacity"),
    Row(r"Opacity/supracardiac", (), _P, "lies in the mediastinum"),
    Row(r"Opacity|Airspace Disease|Infiltrate", ("Lung Opacity",), _P, "in these reports opacities are of the lung"),
    Row(r"Density/lung|Density/.*phrenic", ("Lung Opacity",), _P, "a lung density is an opacity"),
    Row(
        r"Density/pleura|Thickening/pleura|Cicatrix/(pleura|costophrenic)",
        ("Pleural Other",),
        _P,
        "pleural scars and thickening",
    ),
    Row(
        r"Markings/.*interstitial",
        ("Lung Opacity",),
        _P,
        "interstitial pattern; bronchovascular markings are crowding at low volume",
    ),
    Row(
        r"Markings/(lung|right|left|bilateral)(?!.*bronchovascular)(?!.*paratracheal)",
        ("Lung Opacity",),
        _P,
        "increased lung markings",
    ),
    Row(r"Pulmonary Fibrosis|Lung Diseases, Interstitial", ("Lung Opacity",), _P, "seen as an interstitial pattern"),
    Row(r"Cicatrix/(lung|cardiophrenic|right|left)", ("Lung Opacity",), _P, "a lung scar is seen as a linear opacity"),
    Row(r"Nodule|Mass/lung|Mass$", ("Lung Lesion",), _P, ""),
    Row(r"Mass/thorax", ("Lung Lesion",), _U, "may be of the chest wall"),
    Row(
        r"(Calcified )?Granuloma(?!tous|/paratracheal)",
        ("Lung Lesion",),
        _P,
        "a granuloma is a nodule; granulomatous disease names none",
    ),
    Row(r"Calcinosis/lung/(?!hilum)", ("Lung Lesion",), _U, "calcified foci of the lung; of the hilum they are lymph nodes"),
    Row(r"Pulmonary Edema|Heart Failure", ("Edema",), _P, "heart failure is read off edema"),
    Row(r"Pulmonary Congestion", ("Edema",), _U, "the stage before edema"),
    Row(r"Consolidation", ("Consolidation",), _P, ""),
    Row(r"Pneumonia$|Pneumonia/", ("Pneumonia",), _P, ""),
    Row(r"Pulmonary Atelectasis", ("Atelectasis",), _P, ""),
    Row(r"Volume Loss", ("Atelectasis",), _U, "fibrosis and surgery lose volume too"),
    Row(r"Pneumothorax", ("Pneumothorax",), _P, ""),
    Row(r"Pleural Effusion/borderline", ("Pleural Effusion",), _U, "borderline is neither"),
    Row(r"Pleural Effusion", ("Pleural Effusion",), _P, ""),
    Row(r"(Costophrenic Angle|Sulcus)/.*blunted", ("Pleural Effusion",), _U, "a small effusion or an old scar"),
    Row(r"Fractures, Bone", ("Fracture",), _P, ""),
    Row(r"Deformity/(ribs|.*vertebrae)", ("Fracture",), _U, "most often an old fracture"),
    Row(
        r"Catheters, Indwelling|Tube, Inserted|Implanted Medical Device|Medical Device|Stents",
        ("Support Devices",),
        _P,
        "clips, sutures, implants and fusions support nothing",
    ),
)
NOT_CODED = "No Indexing"
"""Term of reports that the coders left: they say nothing of its findings."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with reports.jsonl")
    path = parser.parse_args().data / "reports.jsonl"
    if not path.is_file():
        parser.error(f"--data {path.parent}: no reports.jsonl there; give the folder that holds it")
    reports = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for title, part in (("first", reports[:DEVELOPED_ON]), ("held-out", reports[DEVELOPED_ON:])):
        left_out = Counter(reason for report in part if (reason := unusable(report)))
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        print(f"\n{title} {len(part)} reports; left out: {reasons or 'none'}")
        print_agreement([report for report in part if not unusable(report)])
    terms = [term.split("/")[0] for report in reports for term in report["mesh_major"] if row_of(term) is None]
    others = Counter(term for term in terms if term not in ("normal", NOT_CODED))
    print(f"\nMeSH terms that name none of the 14, besides `normal`: {others.total()} of {len(others)} headings, most often")
    print(", ".join(f"{name} {count}" for name, count in others.most_common(10)))


def row_of(term: str) -> Row | None:
    return next((row for row in MESH if re.match(row.term, term)), None)


def unusable(report: dict[str, Any]) -> str | None:
    """Why a report cannot be compared, or None."""
    if not text_of(report).strip():
        return "without text"
    return "not coded" if NOT_CODED in report["mesh_major"] or not report["mesh_major"] else None


def text_of(report: dict[str, Any]) -> str:
    return f"{report['findings']}\n\n{report['impression']}"


def coded(terms: list[str]) -> tuple[list[Status], list[Side], list[str]]:
    """14 statuses and sides by MeSH terms, and the first term heading that gave each."""
    status = dict.fromkeys(OBSERVATIONS, Status.NOT_MENTIONED)
    side, heading = dict.fromkeys(OBSERVATIONS, Side.NONE_SAID), dict.fromkeys(OBSERVATIONS, "no term")
    for term in terms:
        row = row_of(term)
        for name in row.observations if row else ():
            if row and row.status > status[name]:
                status[name], side[name], heading[name] = row.status, Side.NONE_SAID, term.split("/")[0]
            if row and row.status == status[name]:
                side[name] |= _side(term)
    others = [status[name] for name in OBSERVATIONS if name not in ("No Finding", "Support Devices")]
    found = max(others)
    status["No Finding"] = Status.PRESENT if found < Status.UNCERTAIN else Status.ABSENT
    return list(status.values()), list(side.values()), list(heading.values())


def _side(term: str) -> Side:
    parts = set(term.split("/"))
    side = Side.LEFT if parts & {"left", "lingula"} else Side.NONE_SAID
    side |= Side.RIGHT if "right" in parts else Side.NONE_SAID
    return Side.BILATERAL if "bilateral" in parts else side


def print_agreement(reports: list[dict[str, Any]]) -> None:
    ids = [report["uid"] for report in reports]
    said, said_side = as_arrays([label(text_of(report)) for report in reports])
    truth = [coded(report["mesh_major"]) for report in reports]
    coder, coder_side = np.array([row[0] for row in truth]), np.array([row[1] for row in truth])
    for uncertain in (True, False):
        print(f"\nuncertain counted as {'positive' if uncertain else 'negative'}")
        print(f"{'':<27}{'rule14':>7}{'MeSH':>6}{'agree':>7}{'kappa':>7}  {'95 %':<14}most frequent disagreement")
        for column, name in enumerate(OBSERVATIONS):
            first, second = positive(said[:, column], uncertain), positive(coder[:, column], uncertain)
            values = kappa_columns(first, second)
            kappa = estimate(values, kappa_of_means)
            interval = bootstrap_ci95(values, ids, formula=kappa_of_means)
            spread = "" if interval is None or not np.isfinite(kappa) else f"{interval[0]:.2f} to {interval[1]:.2f}"
            frequent = " " if second.sum() >= FREQUENT else "*"
            causes = Counter(
                f"rule14 {Status(int(said[i, column])).name.lower().replace('_', ' ')}, MeSH {truth[i][2][column]}"
                for i in np.flatnonzero(first != second)
            )
            worst = "; ".join(f"{cause} ({count})" for cause, count in causes.most_common(2))
            print(
                f"{name:<26}{frequent}{first.sum():>7}{second.sum():>6}{np.mean(first == second):>7.3f}{kappa:>7.2f}  {spread:<14}{worst}"
            )
    print(f"\n* fewer than {FREQUENT} positive by MeSH")
    print_sides(said, said_side, coder, coder_side)


def print_sides(said: np.ndarray, said_side: np.ndarray, coder: np.ndarray, coder_side: np.ndarray) -> None:
    """Agreement of sides where both found it and the coders name one."""
    sided = positive(said, True) & positive(coder, True) & (coder_side > 0)
    same, opposite = (said_side == coder_side)[sided].sum(), (((said_side & coder_side) == 0) & (said_side > 0))[sided].sum()
    none = (said_side == 0)[sided].sum()
    half = sided.sum() - same - opposite - none
    print(
        f"sides of {sided.sum()} findings that both have and MeSH places: {same} equal, {half} one of two, {opposite} opposite, {none} not read"
    )


if __name__ == "__main__":
    main()
