"""Detection data -> corpus: reads, links, drafts and checks each image into part files, then hands the parts to finalise.

Work is cut into parts of a few images each; processes share them, and what a part holds depends on its images alone, so any
number of workers gives the same bytes and a killed build loses only the parts it was working on. Source ids leave this
module as keyed hashes. Knows nothing of splits, partners or row numbers.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

import medclm
from medclm.corpus.anatomy import link
from medclm.corpus.contract import (
    Draft,
    LinkedImage,
    Reject,
    RejectedImage,
    Source,
    SourceImage,
    Writer,
)
from medclm.corpus.drafting import draft_checked
from medclm.corpus.finalise import BuildReport, EverythingRejected, finalise
from medclm.corpus.ids import Ids
from medclm.corpus.longest_side import within
from medclm.corpus.organs import TABLE, Plausible
from medclm.corpus.parts import PartRow, write_part
from medclm.corpus.rows import image_rows, reject_row
from medclm.corpus.segmenters import AnatomySegmenter, with_organs
from medclm.corpus.splits import SplitRule
from medclm.corpus.workfolder import open_work, parts_present, remove_work

_IMAGES_AT_ONCE = 16
"""Images that are held while their texts are written together."""


@dataclass(frozen=True)
class BuildOptions:
    """How a corpus is built; everything but `workers` and `progress` decides what it holds."""

    ids: Ids
    """Turns the source's ids into keyed hashes."""
    seed: int = 0
    """Of phrasings, control boxes and every other draw."""
    split: SplitRule = field(default_factory=SplitRule)
    retries: int = 2
    """Times a text is written again after a failed check."""
    images_per_part: int = 64
    """Work that is lost at most, per worker, when a build is killed."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest says of the source's options; without paths."""
    identity: str = ""
    """Tells this input from another of equal settings, e.g. its paths; only a hash of it is kept, and only while building."""
    patient_pattern: str | None = None
    """Regular expression whose first group, found in an image's name, is its patient where the source states none."""
    table: Mapping[str, Plausible] = field(default_factory=lambda: TABLE)
    """Plausible organs by class."""
    segmenter: AnatomySegmenter | None = None
    """Finds organs that a source does not name."""
    longest_side: int | None = None
    """Pictures are stored with no side longer than this many pixels; None = as they come."""
    near_duplicates: bool = True
    """Find pictures of different patients that show one exposure, and split those patients together."""
    exclusions: Mapping[str, str] = field(default_factory=dict)
    """Record id -> reason, for records that readers judged wrong."""
    workers: int = 1
    """Processes."""
    progress: bool = True
    """Show a bar on a terminal."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("images_per_part", 1), ("retries", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give at least {least}")
        if self.longest_side is not None and self.longest_side < 16:
            raise ValueError(
                f"--longest-side {self.longest_side}: give at least 16 pixels, at best the side of the model's square"
            )
        if self.patient_pattern is not None:
            try:
                groups = re.compile(self.patient_pattern).groups
            except re.error as error:
                raise ValueError(f"--patient-pattern {self.patient_pattern}: not a regular expression: {error}") from error
            if groups != 1:
                raise ValueError(f"--patient-pattern {self.patient_pattern}: give one group, e.g. '(patient[0-9]+)_'")


def build(source: Source, writer: Writer, out: Path, options: BuildOptions) -> BuildReport:
    """Build the corpus folder `out`; run again with equal settings, it goes on where a killed build stopped.

    Raises:
        ValueError: `out` holds something else, or a build of other settings; a source without images.
        EverythingRejected: no record was left.
        RuntimeError: a worker died, or an image made the program fail; names the image.
    """
    parts, plan = _open(source, writer, out, options)
    _build_parts(source, writer, dict(enumerate(parts)), options)
    try:
        return finalise(
            parts, out, rule=options.split, seed=options.seed, builder=plan["builder"], exclusions=options.exclusions
        )
    except EverythingRejected:
        remove_work(out)
        raise


@dataclass(frozen=True)
class TaskReport:
    """What one task of a build has done."""

    folder: Path
    parts: int
    """Of this task."""
    missing: int
    """Parts of the whole build that are not in this folder yet."""


def build_task(source: Source, writer: Writer, out: Path, options: BuildOptions, task: tuple[int, int]) -> TaskReport:
    """Build only the parts whose number is `task[0]` modulo `task[1]`, for `merge` to finalise; raises as `build` does."""
    if not 0 <= task[0] < task[1]:
        raise ValueError(f"--task {task[0]}/{task[1]}: give K/N with K from 0 to N - 1")
    parts, _ = _open(source, writer, out, options)
    mine = {number: path for number, path in enumerate(parts) if number % task[1] == task[0]}
    _build_parts(source, writer, mine, options)
    return TaskReport(out, len(mine), len(parts) - len(parts_present(out)))


def _open(source: Source, writer: Writer, out: Path, options: BuildOptions) -> tuple[list[Path], dict[str, Any]]:
    """The part files, in order, and what `finalise` is told of this build."""
    if not len(source):
        first = {reject.reason: reject for reject in reversed(source.rejects)}
        why = "".join(
            f"\n  {n:7d}  {reason} (first: {first[reason].index}: {first[reason].detail})"
            for reason, n in Counter(reject.reason for reject in source.rejects).most_common()
        )
        raise ValueError(f"source {source.name}: has no images: check its files and options{':' if why else ''}{why}")
    settings = {
        "version": medclm.__version__,
        "source": _digest([source.name, type(source).__name__, len(source), _plain(vars(source)), options.identity]),
        "options": _plain(options.settings),
        "writer": _plain([writer.name, vars(writer)]),
        "seed": options.seed,
        "retries": options.retries,
        "images_per_part": options.images_per_part,
        "id_key": options.ids.fingerprint,
        "patient_pattern": options.patient_pattern,
        "near_duplicates": options.near_duplicates,
        "longest_side": options.longest_side,
        "anatomy": _digest([_plain(dict(options.table)), options.segmenter.name if options.segmenter else None]),
    }
    described = {
        "source": source.name,
        "images": len(source),
        "seed": options.seed,
        "writer": writer.name,
        "retries": options.retries,
        "id_key": options.ids.fingerprint,
        "options": dict(options.settings),
    }
    if options.longest_side is not None:
        described["longest_side"] = options.longest_side
    plan = {"rule": options.split.to_json(), "seed": options.seed, "builder": described}
    return open_work(out, settings, plan, -(-len(source) // options.images_per_part)), plan


@dataclass(frozen=True)
class DryRun:
    """What a few images of a source give."""

    images: int
    of: int
    linked: tuple[LinkedImage, ...]
    drafts: tuple[Draft, ...]
    rejects: tuple[Reject, ...]
    stages: Mapping[str, int]

    @property
    def estimate(self) -> int:
        """Records that the whole source would give at this rate."""
        return round(len(self.drafts) / max(self.images, 1) * self.of)


def dry_run(source: Source, writer: Writer, options: BuildOptions, *, most: int = 20) -> DryRun:
    """Read, link and draft the first images; write nothing."""
    images_read: list[LinkedImage] = []
    drafts: list[Draft] = []
    rejects: list[Reject] = []
    images = min(most, len(source))
    for linked, some, refused in _drafted(source, writer, range(images), options):
        images_read += [linked] if linked is not None else []
        drafts += some
        rejects += refused
    stages = Counter(
        name
        for draft in drafts
        for name, text in (("easy", draft.easy), ("medium", draft.medium), ("lend", draft.lend))
        if text
    )
    return DryRun(
        images=images, of=len(source), linked=tuple(images_read), drafts=tuple(drafts), rejects=tuple(rejects), stages=stages
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, for telling settings apart; what a source has merely loaded counts by its type."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping) and len(value) <= 100:
        return {str(key): _plain(one) for key, one in value.items() if not str(key).startswith("_")}
    if isinstance(value, list | tuple) and len(value) <= 100:
        return [_plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__ if not name.startswith("_")}
    return type(value).__name__


def _build_parts(source: Source, writer: Writer, parts: Mapping[int, Path], options: BuildOptions) -> None:
    """Build those of the numbered parts that are not there yet."""
    todo = [number for number, path in parts.items() if not path.exists()]
    size = options.images_per_part
    images, left = (sum(min(size, len(source) - number * size) for number in some) for some in (parts, todo))
    with tqdm(total=images, unit="image", desc="building", disable=None if options.progress else True) as bar:
        bar.update(images - left)
        totals: Counter[str] = Counter()
        for counts in _run(source, writer, parts, todo, options):
            totals.update(counts)
            bar.update(counts["images"])
            bar.set_postfix(records=totals["records"], rejects=totals["rejects"])


def _run(
    source: Source, writer: Writer, parts: Mapping[int, Path], todo: list[int], options: BuildOptions
) -> Iterator[Counter[str]]:
    """Build the parts in `todo`; counts of each as it is finished."""
    if options.workers == 1 or len(todo) < 2:
        for number in todo:
            yield build_part(source, writer, number, parts[number], options)
        return
    # spawn, not fork: a forked child of a process with threads (pyarrow has some) may wait for a lock for ever
    context = multiprocessing.get_context("spawn")
    waiting = iter(todo)
    workers: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(min(options.workers, len(todo))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(source, writer, parts, options, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the death of the worker ends the pipe
            workers[ours] = process
            ours.send(next(waiting))
        busy = set(workers)
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                yield _received(connection)
                more = next(waiting, None)
                if more is None:
                    busy.remove(connection)
                else:
                    connection.send(more)
    finally:
        for connection, worker in workers.items():
            worker.terminate()
            worker.join()
            connection.close()


def _received(connection: Connection) -> Counter[str]:
    try:
        answer = connection.recv()
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(
            "a worker process died (out of memory, or killed): finished parts are kept; run the same command again to go on"
        ) from error
    if isinstance(answer, BaseException):
        raise answer
    counts: Counter[str] = answer
    return counts


def _work(source: Source, writer: Writer, parts: Mapping[int, Path], options: BuildOptions, connection: Connection) -> None:
    """A worker: builds the parts it is told to, until its pipe ends. The source crosses to it once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the main process ends us
    while True:
        try:
            number = connection.recv()
        except EOFError:
            return
        try:
            connection.send(build_part(source, writer, number, parts[number], options))
        except (ValueError, RuntimeError, OSError) as error:
            connection.send(error)


