"""`corpus.py inspect`: what a corpus holds, as text."""

import argparse
from pathlib import Path

from launch.corpus_commands.shared import Commands, command
from medclm.corpus.inspect import text_report
from medclm.data.shards import Corpus

_INSPECT_EXAMPLES = """example:
  corpus.py inspect corpora/brats --records 5 --verify
The same counts, with rendered samples, stand in the folder's report.html."""


def add(commands: Commands) -> None:
    inspect = command(commands, "inspect", "counts, balance and samples of a corpus", _INSPECT_EXAMPLES, _inspect)
    inspect.add_argument("corpus", type=Path, help="corpus folder")
    inspect.add_argument("--records", type=int, default=3, help="records to print as text (default %(default)s)")
    inspect.add_argument("--verify", action="store_true", help="compare every file's sha256 with the manifest first")


def _inspect(args: argparse.Namespace) -> int:
    print(text_report(Corpus(args.corpus, verify=args.verify), samples=args.records))
    return 0
