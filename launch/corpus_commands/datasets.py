"""The flags that describe a dataset or phantoms, the source they mean, and what a manifest may say of them."""

import argparse
import hashlib
from pathlib import Path

from launch.corpus_commands.shared import add_licence, names, numbers, pair
from launch.corpus_commands.writers import HOW, shown_flags
from medclm.corpus.contract import Source, Writer
from medclm.corpus.pixels import MAX_PIXELS
from medclm.corpus.segmenters import segmenter_names
from medclm.corpus.sources.options import PLANES, SourceOptions, parse_visible_on
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.sources.registry import KINDS, open_source


def kinds_of_source() -> str:
    width = max(len(name) for name in KINDS)
    return "kinds of source:\n" + "".join(f"  {name:<{width}}  {kind.habit}\n" for name, kind in KINDS.items()) + "\n"


def make_source(args: argparse.Namespace) -> Source:
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
        reports_deidentified=args.reports_deidentified,
        readers=args.readers,
        lesions=names(args.lesions),
        slices=args.slices,
        max_pixels=args.max_pixels,
    )
    return open_source(args.source, args.annotations, args.image_root, options)


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("datasets: what the files do not say is declared; unknown stays unknown")
    group.add_argument(
        "--annotations",
        type=Path,
        metavar="PATH",
        help="file or folder of annotations, by kind; volumes and label maps also a template such as '{folder}/{stem}_seg.nii.gz'",
    )
    group.add_argument(
        "--image-root",
        type=Path,
        metavar="DIR",
        help="folder that image names are relative to, or by kind the pictures themselves",
    )
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
    group.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="regular expression whose one group is the patient, for datasets that say it in the name of a picture alone, "
        "e.g. '(pat[0-9]+)_'",
    )
    group.add_argument("--split-field", metavar="FIELD", help="COCO image field with the official split")
    group.add_argument("--lesion-3d-field", metavar="FIELD", help="COCO annotation field that joins slices of one lesion")
    group.add_argument(
        "--organ",
        action="append",
        default=[],
        metavar="NAME=TEMPLATE",
        help="organ masks 'brain=masks/{stem}.png', label maps 'labels:totalsegmentator=seg/{stem}.png' or boxes "
        "'boxes:xywh=FILE'; repeatable",
    )
    group.add_argument(
        "--organ-table", type=Path, metavar="FILE", help="CSV of classes and their plausible organs, before the built-in table"
    )
    group.add_argument(
        "--segmenter",
        choices=segmenter_names(),
        help="finds organs that the dataset does not name; its package must be installed",
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
    group.add_argument(
        "--image-labels",
        type=Path,
        metavar="FILE",
        help="table with labels of whole images (NIH, RSNA, VinDr), or MIMIC's metadata",
    )
    group.add_argument("--split-list", type=Path, metavar="FILE", help="the dataset's own split")
    group.add_argument("--reports", type=Path, metavar="PATH", help="reports that belong to the images")
    group.add_argument(
        "--reports-deidentified",
        action="store_true",
        help="identifiers were removed from the reports; without this no report is stored, with it they are still screened",
    )
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


def add_phantom_flags(parser: argparse.ArgumentParser, *, title: str) -> None:
    group = parser.add_argument_group(title)
    group.add_argument("--count", type=int, default=4000, help="pictures (default %(default)s)")
    group.add_argument("--size", type=int, default=128, help="side in pixels (default %(default)s)")
    group.add_argument("--small-lesions", action="store_true", help="lesions smaller than a vision patch")


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
        "segmenter",
    ),
}
"""Options of a source that its manifest shows: none of them is a path or a name of a field."""


def settings(args: argparse.Namespace, writer: Writer) -> dict[str, object]:
    """What the manifest says of the flags."""
    shown = {
        name: getattr(args, name)
        for name in (*_DESCRIBED["phantoms" if args.source == "phantoms" else "dataset"], *shown_flags(args))
    }
    if shown.get("alias"):  # what a file writes may name a person; what it means does not
        shown["alias"] = sorted({value.partition("=")[2].strip() for value in shown["alias"]})
    phrases = getattr(writer, "phrases", None)
    shown["language"] = phrases.language if phrases is not None else "en"  # never the path of a language file
    return {name: value for name, value in shown.items() if value not in (None, "", [])}


def identity(args: argparse.Namespace) -> str:
    """Everything that decides what is read: all flags but those of the run, and the content of annotation files and tables."""
    ignored = {
        "workers",
        "dry_run",
        "out",
        "command",
        "run",
        "id_key",
        "task",
        "verdicts",
        "split",
        "quotas",
        "split_fold",
        *HOW,
    }
    flags = sorted((name, str(value)) for name, value in vars(args).items() if name not in ignored)
    for name in ("annotations", "classes", "image_labels", "split_list", "reports", "organ_table"):
        path = getattr(args, name, None)
        if path is not None and path.exists():
            flags.append((f"content of {name}", _content(path)))
    return repr(flags)


def _content(path: Path) -> str:
    """Hash of a file; of a folder, of the names, sizes and times of what is in it, since it may hold volumes."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        about = file.stat()
        digest.update(repr((str(file.relative_to(path)), about.st_size, about.st_mtime_ns)).encode())
    return digest.hexdigest()
