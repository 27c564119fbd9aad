"""`corpus.py build` and `corpus.py phantoms`: annotated pictures -> corpus."""

import argparse
import hashlib
import os
from collections import Counter
from pathlib import Path

from launch.corpus_commands.shared import (
    Commands,
    add_key,
    add_licence,
    command,
    fold,
    names,
    numbers,
    pair,
    print_report,
)
from medclm.corpus.build import BuildOptions, DryRun, build, build_task, dry_run
from medclm.corpus.contract import Source
from medclm.corpus.ids import load_ids, phantom_ids
from medclm.corpus.pixels import MAX_PIXELS
from medclm.corpus.review.verdicts import exclusions
from medclm.corpus.sources.options import PLANES, SourceOptions, parse_visible_on
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.sources.registry import KINDS, open_source
from medclm.corpus.splits import SplitRule
from medclm.corpus.writers.template import KINDS as QUESTION_KINDS
from medclm.corpus.writers.template import TemplateWriter

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
    build_parser = command(commands, "build", "annotated pictures -> corpus", _kinds() + _BUILD_EXAMPLES, _build)
    build_parser.add_argument(
        "--source", required=True, choices=(*KINDS, "phantoms"), metavar="KIND", help="format of the input, see below"
    )
    _add_detection(build_parser)
    _add_phantoms(build_parser, title="phantoms only")
    _add_building(build_parser)
    phantoms = command(commands, "phantoms", "procedural pictures with organs and lesions -> corpus", _PHANTOM_EXAMPLES, _build)
    phantoms.set_defaults(source="phantoms")
    _add_phantoms(phantoms, title="pictures")
    _add_building(phantoms)


def _kinds() -> str:
    width = max(len(name) for name in KINDS)
    return "kinds of source:\n" + "".join(f"  {name:<{width}}  {kind.habit}\n" for name, kind in KINDS.items()) + "\n"


def _build(args: argparse.Namespace) -> int:
    source = _source(args)
    writer = TemplateWriter(language=args.language, max_per_image=args.max_per_image, kinds=names(args.kinds))
    public = isinstance(source, PhantomSource)
    options = BuildOptions(
        ids=phantom_ids(args.seed) if public or args.dry_run else load_ids(args.id_key, args.out),
        seed=args.seed,
        split=SplitRule(
            rule=args.split, quotas=numbers("--quotas", args.quotas, 3), fold=fold(args.split_fold) if args.split_fold else None
        ),
        retries=args.retries,
        images_per_part=args.images_per_part,
        settings=_settings(args),
        identity=_identity(args),
        exclusions=exclusions(args.verdicts) if args.verdicts else {},
        workers=args.workers,
    )
    if args.dry_run:
        _print_dry_run(dry_run(source, writer, options))
    elif args.task:
        done = build_task(source, writer, args.out, options, _task(args.task))
        rest = f"{done.missing} parts of other tasks are not here yet" if done.missing else "every part is here"
        print(f"{done.folder}: {done.parts} parts of task {args.task} are done; {rest}")
        print(f"  when all are: corpus.py merge {done.folder} --out {done.folder}")
    else:
        print_report(build(source, writer, args.out, options))
    return 0


def _task(text: str) -> tuple[int, int]:
    number, _, tasks = text.partition("/")
    if not (number.isdigit() and tasks.isdigit()):
        raise ValueError(f"--task {text}: give K/N, e.g. 0/3")
    return int(number), int(tasks)


def _source(args: argparse.Namespace) -> Source:
    if args.source == "phantoms":
        return PhantomSource(count=args.count, seed=args.seed, size=args.size, small_lesions=args.small_lesions)
    options = SourceOptions(
        name=args.name or args.source,
        modality=args.modality,
        plane=args.plane,
        patient_directions=args.orientation,
        technique=args.technique,
        patient_field=args.patient_field,
        technique_field=args.technique_field,
        split_field=args.split_field,
        lesion_3d_field=args.lesion_3d_field,
        organs=tuple(args.organ),
        organ_root=args.organ_root,
        exhaustive=names(args.exhaustive),
        visible_on=parse_visible_on(args.visible_on),
        aliases=dict(pair("--alias", value) for value in args.alias),
        licence=args.licence,
        shareable=args.shareable,
        box_format=args.box_format,
        box_frame=args.box_frame,
        window=numbers("--window", args.window, 2) if args.window else None,
        window_mode=args.window_mode,
        burned_in=args.burned_in,
        classes=args.classes,
        image_labels=args.image_labels,
        split_list=args.split_list,
        reports=args.reports,
        readers=args.readers,
        lesions=names(args.lesions),
        slices=args.slices,
        max_pixels=args.max_pixels,
    )
    return open_source(args.source, args.annotations, args.image_root, options)


