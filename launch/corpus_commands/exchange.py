"""`corpus.py import` and `corpus.py export`: corpora from and to the formats of others."""

import argparse
from pathlib import Path

from launch.corpus_commands.shared import Commands, add_key, add_licence, command, print_report
from medclm.corpus.ids import load_ids
from medclm.corpus.inspect import NOTICE
from medclm.corpus.published import import_published
from medclm.corpus.published_export import export_published
from medclm.data.schema import SPLITS
from medclm.data.shards import Corpus


def add(commands: Commands) -> None:
    _add_import(commands)
    _add_export(commands)


def _add_import(commands: Commands) -> None:
    parser = command(
        commands,
        "import",
        "published JSON -> corpus",
        "example:\n  corpus.py import train.json --image-root images --out corpora/published",
        _import,
    )
    parser.add_argument("json", type=Path, help="list of objects with image_path2, bbox, question, cot, answer, ...")
    parser.add_argument(
        "--image-root", type=Path, metavar="DIR", help="folder that image paths are relative to (default: that of the JSON)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="corpus folder: new or empty")
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="split of objects that state none (default %(default)s)"
    )
    parser.add_argument("--name", default="published", help="name of the source in the corpus (default %(default)s)")
    add_licence(parser)
    add_key(parser)


def _import(args: argparse.Namespace) -> int:
    report = import_published(
        args.json,
        args.image_root,
        args.out,
        ids=load_ids(args.id_key, args.out),
        split=args.split,
        source=args.name,
        licence=args.licence,
        shareable=args.shareable,
    )
    print_report(report)
    return 0


def _add_export(commands: Commands) -> None:
    parser = command(
        commands,
        "export",
        "corpus -> published JSON and pictures",
        "example:\n  corpus.py export corpora/brats --json out/brats.json --images out/images --split train",
        _export,
    )
    parser.add_argument("corpus", type=Path, help="corpus folder")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="list to write")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder for the pictures: new or empty")
    parser.add_argument("--split", action="append", choices=SPLITS, help="only this split; repeatable (default: all)")
    parser.add_argument("--digits", type=int, default=4, help="decimals of coordinates (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the colours of drawn boxes (default %(default)s)")


def _export(args: argparse.Namespace) -> int:
    corpus = Corpus(args.corpus)
    counts = export_published(corpus, args.json, args.images, splits=args.split or SPLITS, digits=args.digits, seed=args.seed)
    print(f"{args.json}: {counts['records']} records (easy {counts['easy']}, medium {counts['medium']}, hard {counts['hard']})")
    print(f"{args.images}: pictures; licence {corpus.manifest.get('licence')}. {NOTICE}")
    return 0
