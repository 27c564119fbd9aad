"""`corpus.py import` and `corpus.py export`: corpora from and to the formats of others."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from launch.corpus_commands.shared import Commands, add_key, add_licence, command, print_report
from medclm.corpus.exchange.box_text import PADDED, QWEN_2_5, RULES, UNIT, BoxText
from medclm.corpus.exchange.coco import export_coco
from medclm.corpus.exchange.exporting import ExportOptions, licence_lines
from medclm.corpus.exchange.importing import ImportOptions
from medclm.corpus.exchange.llama_factory import export_sharegpt, import_sharegpt
from medclm.corpus.exchange.llava import export_llava, import_llava
from medclm.corpus.exchange.ms_swift import export_ms_swift, import_ms_swift
from medclm.corpus.exchange.published import import_published
from medclm.corpus.exchange.published_export import export_published
from medclm.corpus.finalise import BuildReport
from medclm.corpus.ids import load_ids
from medclm.corpus.report import NOTICE
from medclm.data.schema import SPLITS
from medclm.data.shards import Corpus

_BOX_TEXT = {"llava": PADDED, "sharegpt": QWEN_2_5}
"""Formats whose texts may hold boxes by another rule -> their own rule."""
_LOST = {
    "published": "patients (every picture counts as its own), masks, facts, accepted alternatives, boxes that no text names",
    "llava": "patients (every picture counts as its own), organs, masks, facts, accepted alternatives, boxes that no text names",
    "sharegpt": "patients (every picture counts as its own), organs, masks, facts, accepted alternatives, boxes that no text names",
    "ms-swift": "patients (every picture counts as its own), organs, masks, facts, accepted alternatives, boxes that no text names",
}
"""Format -> what it cannot carry, and what is therefore unknown after an import."""
_USE = {
    "published": "take back with: corpus.py import {out}/published.json --out NEW",
    "coco": "take back with: corpus.py build --source coco --annotations {out}/coco.json --image-root {out}/images "
    "--patient-field patient --split-field split --lesion-3d-field lesion_3d --modality CODE --out NEW",
    "llava": "train LLaVA-1.5 with: --data_path {out}/train.json --image_folder {out} --image_aspect_ratio pad",
    "sharegpt": "train LLaMA-Factory with: dataset_dir: {out}, dataset: medclm_train",
    "ms-swift": "train ms-swift with: ROOT_IMAGE_DIR={out} swift sft --dataset {out}/train.jsonl",
}
_IMPORT_EXAMPLES = """examples:
  corpus.py import train.json --image-root images --out corpora/published
  corpus.py import train.json val.json --format llava --out corpora/conversations
COCO carries no questions: it comes in through `corpus.py build --source coco`."""
_EXPORT_EXAMPLES = """examples:
  corpus.py export corpora/brats --format coco --out brats_coco
  corpus.py export corpora/brats --format sharegpt --box-text thousandths --split train --out brats_qwen3
DIR gets the format's JSON (conversations: one file a split) and images/ with NOTICE.txt; its paths are relative to DIR."""


def add(commands: Commands) -> None:
    _add_import(commands)
    _add_export(commands)


def _add_import(commands: Commands) -> None:
    parser = command(commands, "import", "questions and answers of others -> corpus", _IMPORT_EXAMPLES, _import)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JSON list, or one object a line (.jsonl)")
    parser.add_argument("--format", choices=tuple(_LOST), default="published", help="of the files (default %(default)s)")
    parser.add_argument(
        "--image-root", type=Path, metavar="DIR", help="folder that image paths are relative to (default: that of the files)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="corpus folder: new or empty")
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="split of objects that state none (default %(default)s)"
    )
    parser.add_argument("--name", help="name of the source in the corpus (default: the format)")
    _add_box_text(parser, "of objects that do not say it")
    add_licence(parser)
    add_key(parser)


def _import(args: argparse.Namespace) -> int:
    options = ImportOptions(
        out=args.out,
        ids=load_ids(args.id_key, args.out),
        image_root=args.image_root,
        split=args.split,
        source=args.name or args.format,
        licence=args.licence,
        shareable=args.shareable,
    )
    print_report(_imported(args.format, args.files, options, _rule(args)))
    print(f"  not carried by {args.format}, so unknown here: {_LOST[args.format]}")
    return 0


def _imported(format: str, files: Sequence[Path], options: ImportOptions, rule: BoxText) -> BuildReport:
    if format == "llava":
        return import_llava(files, options, rule=rule)
    if format == "sharegpt":
        return import_sharegpt(files, options, rule=rule)
    return (import_ms_swift if format == "ms-swift" else import_published)(files, options)


def _add_export(commands: Commands) -> None:
    parser = command(commands, "export", "corpus -> the format of a peer, with pictures", _EXPORT_EXAMPLES, _export)
    parser.add_argument("corpus", type=Path, help="corpus folder")
    parser.add_argument("--format", choices=tuple(_USE), required=True, help="sharegpt is LLaMA-Factory's")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument("--split", action="append", choices=SPLITS, help="only this split; repeatable (default: all)")
    _add_box_text(parser, "in texts")
    parser.add_argument(
        "--digits", type=int, choices=range(7), metavar="0..6", help="decimals of coordinates in texts (default: the rule's)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the colours of drawn boxes (default %(default)s)")


def _export(args: argparse.Namespace) -> int:
    if args.digits is not None and args.format in ("coco", "ms-swift"):
        raise ValueError(f"--digits {args.digits}: {args.format} keeps boxes as numbers, with all their digits: leave it out")
    corpus = Corpus(args.corpus)
    options = ExportOptions(out=args.out, splits=args.split or SPLITS, seed=args.seed)
    counts = _exported(args.format, corpus, options, _rule(args).with_digits(args.digits))
    counted = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    print(f"{args.out}: {counted}")
    print(f"  {_USE[args.format].format(out=args.out)}")
    for line in licence_lines(corpus):
        print(f"  {line}")
    print(f"  {NOTICE}")
    return 0


def _exported(format: str, corpus: Corpus, options: ExportOptions, rule: BoxText) -> Counter[str]:
    if format == "published":
        return export_published(corpus, options, rule=rule)
    if format == "llava":
        return export_llava(corpus, options, rule=rule)
    if format == "sharegpt":
        return export_sharegpt(corpus, options, rule=rule)
    return (export_ms_swift if format == "ms-swift" else export_coco)(corpus, options)


def _add_box_text(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--box-text",
        choices=tuple(RULES),
        help=f"how boxes are written {what}; llava and sharegpt only (default: {', '.join(f'{name} {rule.name}' for name, rule in _BOX_TEXT.items())})",
    )


def _rule(args: argparse.Namespace) -> BoxText:
    if args.box_text is None:
        return _BOX_TEXT.get(args.format, UNIT)
    if args.format not in _BOX_TEXT:
        raise ValueError(f"--box-text {args.box_text}: {args.format} has one rule for boxes: leave the flag out")
    return RULES[args.box_text]
