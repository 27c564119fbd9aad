"""`corpus.py leaks`: what a corpus shares with a benchmark, or its splits with each other."""

import argparse
import os
from pathlib import Path

from launch.corpus_commands.shared import Commands, command, names, numbers
from medclm.corpus.leak_sides import Side, open_side
from medclm.corpus.leaks import KINDS, LeakReport, compare
from medclm.data.manifest import write_json

LEAK_FOUND = 4
_SHOWN = 10

_LEAKS_EXAMPLES = """examples:
  a corpus against a benchmark, before any number on it is reported:
    corpus.py leaks corpora/brats benchmarks/vqa_rad/images --splits train --out leaks.json
  the splits of one corpus against each other:
    corpus.py leaks corpora/brats
Pictures are named by number: the image row of a corpus, or the position among the picture files of a folder sorted by
path, from 0 (--path-key writes which is which).
same_image: equal pixels after decoding, or an equal id of picture or origin. near_duplicate: another patient's picture of the
same exposure (256-bit hash as a shortlist, then correlation of at least 0.98 at 128 px); flat pictures match nothing.
same_patient: equal hashed ids, which compare only between corpora built with the same --id-key.
Exit codes: 0 no leak, 4 leak found, 2 a mistake in what was asked."""


def add(commands: Commands) -> None:
    parser = command(commands, "leaks", "pictures and patients on both sides of a comparison", _LEAKS_EXAMPLES, _leaks)
    parser.add_argument("a", type=Path, metavar="A", help="corpus, or folder of picture files")
    parser.add_argument("b", type=Path, metavar="B", nargs="?", help="the other one; without it the splits of A are compared")
    parser.add_argument("--splits", default="", metavar="LIST", help="take only these splits of A, e.g. train")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything found as JSON, by number")
    parser.add_argument(
        "--path-key", type=Path, metavar="FILE", help="write side, number and path of each picture file; keep it to yourself"
    )
    parser.add_argument(
        "--window", metavar="CENTRE,WIDTH", help="maps picture files of more than 8 bits; without it they are counted as unread"
    )
    parser.add_argument(
        "--false-positive-pictures",
        type=int,
        default=2000,
        metavar="N",
        help="pictures whose pairs of different patients measure the false-positive rate (default %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="threads that decode (default %(default)s)"
    )


def _leaks(args: argparse.Namespace) -> int:
    centre_width = numbers("--window", args.window, 2) if args.window else None
    window = (centre_width[0], centre_width[1]) if centre_width else None
    a = open_side(args.a, window=window)
    b = open_side(args.b, window=window) if args.b else None
    sides = {"A": a} | ({"B": b} if b is not None else {})
    report = compare(
        a,
        b,
        splits_a=names(args.splits),
        workers=args.workers,
        false_positive_pictures=args.false_positive_pictures,
        progress=True,
    )
    if args.path_key:
        _write_path_key(args.path_key, sides)
    if args.out:
        write_json(args.out, report.as_json(sides))
    _print(report, sides)
    return LEAK_FOUND if report.found else 0


def _write_path_key(path: Path, sides: dict[str, Side]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        for name, side in sides.items():
            stream.writelines(f"{name}\t{number}\t{file}\n" for number, file in enumerate(side.paths or ()))


def _print(report: LeakReport, sides: dict[str, Side]) -> None:
    for name, side in sides.items():
        unread = "".join(f", {count} not compared: {reason}" for reason, count in side.unread.most_common())
        others = f", {side.other_files} other files" if side.other_files else ""
        print(f"{name}: {side.kind}, {side.count} pictures{others}{unread}")
    for kind in KINDS:
        found = getattr(report, kind)
        note = f"  ({report.patients})" if kind == "same_patient" and report.patients != "compared" else ""
        print(f"  {kind:<15}{len(found):>7}{note}")
        for entry in found[:_SHOWN]:
            print("    " + ", ".join(f"{name} {value}" for name, value in entry.items()))
        if len(found) > _SHOWN:
            print(f"    and {len(found) - _SHOWN} more (--out FILE holds all)")
    rate = report.false_positives
    if rate is None:
        print("  false positives: not measured, since neither side states patients")
    else:
        print(
            f"  false positives: {rate.called} of {rate.pairs} pairs of different patients within {rate.side} "
            f"(at most {rate.upper95:.1e} with 95 % confidence)"
        )
