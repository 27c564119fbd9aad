"""Conducts a case from its first start to its verdict: attempts one after the other, damage between them, the undisturbed twin."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.actions import Place, empty, mount_small, unlock, unmount
from benchmarks.faults.attempts import ROOT, run_attempt
from benchmarks.faults.cases import CHECKPOINT_EVERY, GLOBAL_BATCH, TIMEOUT_S, Attempt, Case
from benchmarks.faults.damage import damage_checkpoint, flip, flip_back
from benchmarks.faults.endings import finished, outcome, wrong_endings
from benchmarks.faults.processes import in_child, redirect
from benchmarks.faults.server import TrackingServer
from medclm.draws import generator
from medclm.testing import TINY_FLAGS

MOST_STARTS = 6
DISK_MB = 48
"""Of a small disk: a dozen checkpoints of this model."""
BASE = (
    "--deepspeed",
    str(ROOT / "ds_configs" / "zero3.json"),
    "--resume=auto",
    "--run.name=run",
    *TINY_FLAGS,
    "--data.min_side=0",
    f"--train.checkpoint_every={CHECKPOINT_EVERY}",
    f"--train.log_every={CHECKPOINT_EVERY}",
    f"--train.global_batch_size={GLOBAL_BATCH}",
    "--train.shrink_micro_batch=true",
    "--train.lr=1e-3",
    "--train.export=false",
    f"--curriculum.timeout_s={TIMEOUT_S:g}",
    f"--engine.timeout_s={TIMEOUT_S:g}",
)


@dataclass
class Drill:
    """The work folder, and what every case needs."""

    work: Path

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        self.server = TrackingServer(self.work / "tracker")

    @functools.cached_property
    def code(self) -> str:
        """Hash of the product's code: an undisturbed run of another one is no twin."""
        files = sorted(path for package in ("medclm", "train") for path in (ROOT / package).rglob("*.py"))
        return hashlib.blake2b(b"".join(path.read_bytes() for path in files), digest_size=6).hexdigest()

    @functools.cached_property
    def corpus(self) -> Path:
        folder = self.work / "corpus"
        if not (folder / "manifest.json").is_file():
            in_child(lambda: _write_corpus(folder))
        return folder

    def warm(self) -> None:
        """Import whatever an undisturbed run imports, so that every forked rank has it."""
        modules = self.work / f"modules-{self.code}.json"
        if not modules.is_file():
            names = in_child(
                lambda: _imported_by_a_run(self.work / "first", self.flags(Case(0, 0, "", ()), self.work / "first"))
            )
            modules.write_text(json.dumps(names), encoding="utf-8")
        for name in json.loads(modules.read_text(encoding="utf-8")):
            with contextlib.suppress(Exception):  # a module that only its importer can import
                importlib.import_module(name)

    def flags(self, case: Case, folder: Path) -> list[str]:
        corpus = folder / "corpus" if _hurts_corpus(case) else self.corpus
        tracker = self.server.uri if case.tracked else "off"
        return [*BASE, f"--data.corpus={corpus}", f"--run.output_dir={folder}", f"--tracking.uri={tracker}", *case.flags]

    def undisturbed(self, case: Case) -> Path:
        """The folder of the same run without any fault, made once."""
        twin = Case(0, 0, case.kind, (), shape=case.shape, losses=case.losses)
        decisive = json.dumps([self.code, twin.flags, twin.losses])
        folder = self.work / "undisturbed" / hashlib.blake2b(decisive.encode(), digest_size=6).hexdigest()
        if not (folder / "complete").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            place, keep_all = Place(folder / "attempt-0", folder / "run"), "--train.keep_checkpoints=99"
            if run_attempt(twin, Attempt(), place, [*self.flags(twin, folder), keep_all]).launcher != 0:
                raise RuntimeError(f"{place.attempt}: the undisturbed run failed: look at its rank-*.txt")
            (folder / "complete").touch()
        return folder

    def run(self, case: Case) -> dict[str, Any]:
        """Conduct the case; its line of the results."""
        begun, folder = time.monotonic(), self.work / f"case-{case.seed}-{case.number}"
        truth = self.undisturbed(case)
        unlock(folder / "run")  # of a drill that was ended in the middle
        unmount(folder / "run")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with _surroundings(case, folder, self):
            endings, notes = self._attempts(case, folder)
            verdicts: dict[str, Any] = {}
            wrong = notes + wrong_endings(case, endings)
            if finished(case, endings) and not (folder / "run" / "checkpoints" / f"step_{case.steps:06d}").is_dir():
                wrong.append("it said that it was finished and left no checkpoint of the last step")
            elif finished(case, endings):
                attempts = [str(one["folder"]) for one in endings]
                try:
                    verdicts = in_child(lambda: _judge(case, folder, attempts, truth))
                    wrong += verdicts.pop("wrong")
                except RuntimeError:
                    wrong.append(f"what it left cannot be read: {folder.name}/verdicts.txt says why")
            else:
                wrong.append(f"not finished after {len(endings)} starts")
        return {
            "case": asdict(case),
            "code": self.code,
            "attempts": [{key: value for key, value in one.items() if key != "folder"} for one in endings],
            **verdicts,
            "hangs": sum(one["hang"] for one in endings),
            "orphans": sum(one["orphans"] for one in endings),
            "wrong": wrong,
            "ok": not wrong,
            "seconds": round(time.monotonic() - begun, 1),
        }

    def _attempts(self, case: Case, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
        """Start until the run is finished; what became of each start, and what was wrong with a refusal."""
        endings: list[dict[str, Any]] = []
        notes: list[str] = []
        random, planned = generator(case.seed, "drill.damage", case.number), list(case.attempts)
        world = case.attempts[-1].world_size
        while len(endings) < MOST_STARTS and not finished(case, endings):
            attempt = planned.pop(0) if planned else Attempt(world)
            place = Place(folder / f"attempt-{len(endings)}", folder / "run", self.server.group if case.tracked else None)
            refused, undo = None, None
            if attempt.damage == "shard":
                shard = sorted((folder / "corpus").glob("*.arrow"))[int(random.integers(3))]
                refused, undo = shard.name, functools.partial(flip_back, shard, flip(shard, random))
            elif attempt.damage is not None:
                refused = damage_checkpoint(place.run, attempt.damage, random)
            ending = run_attempt(case, attempt, place, self.flags(case, folder))
            endings.append({"folder": place.attempt, **asdict(ending), "world_size": attempt.world_size, **outcome(place)})
            if undo is not None:
                undo()
                if ending.launcher != 2:
                    notes.append(f"a damaged shard ended in exit status {ending.launcher}, expected 2")
            if refused is not None and refused not in _all_said(place.attempt):
                notes.append(f"nobody said that {refused} was damaged")
            with contextlib.suppress(OSError):
                empty(place.run)
            unlock(place.run)
        return endings, notes


def _hurts_corpus(case: Case) -> bool:
    return any(attempt.damage == "shard" for attempt in case.attempts)


@contextlib.contextmanager
def _surroundings(case: Case, folder: Path, drill: Drill) -> Iterator[None]:
    """A disk, a corpus or a tracking server of the case's own."""
    if _hurts_corpus(case):
        shutil.copytree(drill.corpus, folder / "corpus")
    if case.small_disk:
        mount_small(folder / "run", DISK_MB)
    if case.tracked:
        drill.server.start()
    try:
        yield
    finally:
        if case.tracked:
            drill.server.stop()
        if case.small_disk:
            unmount(folder / "run")


def _judge(case: Case, folder: Path, attempts: list[str], truth: Path) -> dict[str, Any]:
    from benchmarks.faults.verdicts import Finished, judge

    redirect(folder / "verdicts.txt")  # DeepSpeed draws progress bars
    ours = Finished(folder / "run", [Path(one) for one in attempts], case.steps, lora=case.shape.startswith("lora"))
    theirs = Finished(truth / "run", [truth / "attempt-0"], case.steps, lora=case.shape.startswith("lora"))
    skipped = {batch for batch, _ in case.losses}
    return judge(ours, theirs, same_world=case.same_world, skipped=skipped)


def _all_said(attempt: Path) -> str:
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in attempt.glob("*.txt"))


def _write_corpus(folder: Path) -> str:
    from medclm.data.testing import write_small_corpus

    return str(write_small_corpus(folder, images=60))


def _imported_by_a_run(folder: Path, flags: list[str]) -> list[str]:
    """Names of all modules after a run of one step, on one rank."""
    from train.main import main

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spare = [flag for flag in flags if not flag.startswith(("--train.steps", "--train.checkpoint_every"))]
    redirect(folder / "said.txt")
    if main([*spare, "--train.steps=1"]):
        raise RuntimeError(f"{folder}/said.txt: a run of one step failed")
    return sorted(name for name in sys.modules if name.split(".")[0] != "__main__")
