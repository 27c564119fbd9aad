"""Every decision and every observation of a run in one small file, so that the run can be replayed and asked about.

`assignments.bin` holds one fixed-size row per global batch (3 bytes a sample: its stage and its float16 loss), so row t is at
a known place, a resumed run overwrites what it does again, and a million samples take 3 MB. `assignments.json` says what the
rows mean. The domains of the samples are not stored: they are a pure function of the corpus, the seed and t.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medclm.curriculum.course import Fate, Turn
from medclm.curriculum.policy import Policy, decide
from medclm.data.manifest import write_json
from medclm.data.stream import Stream, StreamBatch
from medclm.types import Observation, Stage

FORMAT = 1
HEADER, ROWS = "assignments.json", "assignments.bin"
_REQUIRED = ("global_batch_size", "lookahead", "seed", "total_steps")

_log = logging.getLogger("medclm.curriculum")

Describe = Callable[[int], StreamBatch]
"""batch_index -> what a global batch consists of."""


def _row(global_batch_size: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("decided", "u1"),
            ("observed", "u1"),  # a `Fate`
            ("progress", "<f8"),  # of the run, at the decision
            ("observed_progress", "<f8"),  # of the run, when the batch was consumed
            ("stages", "u1", (global_batch_size,)),
            ("losses", "<f2", (global_batch_size,)),
        ]
    )


@dataclass(frozen=True)
class LoggedRun:
    """What `read_log` returns."""

    header: dict[str, Any]
    rows: np.ndarray
    """(batches,) structured: decided, observed, progress, observed_progress, stages (G,), losses (G,)."""

    @property
    def applied_before(self) -> np.ndarray:
        """(batches,) int64: updates applied before each batch was consumed."""
        applied = self.rows["observed"] == Fate.APPLIED
        return np.asarray(np.cumsum(applied) - applied)


class AssignmentLog:
    """Writes the log of one run on rank 0. Rows that the disk does not take wait in memory and are written, in order, once it does."""

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        """`header` holds at least global_batch_size, lookahead, seed, total_steps, the curriculum's recipe and the stream's state.

        Raises:
            OSError: the folder cannot be written at the start.
        """
        self._dtype, self._lookahead = _row(int(header["global_batch_size"])), int(header["lookahead"])
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / HEADER, {"format": FORMAT, **header})
        self._path = folder / ROWS
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._begins: int | None = None
        """The first batch that this process decided, until the file is cut there."""
        self._begun = self._faulty = self._closed = False
        self._lock = threading.Lock()  # a run that fails closes the log while an exchange may still be under way
        self._unobserved: dict[int, np.ndarray] = {}
        """Batch -> its row (1,), from its decision to its observation."""
        self._waiting: dict[int, np.ndarray] = {}
        """Batch -> its row (1,), until the file has it."""

    def decision(self, batch_index: int, *, progress: float, stages: np.ndarray) -> None:
        if not self._begun:
            self._begun = True
            self._forget_from(batch_index)
        row = np.zeros(1, dtype=self._dtype)
        row["decided"], row["progress"], row["stages"] = 1, progress, stages
        self._unobserved[batch_index] = self._waiting[batch_index] = row
        self._try_to_write()

    def observation(self, observation: Observation) -> None:
        row = self._unobserved.pop(observation.batch_index)
        # A skipped step has no loss at all; a single infinite one is a loss beyond float16, and the policy did see it.
        row["observed"] = Fate.SKIPPED if np.isnan(observation.losses).all() else Fate.APPLIED
        row["observed_progress"], row["losses"] = observation.progress, observation.losses
        self._waiting[observation.batch_index] = row
        self._try_to_write()

    def _forget_from(self, batch_index: int) -> None:
        """Before the first decision of this process: drop what an attempt that died wrote from there on.

        Its later rows rest on losses that are about to be overwritten, and batches in flight at the checkpoint were not observed.
        """
        self._begins = batch_index
        for in_flight in range(max(0, batch_index - self._lookahead), batch_index):
            size = self._dtype.itemsize
            data = os.pread(self._file, size, in_flight * size)
            row = np.frombuffer(data.ljust(size, b"\0"), dtype=self._dtype).copy()  # a log that was lost has no rows there
            row["observed"], row["observed_progress"], row["losses"] = Fate.IN_FLIGHT, 0, 0
            self._unobserved[in_flight] = self._waiting[in_flight] = row

    def _try_to_write(self) -> OSError | None:
        """Write what waits, in order, so that no row is missing before one that is there. Returns what stopped it."""
        with self._lock:
            return None if self._closed else self._write_waiting()

    def _write_waiting(self) -> OSError | None:
        size = self._dtype.itemsize
        try:
            if self._begins is not None:
                os.ftruncate(self._file, self._begins * size)
                self._begins = None
            for batch_index in sorted(self._waiting):
                data = self._waiting[batch_index].tobytes()
                written = 0
                while written < size:
                    written += os.pwrite(self._file, data[written:], batch_index * size + written)
                del self._waiting[batch_index]
        except OSError as error:
            if not self._faulty:
                self._faulty = True
                _log.warning("%s: %s; its rows wait in memory until the disk takes them", self._path, error.strerror)
            return error
        if self._faulty:
            self._faulty = False
            _log.warning("%s: the disk takes rows again, and has them all", self._path)
        return None

    def flush(self) -> None:
        """Have every row in the file: a checkpoint rests on them.

        Raises:
            OSError: the disk does not take them.
        """
        error = self._try_to_write()
        if error is not None:
            what = f"{len(self._waiting)} rows wait in memory ({error.strerror}): make room, or make the folder writable"
            raise OSError(error.errno, what, str(self._path))

    def close(self) -> None:
        if self._closed:
            return
        failed = self._try_to_write()
        with self._lock:
            self._closed = True
            os.close(self._file)
        if failed is not None:
            _log.warning("%s: %d rows could not be written and are lost", self._path, len(self._waiting))


def read_log(folder: Path) -> LoggedRun:
    """The log of a run folder; what a crash cut off at its end is left out.

    Raises:
        ValueError: no log there, one of another format, one with a hole or with numbers that are no stages or fates.
    """
    header = _read_header(folder)
    dtype = _row(int(header["global_batch_size"]))
    if not (folder / ROWS).is_file():
        raise ValueError(f"{folder}: {HEADER} without {ROWS}: the log was copied in part; copy both")
    data = (folder / ROWS).read_bytes()
    rows = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype=dtype)
    decided = rows["decided"] == 1
    batches = len(rows) if decided.all() else int(np.argmin(decided))
    if decided[batches:].any():
        raise ValueError(
            f"{folder / ROWS}: batch {batches} has no decision although later ones have: the file was lost or damaged before the "
            "run was resumed, and nothing after that batch can be recomputed"
        )
    worst_stages, fates = rows["stages"][:batches].max(axis=1, initial=0), rows["observed"][:batches]
    for what, numbers, most in (("stage", worst_stages, max(Stage)), ("fate", fates, max(Fate))):
        if (numbers > most).any():
            batch = int(np.argmax(numbers > most))
            raise ValueError(f"{folder / ROWS}: batch {batch} holds a {what} {numbers[batch]}: the file is damaged; restore it")
    return LoggedRun(header=header, rows=rows[:batches])


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    if not path.is_file():
        raise ValueError(f"{folder}: no {HEADER}: give the folder of a training run, such as runs/demo")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}): it was cut off or edited; restore it") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else type(header).__name__
        raise ValueError(f"{path}: format {found}, this version reads {FORMAT}: use the version of medclm that wrote the run")
    missing = [key for key in _REQUIRED if key not in header]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing: it was edited; restore it")
    return header


def progresses(run: LoggedRun) -> tuple[np.ndarray, np.ndarray]:
    """What the service told the policy at each decision and at each observation: applied steps / planned steps, at most 1.

    At the decision for batch t the batches up to t - lookahead - 1 have been counted, and those in flight count as applied.

    Returns:
        (batches,) float64 twice.
    """
    total, lookahead = int(run.header["total_steps"]), int(run.header["lookahead"])
    batch, applied = np.arange(len(run.rows)), run.applied_before
    ahead = np.minimum(batch, lookahead)
    return np.minimum(1.0, (applied[batch - ahead] + ahead) / total), np.minimum(1.0, applied / total)


def turns(run: LoggedRun, policy: Policy[Any], describe: Describe) -> Iterator[Turn]:
    """Every batch of a log again, its decision recomputed from the logged losses alone.

    Raises:
        ValueError: a batch that was never observed, although a logged decision rests on it.
    """
    lookahead, seed = int(run.header["lookahead"]), int(run.header["seed"])
    decision_progress, observation_progress = progresses(run)
    state, observed, applied = policy.initial(), 0, run.applied_before
    for batch_index, row in enumerate(run.rows):
        while observed < batch_index - lookahead:  # the decision for t has seen exactly the batches up to t - lookahead - 1
            past = run.rows[observed]
            if past["observed"] == Fate.IN_FLIGHT:
                raise ValueError(
                    f"{ROWS}: the decision for batch {batch_index} rests on the losses of batch {observed}, which are not in the "
                    "log: it was damaged, and nothing after that batch can be recomputed"
                )
            if past["observed"] == Fate.APPLIED:
                domains = describe(observed).domains
                progress = float(observation_progress[observed])
                state = policy.observe(state, Observation(observed, progress, domains, past["stages"], past["losses"]))
            observed += 1
        batch, progress = describe(batch_index), float(decision_progress[batch_index])
        decided, wanted = decide(policy, state, batch, progress=progress, seed=seed)
        yield Turn(
            batch_index=batch_index,
            step=int(applied[batch_index]),
            progress=progress,
            state=state,
            batch=batch,
            wanted=wanted,
            decided=decided,
            given=row["stages"],
            losses=row["losses"],
            fate=Fate(row["observed"]),
        )


def describe_in_order(stream: Stream, global_batch_size: int, samples_at_once: int = 2048) -> Describe:
    """`stream.describe` for going through a whole run: reads several batches together, which opens each part of a file once.

    Args:
        samples_at_once: as many batches as have no more samples than this, and at least one.
    """
    at_once = max(1, samples_at_once // global_batch_size)

    def describe(batch_index: int) -> StreamBatch:
        chunk, place = divmod(batch_index, at_once)
        whole = stream.describe(chunk, global_batch_size * at_once)
        here = slice(place * global_batch_size, (place + 1) * global_batch_size)
        return StreamBatch(whole.positions[here], whole.record_rows[here], whole.domains[here], whole.offered[here])

    return describe
