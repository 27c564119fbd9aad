"""`corpus.py build` and `corpus.py phantoms`: annotated pictures -> corpus."""

import argparse
import os
from collections import Counter
from pathlib import Path

from launch.corpus_commands.datasets import (
    add_dataset_flags,
    add_phantom_flags,
    identity,
    kinds_of_source,
    make_source,
    settings,
)
from launch.corpus_commands.shared import Commands, add_key, command, fold, numbers, print_report
from launch.corpus_commands.writers import add_writer_flags, make_writer, print_estimate, print_usage, reply_folder
from medclm.corpus.build import BuildOptions, DryRun, build, build_task, dry_run
from medclm.corpus.contract import WriteRequest
from medclm.corpus.ids import load_ids, phantom_ids
from medclm.corpus.organs import TABLE, read_table
from medclm.corpus.review.verdicts import exclusions
from medclm.corpus.segmenters import get_segmenter
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.sources.registry import KINDS
from medclm.corpus.splits import SplitRule
from medclm.corpus.writers.language_model import LanguageModelWriter
from medclm.corpus.writers.usage import read_usage

_BUILD_EXAMPLES = """examples:
  COCO boxes with a brain mask per slice, technique in the domain, one patient held out:
    corpus.py build --source coco --annotations boxes_coco.json --image-root images --name brats --modality MR --plane axial \\
      --patient-field patient --technique-field sequence --organ 'brain={brain_mask_file}' \\
      --visible-on 'enhancing tumor=t1c' --licence 'CC BY-NC-SA 3.0' --split-fold 1/4 --out corpora/brats
  Pascal VOC, every class annotated wherever it occurs (opens negative questions and counts):
    corpus.py build --source voc --annotations annotations_voc --image-root images --name cells --modality SM --plane none \\
      --exhaustive 'RBC,WBC,Platelets' --out corpora/cells
  look before you build: add --dry-run
A killed build goes on when the same command is run again."""


_PHANTOM_EXAMPLES = """example:
  corpus.py phantoms --count 4000 --seed 0 --out corpora/phantoms
The same seed gives the same bytes everywhere; ids use a public key, since phantoms show nobody."""


def add(commands: Commands) -> None:
    build_parser = command(commands, "build", "annotated pictures -> corpus", kinds_of_source() + _BUILD_EXAMPLES, _build)
    build_parser.add_argument(
        "--source", required=True, choices=(*KINDS, "phantoms"), metavar="KIND", help="format of the input, see below"
    )
    add_dataset_flags(build_parser)
    add_phantom_flags(build_parser, title="phantoms only")
    _add_building(build_parser)
    phantoms = command(commands, "phantoms", "procedural pictures with organs and lesions -> corpus", _PHANTOM_EXAMPLES, _build)
    phantoms.set_defaults(source="phantoms")
    add_phantom_flags(phantoms, title="pictures")
    _add_building(phantoms)


def _build(args: argparse.Namespace) -> int:
    source = make_source(args)
    writer = make_writer(args)
    public = isinstance(source, PhantomSource)
    options = BuildOptions(
        ids=phantom_ids(args.seed) if public or args.dry_run else load_ids(args.id_key, args.out),
        seed=args.seed,
        split=SplitRule(
            rule=args.split, quotas=numbers("--quotas", args.quotas, 3), fold=fold(args.split_fold) if args.split_fold else None
        ),
        retries=args.retries,
        images_per_part=args.images_per_part,
        settings=settings(args, writer),
        identity=identity(args),
        patient_pattern=getattr(args, "patient_pattern", None),
        table=read_table(args.organ_table) if getattr(args, "organ_table", None) else TABLE,
        segmenter=get_segmenter(args.segmenter) if getattr(args, "segmenter", None) else None,
        longest_side=args.longest_side,
        near_duplicates=args.near_duplicates == "together" and not public,
        exclusions=exclusions(args.verdicts) if args.verdicts else {},
        workers=args.workers,
    )
    if args.dry_run:
        asks = isinstance(writer, LanguageModelWriter)  # a dry run asks no model: it shows the template's words
        found = dry_run(source, writer.wording.template() if asks else writer, options)
        _print_dry_run(found)
        if asks:
            requests = [WriteRequest(linked, args.seed) for linked in found.linked]
            print_estimate(writer, writer.estimate(requests), images=found.images, of=found.of)
    elif args.task:
        done = build_task(source, writer, args.out, options, _task(args.task))
        rest = f"{done.missing} parts of other tasks are not here yet" if done.missing else "every part is here"
        print(f"{done.folder}: {done.parts} parts of task {args.task} are done; {rest}")
        print(f"  when all are: corpus.py merge {done.folder} --out {done.folder}")
    else:
        paid = isinstance(writer, LanguageModelWriter)
        before = read_usage(reply_folder(args)) if paid else None
        print_report(build(source, writer, args.out, options))
        if before is not None:
            print_usage(before, read_usage(reply_folder(args)))
    return 0


