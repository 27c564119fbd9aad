"""What the corpus commands share: how a command is declared, how lists and pairs are read, what a finished build prints."""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from medclm.corpus.finalise import BuildReport
from medclm.corpus.ids import KEY_VARIABLE
from medclm.corpus.report import NOTICE

Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"
Group = "argparse._ArgumentGroup | argparse.ArgumentParser"


def command(
    commands: Commands, name: str, summary: str, examples: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Declare `corpus.py NAME`; `run` gets the parsed arguments and returns the exit code."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def numbers(flag: str, text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.replace("/", ",").split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise ValueError(f"{flag} {text}: give {count} numbers separated by commas")
    return numbers


def fold(text: str) -> tuple[int, int]:
    fold, _, folds = text.partition("/")
    if not (fold.isdigit() and folds.isdigit()):
        raise ValueError(f"--split-fold {text}: give K/N, e.g. 1/4")
    return int(fold), int(folds)


def pair(flag: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise ValueError(f"{flag} {text}: give NAME=VALUE")
    return name.strip(), value.strip()


def add_licence(group: Group) -> None:
    group.add_argument(
        "--licence", default="unknown", help="licence of the pictures; the strictest one is stored with the corpus"
    )
    group.add_argument("--shareable", action="store_true", help="the pictures may leave this machine")


def add_key(group: Group) -> None:
    group.add_argument(
        "--id-key",
        type=Path,
        metavar="FILE",
        help=f"key of the ids, mode 0600, outside the corpus, created if missing (default: ${KEY_VARIABLE}, else ~/.config/medclm/id.key)",
    )


def print_report(report: BuildReport) -> None:
    splits = ", ".join(f"{split} {count}" for split, count in report.records.items())
    stages = ", ".join(f"{stage} {report.stages.get(stage, 0)}" for stage in ("easy", "medium", "hard"))
    print(f"{report.folder}: {sum(report.records.values())} records ({splits}) of {report.domains} domains")
    print(f"  stages offered: {stages}; without a Hard partner: {report.without_partner}")
    print(f"  images {report.images}, annotations {report.annotations}, studies {report.studies}")
    if report.without_patient:
        print(
            f"  warning: {report.without_patient} images state no patient and count as one each: pictures of one patient may be in two "
            "splits; give --patient-field or --patient-pattern"
        )
    if report.images and report.rejects.get("organ_mask_missing", 0) >= report.images:
        print("  warning: no image has an organ mask, so no organ is ever named: check --organ and --organ-root")
    if report.near_duplicates:
        print(f"  near-duplicates of different patients: {report.near_duplicates} groups, each in one split")
    for reason, count in Counter(report.rejects).most_common():
        print(f"  rejected: {count}  {reason}")
    print(f"  look: {report.folder / 'report.html'}    {NOTICE}")
