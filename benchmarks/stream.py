"""How fast samples come off the disk: our road against `datasets`, webdataset and mosaicml-streaming, on the same samples.

    pip install -r benchmarks/requirements.txt      into an environment of its own; what is missing is told and left out
    python benchmarks/stream.py                     some five minutes on two cores
    python benchmarks/stream.py --pictures FOLDER   PNG and JPEG files of a folder in place of made-up pictures
    python benchmarks/stream.py --presized          pictures no larger than the model's square, as `corpus.py build --longest-side` stores them

Every road decodes, fits, draws, normalises and tokenises by our functions (benchmarks/roads/content.py), so that only the way of a
sample differs; "usual" alone is `datasets` as its users have it, a picture decoded by the library and fitted by the model's own image
processor. Two workers each: threads for us, processes of a torch DataLoader for the peers; and once within the loop. Every line is
the median of several processes that take turns with the others, each forked from one that has imported torch and our package and opened
nothing; ratios are medians of ratios within a turn. Columns:
    samples/s      on the wall clock, once the workers' queues are full
    cpu ms         processor time of all processes, a sample; on a machine that does other things too, trust this one
    own MB         largest proportional set size of all processes, less what there was before the fork
    prepare s      to write the road's own format, once (datasets: its copy of the shards, made at the first load_dataset)
    import s       of the library;   start s   from opening to the first batch;   resume s   the same in the middle of an epoch
    exact          whether the next batches after a resume are those of the run that went on;   same   whether every sample is equal
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # only medclm is installed

from benchmarks.roads.content import BATCH, SIDE, Rendering, Tensors, flat_rows, make_processor, stage_of
from benchmarks.timing import RESULTS, report
from medclm.data.shards import Corpus
from medclm.data.testing import write_small_corpus
from medclm.types import Stage

ROADS = {
    "decode + render alone": ("ours", "NoRoad"),
    "medclm": ("ours", "Ours"),
    "datasets streaming": ("hugging_face", "Streaming"),
    "datasets streaming, usual": ("hugging_face", "Usual"),
    "datasets map-style": ("hugging_face", "Mapped"),
    "webdataset": ("web_dataset", "WebDataset"),
    "mosaicml-streaming": ("mosaic", "Mosaic"),
}
"""Road -> module and class in benchmarks/roads."""
FORMATS = {"hugging_face": "flat", "web_dataset": "tar", "mosaic": "mds"}
"""Module -> folder of its own format."""
WARM, MIDDLE, COMPARED = 6, 8, 3
"""Batches before the clock starts, before a resume, and compared after it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--pictures", type=Path, help="folder of PNG and JPEG files")
    parser.add_argument("--presized", action="store_true", help="made-up pictures of the size that the model sees")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--roads", help="only these, joined by commas")
    parser.add_argument("--out", type=Path, default=RESULTS / "stream.json")
    chosen = parser.parse_args()
    if chosen.images < (MIDDLE + COMPARED) * BATCH * 2:
        parser.error(
            f"--images {chosen.images}: give at least {(MIDDLE + COMPARED) * BATCH * 2}, so that the middle is within an epoch"
        )
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="stream-") as folder:
        compare(chosen, Path(folder))