def _task(text: str) -> tuple[int, int]:
    number, _, tasks = text.partition("/")
    if not (number.isdigit() and tasks.isdigit()):
        raise ValueError(f"--task {text}: give K/N, e.g. 0/3")
    return int(number), int(tasks)


def _add_building(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("building")
    group.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="corpus folder: new, empty, or of the same unfinished build"
    )
    group.add_argument("--seed", type=int, default=0, help="of pictures, phrasings and order (default %(default)s)")
    group.add_argument(
        "--split",
        choices=("official", "patient", "given"),
        default="official",
        help="official: the source's own where it has one, else by patient; patient: by quota; given: every image must state it",
    )
    group.add_argument(
        "--quotas", default="80,10,10", metavar="TRAIN,VAL,TEST", help="shares of patients (default %(default)s)"
    )
    group.add_argument(
        "--split-fold", metavar="K/N", help="patients in N groups, the K-th is test: leave-one-patient-out with N = patients"
    )
    group.add_argument(
        "--retries", type=int, default=2, help="times a text is written again after a failed check (default %(default)s)"
    )
    group.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: all cores, %(default)s); same bytes for any number",
    )
    group.add_argument(
        "--images-per-part", type=int, default=64, help="what a killed worker loses at most (default %(default)s)"
    )
    group.add_argument(
        "--longest-side",
        type=int,
        metavar="N",
        help="store larger pictures shrunk to N pixels, best the side of the model's square (336 for ViP-LLaVA): smaller and several "
        "times as fast to read, but no model with a larger square may train on it (default: as they come)",
    )
    group.add_argument(
        "--task",
        metavar="K/N",
        help="build only every N-th part, from the K-th (from 0), for `corpus.py merge`; in a Slurm job array "
        "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT",
    )
    group.add_argument(
        "--near-duplicates",
        choices=("together", "ignore"),
        default="together",
        help="pictures of different patients that show one exposure are split together (default; not looked for in phantoms)",
    )
    group.add_argument("--verdicts", type=Path, metavar="FILE", help="leave out what readers judged wrong (`corpus.py review`)")
    group.add_argument(
        "--dry-run", action="store_true", help="read 20 images, print counts, texts and an estimate; write nothing"
    )
    add_key(group)
    add_writer_flags(parser.add_argument_group("texts: who words them"))


def _print_dry_run(found: DryRun) -> None:
    stages = ", ".join(f"{stage} {found.stages.get(stage, 0)}" for stage in ("easy", "medium", "lend"))
    print(f"dry run: {found.images} of {found.of} images give {len(found.drafts)} records ({stages}); nothing was written")
    print(f"  the whole source would give about {found.estimate} records")
    for kind, count in Counter(draft.question_kind for draft in found.drafts).most_common():
        print(f"  {kind}: {count}")
    for domain, count in Counter(draft.domain for draft in found.drafts).most_common():
        print(f"  {domain}: {count}")
    for reason, count in Counter(reject.reason for reject in found.rejects).most_common():
        first = next(reject for reject in found.rejects if reject.reason == reason)
        print(f"  rejected: {count}  {reason} (first: {first.index}: {first.detail})")
    seen: set[str] = set()
    for draft in found.drafts:
        if draft.question_kind not in seen:
            seen.add(draft.question_kind)
            print(f"\n{draft.domain}, {draft.question_kind}")
            for stage, text in (("easy", draft.easy), ("medium", draft.medium), ("lends", draft.lend)):
                if text:
                    print(f"  {stage:6}  Q: {text.question}\n          R: {text.rationale}\n          A: {text.answer}")
