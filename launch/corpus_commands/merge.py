"""`corpus.py merge`: the parts of several tasks or sources -> one corpus."""

import argparse
from pathlib import Path

from launch.corpus_commands.shared import Commands, command, print_report
from medclm.corpus.merge import merge
from medclm.corpus.review.verdicts import exclusions

_EXAMPLES = """examples:
  three tasks that share a folder, on three machines or as a Slurm job array (launch/slurm/corpus.sbatch):
    corpus.py build ... --out corpora/films --task 0/3        (1/3 and 2/3 alike)
    corpus.py merge corpora/films --out corpora/films
  two sources in one corpus; patients of a shared origin are split together:
    corpus.py build --source nih ... --out parts/nih --task 0/1
    corpus.py build --source rsna ... --out parts/rsna --task 0/1
    corpus.py merge parts/nih parts/rsna --out corpora/chest
A part that is missing or there twice is refused by number. The same bytes come out for any number of tasks and workers."""


def add(commands: Commands) -> None:
    parser = command(commands, "merge", "parts of several tasks or sources -> one corpus", _EXAMPLES, _merge)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folder given as --out to `build --task`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="corpus folder: new, empty, or one of the above")
    parser.add_argument(
        "--verdicts", type=Path, metavar="FILE", help="leave out what readers judged wrong (`corpus.py review`)"
    )


def _merge(args: argparse.Namespace) -> int:
    print_report(merge(args.folders, args.out, exclusions=exclusions(args.verdicts) if args.verdicts else None))
    return 0