def _add_detection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("datasets: what the files do not say is declared; unknown stays unknown")
    group.add_argument("--annotations", type=Path, metavar="PATH", help="file or folder of annotations, by kind")
    group.add_argument("--image-root", type=Path, metavar="DIR", help="folder that image names are relative to")
    group.add_argument("--name", help="name of the source in the corpus (default: the format)")
    group.add_argument("--modality", metavar="CODE", help="DICOM code: DX, CT, MR, US, SM, ES, ...")
    group.add_argument("--plane", choices=PLANES, help="image plane; decides which location words are true")
    group.add_argument(
        "--orientation", metavar="X\\Y", help="patient direction of +x and +y, e.g. 'L\\P'; without it no side is ever named"
    )
    group.add_argument("--technique", help="technique of every image, e.g. t1c")
    group.add_argument("--technique-field", metavar="FIELD", help="COCO image field with the technique")
    group.add_argument(
        "--patient-field", metavar="FIELD", help="COCO image field with the patient; without it every image is its own patient"
    )
    group.add_argument("--split-field", metavar="FIELD", help="COCO image field with the official split")
    group.add_argument("--lesion-3d-field", metavar="FIELD", help="COCO annotation field that joins slices of one lesion")
    group.add_argument(
        "--organ",
        action="append",
        default=[],
        metavar="NAME=TEMPLATE",
        help="organ masks, e.g. 'brain=masks/{stem}.png'; repeatable",
    )
    group.add_argument("--organ-root", type=Path, metavar="DIR", help="folder of the masks (default: that of the annotations)")
    group.add_argument(
        "--exhaustive",
        default="",
        metavar="CLASS,...",
        help="classes annotated wherever they occur: opens negatives and counts",
    )
    group.add_argument(
        "--visible-on",
        action="append",
        default=[],
        metavar="CLASS=TECHNIQUE,...",
        help="techniques that show a class; repeatable",
    )
    group.add_argument(
        "--alias", action="append", default=[], metavar="WRITTEN=CLASS", help="canonical name of a class; repeatable"
    )
    group.add_argument(
        "--box-format",
        choices=("auto", "xywh", "xyxy"),
        default="auto",
        help="COCO boxes: corner and size, or two corners; auto = the standard's corner and size, refused where the numbers "
        "speak for two corners (default %(default)s)",
    )
    group.add_argument(
        "--box-frame",
        choices=("auto", "stored", "upright"),
        default="auto",
        help="frame of boxes on pictures with an EXIF orientation",
    )
    group.add_argument(
        "--window", metavar="CENTRE,WIDTH", help="maps grey pictures of more than 8 bits; without it they are refused"
    )
    group.add_argument(
        "--window-mode",
        choices=("single", "multi3"),
        default="single",
        help="CT: one window by lesion class, or lung, soft tissue and bone as colours (default %(default)s)",
    )
    group.add_argument(
        "--burned-in",
        choices=("reject", "mask", "allow"),
        default="reject",
        help="pictures whose pixels may hold an identifier (default %(default)s)",
    )
    group.add_argument("--classes", type=Path, metavar="FILE", help="class names: YOLO names, or value -> name of label maps")
    group.add_argument("--image-labels", type=Path, metavar="FILE", help="table with labels of whole images")
    group.add_argument("--split-list", type=Path, metavar="FILE", help="the dataset's own split")
    group.add_argument("--reports", type=Path, metavar="PATH", help="reports that belong to the images")
    group.add_argument(
        "--readers",
        choices=("fuse", "majority", "all"),
        default="fuse",
        help="several readers per image: join their boxes, keep what half of them marked, or keep all (default %(default)s)",
    )
    group.add_argument(
        "--lesions", default="", metavar="CLASS,...", help="label maps: classes that are lesions; others are organs"
    )
    group.add_argument(
        "--slices", type=int, default=2, help="volumes: slices per lesion besides its largest (default %(default)s)"
    )
    group.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help="largest picture that is decoded (default %(default)s)"
    )
    add_licence(group)


def _add_phantoms(parser: argparse.ArgumentParser, *, title: str) -> None:
    group = parser.add_argument_group(title)
    group.add_argument("--count", type=int, default=4000, help="pictures (default %(default)s)")
    group.add_argument("--size", type=int, default=128, help="side in pixels (default %(default)s)")
    group.add_argument("--small-lesions", action="store_true", help="lesions smaller than a vision patch")


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
    group.add_argument("--language", default="en", help="of the texts")
    group.add_argument(
        "--kinds", default=",".join(QUESTION_KINDS), metavar="LIST", help="question kinds to ask (default %(default)s)"
    )
    group.add_argument("--max-per-image", type=int, default=6, help="records per image at most (default %(default)s)")
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
        "--task",
        metavar="K/N",
        help="build only every N-th part, from the K-th (from 0), for `corpus.py merge`; in a Slurm job array "
        "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT",
    )
    group.add_argument("--verdicts", type=Path, metavar="FILE", help="leave out what readers judged wrong (`corpus.py review`)")
    group.add_argument(
        "--dry-run", action="store_true", help="read 20 images, print counts, texts and an estimate; write nothing"
    )
    add_key(group)


_DESCRIBED = {
    "phantoms": ("count", "size", "small_lesions"),
    "dataset": (
        "modality",
        "plane",
        "orientation",
        "technique",
        "exhaustive",
        "visible_on",
        "alias",
        "box_format",
        "box_frame",
        "window",
        "window_mode",
        "burned_in",
        "readers",
        "lesions",
        "slices",
    ),
}
"""Options of a source that its manifest shows: none of them is a path or a name of a field."""


def _settings(args: argparse.Namespace) -> dict[str, object]:
    names = (*_DESCRIBED["phantoms" if args.source == "phantoms" else "dataset"], "language", "max_per_image", "kinds")
    return {name: getattr(args, name) for name in names if getattr(args, name) not in (None, "", [])}


def _identity(args: argparse.Namespace) -> str:
    """Everything that decides what is read: all flags but those of the run, and the content of an annotation file."""
    ignored = ("workers", "dry_run", "out", "command", "run", "id_key", "task", "verdicts", "split", "quotas", "split_fold")
    flags = sorted((name, str(value)) for name, value in vars(args).items() if name not in ignored)
    annotations = getattr(args, "annotations", None)
    if annotations is not None and annotations.is_file():
        flags.append(("content", hashlib.sha256(annotations.read_bytes()).hexdigest()))
    return repr(flags)


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
