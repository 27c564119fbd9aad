"""Proves that a run's curriculum did what its log says: recomputes every decision and every progress from the logged losses.

What a sample's domain is and which stages it offers is read from the corpus again, so the run's corpus is needed, unchanged.
Knows nothing of models or checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from tqdm import tqdm

from medclm.config import CurriculumSection, load_recipe
from medclm.curriculum.course import Course, CourseMaker, Fate, Turn
from medclm.curriculum.log import HEADER, LoggedRun, describe_in_order, progresses, read_log, turns
from medclm.curriculum.policy import Policy
from medclm.curriculum.registry import make_policy
from medclm.data.manifest import read_manifest
from medclm.data.schema import MANIFEST
from medclm.data.shards import Corpus
from medclm.data.stream import Stream, manifest_hash
from medclm.types import Stage


@dataclass(frozen=True)
class LoggedCurriculum:
    """A run's log with what is needed to go through it again."""

    folder: Path
    log: LoggedRun
    policy: Policy[Any]
    stream: Stream

    @property
    def global_batch_size(self) -> int:
        return int(self.log.header["global_batch_size"])

    def turns(self) -> Iterator[Turn]:
        """Every batch in order, under a progress bar when it takes longer than a moment."""
        describe = describe_in_order(self.stream, self.global_batch_size)
        found = turns(self.log, self.policy, describe)
        return iter(tqdm(found, total=len(self.log.rows), unit="batch", desc="replay", leave=False, delay=2))


def open_run(folder: Path, data: Path | None) -> LoggedCurriculum:
    """The curriculum of a run folder.

    Args:
        data: where the run's corpus is now; None = where its recipe says, or beside the run.

    Raises:
        ValueError: no log, a log of another version, no batch in it, or not the corpus that the run was trained on.
    """
    log = read_log(folder)
    missing = [key for key in ("curriculum", "stream", "domains") if key not in log.header]
    if missing:
        raise ValueError(f"{folder / HEADER}: {', '.join(missing)} missing: not the log of a training run")
    if not len(log.rows):
        raise ValueError(f"{folder}: its log has no complete batch yet: the run ended or crashed before its first step")
    try:
        section = CurriculumSection.model_validate(log.header["curriculum"])
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(["curriculum", *map(str, fault["loc"])])
        raise ValueError(f"{folder / HEADER}: {key}: {fault['msg']}: use the version of medclm that wrote the run") from error
    state = log.header["stream"]
    stream = Stream(
        corpus=Corpus(_corpus_folder(folder, data, state["manifest"])),
        split=state["split"],
        seed=state["seed"],
        window=state["window"],
        min_side=state["min_side"],
        image_size=state["image_size"],
        fit=state["fit"],
    )
    policy = make_policy(section, domains=len(log.header["domains"]), total_steps=int(log.header["total_steps"]))
    return LoggedCurriculum(folder=folder, log=log, policy=policy, stream=stream)


def _corpus_folder(folder: Path, data: Path | None, wanted: str) -> Path:
    """The first place that holds the corpus with the wanted manifest.

    The recipe's path counts from the folder that training was started in; that is here, or as far above the run as its own
    `run.output_dir` says. Phantoms and imports lie beside the run.
    """
    if data is not None:
        found = manifest_hash(read_manifest(data))
        if found != wanted:
            raise ValueError(
                f"--data {data}: not the corpus this run was trained on: its manifest is {found}, the log says {wanted}: it was "
                "built again or changed since, or is another one"
            )
        return data
    recipe_file = folder / "recipe.yaml"
    if not recipe_file.is_file():
        raise ValueError(f"{folder}: no recipe.yaml to say which corpus it was: name it with --data FOLDER")
    recipe = load_recipe(config=recipe_file)
    if recipe.data.corpus is not None:
        started_in = folder.resolve()
        for _ in (recipe.run.output_dir / recipe.run.name).parts:
            started_in = started_in.parent
        places = list(dict.fromkeys([recipe.data.corpus, started_in / recipe.data.corpus]))
        said = f"data.corpus={recipe.data.corpus}"
    else:
        places = sorted(path.parent for path in folder.resolve().parent.glob(f"*/{MANIFEST}"))
        said = (
            f"data.train_json={recipe.data.train_json}" if recipe.data.train_json else f"data.phantoms={recipe.data.phantoms}"
        )
    others = []
    for place in places:
        if (place / MANIFEST).is_file():
            found = manifest_hash(read_manifest(place))
            if found == wanted:
                return place
            others.append(f"{place} is another one or was changed since (manifest {found})")
    looked = "; ".join(others) or f"looked at {', '.join(map(str, places)) or folder.resolve().parent}"
    raise ValueError(
        f"{folder}: the corpus it was trained on ({said}, manifest {wanted}) was not found: {looked}: name it with --data FOLDER"
    )