def build_part(source: Source, writer: Writer, number: int, path: Path, options: BuildOptions) -> Counter[str]:
    """Build part `number` and write it to `path`; counts of its images, records and rejects."""
    first = number * options.images_per_part
    indices = range(first, min(first + options.images_per_part, len(source)))
    # what belongs to no image of the source is told once
    rows: list[PartRow] = [reject_row(reject) for reject in source.rejects] if number == 0 else []
    for start in range(indices.start, indices.stop, _IMAGES_AT_ONCE):
        some = range(start, min(start + _IMAGES_AT_ONCE, indices.stop))
        for linked, drafts, rejects in _drafted(source, writer, some, options):
            if linked is not None:
                stored = within(linked, options.longest_side)
                rows += image_rows(stored, drafts, options.ids, fingerprints=options.near_duplicates)
            rows += [reject_row(reject) for reject in rejects]
    write_part(path, rows)
    kinds = Counter(row.kind for row in rows)
    return Counter(images=len(indices), records=kinds["record"], rejects=kinds["reject"])


def _drafted(
    source: Source, writer: Writer, indices: Sequence[int], options: BuildOptions
) -> list[tuple[LinkedImage | None, list[Draft], list[Reject]]]:
    """Some images through every step; one that is refused as a whole gives its reason alone."""
    found: list[tuple[LinkedImage | None, list[Draft], list[Reject]]] = [_linked(source, index, options) for index in indices]
    readable = [(at, linked) for at, (linked, _, _) in enumerate(found) if linked is not None]
    images = [linked for _, linked in readable]
    seeds = [_image_seed(options.seed, linked.image) for linked in images]
    try:
        made = draft_checked(images, writer, seeds, options.retries)
    except Exception as error:
        places = f"images[{indices[0]}] to images[{indices[-1]}]"
        raise RuntimeError(f"source {source.name}, {places}: {type(error).__name__}: {error}") from error
    for (at, linked), (drafts, refused) in zip(readable, made, strict=True):
        rejects = _unique([*linked.image.rejects, *linked.rejects, *refused])
        if not drafts and not rejects:
            detail = "nothing can be asked about it: no annotation, and no class in scope"
            rejects = [Reject(f"images[{indices[at]}]", "image_without_records", detail)]
        found[at] = linked, drafts, rejects
    return found


