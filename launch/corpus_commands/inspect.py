"""`corpus.py inspect`: what a corpus holds, as text and as a page."""

import argparse
import os
import sys
from pathlib import Path

from launch.corpus_commands.shared import Commands, command
from medclm.corpus.report.lesions import ModelSquare
from medclm.corpus.report.page import write_report
from medclm.corpus.report.text import text_report
from medclm.data.shards import Corpus

_INSPECT_EXAMPLES = """examples:
  corpus.py inspect corpora/brats --records 5 --verify
  corpus.py inspect corpora/brats --html brats.html --model-side 224
The page of the default model stands in the folder's report.html; write it again to see a review or another model's sizes."""


def add(commands: Commands) -> None:
    usual = ModelSquare()
    inspect = command(commands, "inspect", "counts, balance and samples of a corpus", _INSPECT_EXAMPLES, _inspect)
    inspect.add_argument("corpus", type=Path, help="corpus folder")
    inspect.add_argument("--records", type=int, default=3, help="records to print as text (default %(default)s)")
    inspect.add_argument("--html", type=Path, metavar="FILE", help="also write the page with contact sheets")
    inspect.add_argument("--verify", action="store_true", help="compare every file's sha256 with the manifest first")
    inspect.add_argument(
        "--model-side", type=int, default=usual.side, help="side of the model's square in pixels (default %(default)s)"
    )
    inspect.add_argument(
        "--patch", type=int, default=usual.patch, help="side of a vision patch in pixels (default %(default)s)"
    )
    inspect.add_argument(
        "--min-side", type=float, default=usual.min_side, help="data.min_side of the recipe (default %(default)s)"
    )
    inspect.add_argument(
        "--fit", choices=("pad", "stretch"), default=usual.fit, help="data.fit of the recipe (default %(default)s)"
    )


def _inspect(args: argparse.Namespace) -> int:
    if args.records < 0:
        raise ValueError(f"--records {args.records}: give 0 or more")
    square = ModelSquare(side=args.model_side, patch=args.patch, min_side=args.min_side, fit=args.fit)
    corpus = Corpus(args.corpus, verify=args.verify)
    text = text_report(corpus, samples=args.records, square=square)
    if args.html is not None:
        _write_page(corpus, args.html, square)
        text += f"\npage: {args.html}"
    _print(text)
    return 0


def _write_page(corpus: Corpus, path: Path, square: ModelSquare) -> None:
    if path.is_dir() or not path.parent.is_dir():
        fault = "is a folder" if path.is_dir() else "its folder does not exist"
        raise ValueError(f"--html {path}: {fault}: give a file in an existing folder")
    write_report(corpus, path, square=square)


def _print(text: str) -> None:
    """Print; a reader that has seen enough (`| head`) is no fault."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # or the interpreter complains when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