@dataclass(frozen=True)
class Difference:
    """Where log and recomputation first part."""

    batch_index: int
    step: int
    position: int | None
    """Global position of the sample; None where it is about the whole batch."""
    what: str


@dataclass
class Audit:
    """What going through a whole log showed."""

    batches: int = 0
    samples: int = 0
    fates: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))
    fallbacks: int = 0
    """Samples of all decided batches whose record did not offer the wanted stage."""
    differing_batches: int = 0
    differing_samples: int = 0
    first: Difference | None = None

    @property
    def equal(self) -> bool:
        return self.first is None

    def add(self, turn: Turn, row: np.void, observed_progress: float) -> None:
        """Compare a batch with its row of the log."""
        self.batches += 1
        self.samples += len(turn.given)
        self.fates[turn.fate] += 1
        self.fallbacks += int((turn.decided != turn.wanted).sum())
        slots = np.flatnonzero(turn.decided != turn.given)
        what, position = "", None
        if len(slots):
            logged, again = (Stage(stages[slots[0]]).name.title() for stages in (turn.given, turn.decided))
            what, position = f"stage {logged} was logged, {again} is recomputed", int(turn.batch.positions[slots[0]])
        elif float(row["progress"]) != turn.progress:
            what = f"progress {float(row['progress'])!r} was logged at the decision, {turn.progress!r} is recomputed"
        elif turn.fate != Fate.IN_FLIGHT and float(row["observed_progress"]) != observed_progress:
            what = f"progress {float(row['observed_progress'])!r} was logged when it was observed, {observed_progress!r} is recomputed"
        if what:
            self.differing_batches += 1
            self.differing_samples += len(slots)
            self.first = self.first or Difference(turn.batch_index, turn.step, position, what)


def audit(run: LoggedCurriculum) -> tuple[Audit, Course]:
    """Recompute a whole run and compare.

    Raises:
        ValueError: a log so damaged that it cannot be recomputed; names the batch.
    """
    found, rows = Audit(), run.log.rows
    _, observed_progress = progresses(run.log)
    maker = CourseMaker(
        run.policy,
        domains=run.log.header["domains"],
        total_steps=int(run.log.header["total_steps"]),
        batches=len(rows),
    )
    for turn in run.turns():
        found.add(turn, rows[turn.batch_index], float(observed_progress[turn.batch_index]))
        maker.add(turn)
    return found, maker.course()


def print_audit(run: LoggedCurriculum, found: Audit) -> None:
    """The verdict in a few lines."""
    fates = ", ".join(f"{count:,} {fate.name.lower().replace('_', ' ')}" for fate, count in found.fates.items() if count)
    print(
        f"{run.folder}: {run.policy.name}, {found.batches:,} batches of {run.global_batch_size} = {found.samples:,} samples ({fates})"
    )
    print(f"corpus: {run.stream.corpus.folder} (manifest as logged)")
    applied, planned = found.fates[Fate.APPLIED], int(run.log.header["total_steps"])
    if applied != planned:
        print(f"{applied:,} of {planned:,} planned updates: the run was stopped or still runs, or the log was cut")
    if found.first is None:
        print(
            f"equal: every stage and every progress follows from the logged losses; {found.fallbacks:,} samples fell back to "
            "another stage because their record does not offer the wanted one"
        )
        return
    first = found.first
    sample = "" if first.position is None else f", sample at position {first.position}"
    print(f"NOT EQUAL, first at batch {first.batch_index} (step {first.step}){sample}: {first.what}")
    print(
        f"{found.differing_batches:,} of {found.batches:,} batches and {found.differing_samples:,} of {found.samples:,} samples differ"
    )
    print("Either the log was changed, or the policy's code is not what ran, or the corpus was changed without its manifest.")
    if first.position is not None:
        print(f"look closer: launch/compare.py --replay {run.folder} --why {first.position}")