def _linked(source: Source, index: int, options: BuildOptions) -> tuple[LinkedImage | None, list[Draft], list[Reject]]:
    where = f"images[{index}]"
    try:
        image = _with_patient(source.read(index), options.patient_pattern)
        if options.segmenter is not None:
            image = with_organs(image, options.segmenter)
        return link(image, seed=_image_seed(options.seed, image), table=options.table), [], []
    except RejectedImage as error:
        return None, [], [Reject(where, error.reason, error.detail)]
    except Exception as error:
        raise RuntimeError(f"source {source.name}, {where}: {type(error).__name__}: {error}") from error


def _with_patient(image: SourceImage, pattern: str | None) -> SourceImage:
    if pattern is None or image.patient is not None:
        return image
    found = re.search(pattern, image.key)
    if found is None or not found.group(1):
        raise RejectedImage("patient_unknown", "its name does not match --patient-pattern: correct the pattern or the name")
    return replace(image, patient=found.group(1))


def _unique(rejects: Iterable[Reject]) -> list[Reject]:
    """Each reject once, though a step may hand on what the step before it refused."""
    return list(dict.fromkeys(rejects))


def _image_seed(seed: int, image: SourceImage) -> int:
    digest = hashlib.sha256(json.dumps([seed, "image", image.source, image.key]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