def compare(chosen: argparse.Namespace, folder: Path) -> None:
    roads = chosen.roads.split(",") if chosen.roads else list(ROADS)
    sizes = [(SIDE, SIDE), (SIDE, SIDE * 832 // 1024)] if chosen.presized else [(512, 512), (1024, 832)]
    forked(make_corpus, folder / "corpus", chosen.images, sizes, chosen.pictures)
    rendering = Rendering(make_processor())
    prepared, missing = prepare(folder, roads)
    lines = [(road, workers) for road in roads if road not in missing for workers in (0, 2)]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {line: [] for line in lines}
    for turn in range(chosen.turns):
        for road, workers in lines[turn % len(lines) :] + lines[: turn % len(lines)]:
            found[road, workers].append(forked(measure, road, workers, folder, chosen.seconds, rendering))
    rows = [row(line, found, prepared) for line in lines]
    for road, why in missing.items():
        rows.append(dict.fromkeys(rows[0]) | {"road": f"{road}: not run: {why}"})
    (a, b), (c, d) = sizes
    shown = "given pictures" if chosen.pictures else f"{a} x {b} PNG and {c} x {d} JPEG in turn"
    report(
        f"{chosen.images} samples, {shown}, a square of 336 px, batches of {BATCH}, {os.cpu_count()} cores", rows, chosen.out
    )


def make_corpus(folder: Path, images: int, sizes: list[tuple[int, int]], pictures: Path | None) -> dict[str, Any]:
    """In a process of its own, since it imports `datasets`, whose import is measured."""
    given = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")) if pictures else []
    write_small_corpus(
        folder,
        images,
        sizes=sizes,
        format=["PNG", "JPEG"],
        texture=40,
        splits=["train"],
        no_finding_every=0,
        rows_per_file=64,
        batch_rows=16,
        pictures=[path.read_bytes() for path in given],
    )
    return {}


def prepare(folder: Path, roads: list[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds to write each module's format, and why roads cannot run."""
    seconds, missing = {"ours": 0.0}, {}
    for road in roads:
        name = ROADS[road][0]
        if name in seconds:
            continue
        try:
            seconds |= forked(write_format, name, folder)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1]
            missing |= {one: why for one, (module, _) in ROADS.items() if module == name and one in roads}
    return seconds, missing


def forked(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `work` finds in a process of its own, and the largest memory of all processes meanwhile.

    Raises:
        RuntimeError: it failed; holds its traceback.
    """
    gc.collect()
    base = peak = memory_mb(os.getpid())
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_send, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    while not ours.poll(0.4):
        peak = max(peak, memory_mb(os.getpid()))
    try:
        found = ours.recv()
    except EOFError:
        found = f"{work.__name__}{arguments}: the process died"
    process.join()
    if isinstance(found, str):
        raise RuntimeError(found)
    return {**found, "own_mb": peak - base}


def _send(connection: Connection, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    try:
        connection.send(work(*arguments))
    except Exception:
        connection.send(traceback.format_exc())


def write_format(name: str, folder: Path) -> dict[str, Any]:
    module = importlib.import_module(f"benchmarks.roads.{name}")
    rows = flat_rows(Corpus(folder / "corpus"))
    begin = time.perf_counter()
    module.write_flat(rows, folder / FORMATS[name])
    written = time.perf_counter()
    seconds = {name: written - begin}
    if name == "hugging_face":
        module.open_tables(folder)
        seconds["Mapped"] = time.perf_counter() - written
    return seconds


def measure(road: str, workers: int, folder: Path, seconds: float, rendering: Rendering) -> dict[str, Any]:
    begin = time.perf_counter()
    module, name = ROADS[road]
    kind = getattr(importlib.import_module(f"benchmarks.roads.{module}"), name)
    imported = time.perf_counter()
    opened = kind(folder, workers, rendering)
    batches = opened.batches()
    seen = digests(next(batches))
    started = time.perf_counter()
    for _ in range(WARM - 1):
        next(batches)
    samples, cpu, wall = 0, cpu_s(os.getpid()), time.perf_counter()
    while time.perf_counter() - wall < seconds:
        samples += len(next(batches)["positions"])
    found = {
        "samples_s": samples / (time.perf_counter() - wall),
        "cpu_ms": (cpu_s(os.getpid()) - cpu) / samples * 1e3,
        "import_s": imported - begin,
        "start_s": started - imported,
        "digests": seen,
    }
    del batches
    return found if workers or name in ("NoRoad", "Usual") else {**found, **resume(kind, folder, rendering)}


def resume(kind: Any, folder: Path, rendering: Rendering) -> dict[str, Any]:
    """Go on from the middle, and compare with the run that was not interrupted."""
    going = kind(folder, 0, rendering)
    batches = going.batches()
    for _ in range(MIDDLE):
        next(batches)
    state = going.state(MIDDLE)
    expected = rows_of(batches)
    begin = time.perf_counter()
    resumed = kind(folder, 0, rendering).batches(state)
    first = next(resumed)["positions"].tolist()
    return {"resume_s": time.perf_counter() - begin, "exact": [first, *rows_of(resumed, COMPARED - 1)] == expected}


def rows_of(batches: Iterator[Tensors], count: int = COMPARED) -> list[list[int]]:
    return [next(batches)["positions"].tolist() for _ in range(count)]


def digests(batch: Tensors) -> dict[str, str]:
    """Record row -> hash of what the model would see and read, for Medium: in Easy the colour is drawn by position."""
    found = {}
    for place, row in enumerate(batch["positions"].tolist()):
        if stage_of(row) is Stage.MEDIUM:
            own = slice(*batch["bounds"][place : place + 2].tolist())
            parts = (batch["pixel_values"][place], batch["input_ids"][own], batch["segments"][own])
            found[str(row)] = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()
    return found


def row(
    line: tuple[str, int], found: dict[tuple[str, int], list[dict[str, Any]]], prepared: dict[str, float]
) -> dict[str, Any]:
    road, workers = line
    turns = found[line]

    def middle(key: str) -> float | None:
        return statistics.median(turn[key] for turn in turns) if key in turns[0] else None

    def against(other: str) -> float | None:
        ratios = [
            mine["samples_s"] / theirs["samples_s"]
            for mine, theirs in zip(turns, found.get((other, workers), []), strict=False)
        ]
        return statistics.median(ratios) if ratios else None

    alone = found.get(("decode + render alone", workers), [])
    cost = (
        statistics.median(mine["cpu_ms"] / bare["cpu_ms"] for mine, bare in zip(turns, alone, strict=True)) if alone else None
    )
    module, name = ROADS[road]
    return {
        "road": road,
        "workers": workers,
        "samples/s": middle("samples_s"),
        "of render": against("decode + render alone"),
        "of datasets streaming": against("datasets streaming"),
        "cpu ms": middle("cpu_ms"),
        "cpu of render": cost,
        "own MB": middle("own_mb"),
        "prepare s": prepared.get(name, prepared[module]),
        "import s": middle("import_s"),
        "start s": middle("start_s"),
        "resume s": middle("resume_s"),
        "exact": yes(turn["exact"] for turn in turns) if "exact" in turns[0] else None,
        "same": yes(same(turn["digests"], found) for turn in turns),
    }


def same(digests: dict[str, str], found: dict[tuple[str, int], list[dict[str, Any]]]) -> bool:
    """Whether every sample is what the roads that call our functions made of its record."""
    others = [turn["digests"] for (road, _), turns in found.items() if road != "datasets streaming, usual" for turn in turns]
    return all(other.get(row, digest) == digest for other in others for row, digest in digests.items())


def yes(answers: Iterator[bool]) -> str:
    return "yes" if all(answers) else "no"


def family(pid: int) -> list[int]:
    """A process and its descendants, as far as they still live."""
    try:
        children = [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in family(child))]


def memory_mb(pid: int) -> float:
    """Proportional set size of a family: what is shared counts once."""
    total = 0
    for one in family(pid):
        try:
            total += int(
                next(
                    line for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")
                ).split()[1]
            )
        except (OSError, StopIteration):
            continue
    return total / 1024


def cpu_s(pid: int) -> float:
    """Processor seconds of a family so far."""
    ticks = 0
    for one in family(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])  # its own, and of those that it has waited for
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
