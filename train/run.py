"""What a run consists of: everything train/loop.py names, and what each of its calls does. train/build.py puts it together."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from medclm.checkpoint import Found, step_folder
from medclm.checkpoint_writer import CheckpointWriter, Saved
from medclm.config import ConfigError, Recipe, load_recipe, recipe_yaml
from medclm.curriculum.service import CurriculumService, Report
from medclm.data.loader import Loader
from medclm.data.manifest import write_json
from medclm.data.stream import Stream
from medclm.device_memory import most_held
from medclm.distributed import Ranks
from medclm.engine import Engine
from medclm.exports import export_checkpoint
from medclm.tracking import Tracker, recipe_params
from train.record import Recorder, draw_course
from train.steps import StagedStep, StepResult
from train.stops import Stops
from train.validate import Examination, Validator

OUTCOME = "outcome.json"
"""In a run folder that is not being trained: how the last attempt ended, if it ended by itself."""
FREE = (
    "data.corpus",  # its content is told by its hash, wherever it lies
    "data.train_json",
    "data.image_root",
    "data.cache",
    "data.on_bad_record",
    "data.quarantine_limit",
    "data.workers",
    "data.verify",
    "curriculum.timeout_s",
    "model.path",  # its network and frozen weights are told by their fingerprint
    "model.attention",
)
"""Keys of the bound sections that a resumed run may change."""
BOUND = ("model.", "data.", "curriculum.", "run.seed", "train.global_batch_size", "train.steps")
"""Beginnings of the keys that make a run what it is."""


@dataclass(frozen=True)
class Best:
    """The best checkpoint so far."""

    step: int
    score: str
    value: float


@dataclass
class Run:
    """Everything the loop names, and the two counters it advances."""

    recipe: Recipe
    ds_config: dict[str, Any]
    ranks: Ranks
    folder: Path
    lock: IO[str] | None
    """Held by the main rank: one run a folder."""
    engine: Engine
    stream: Stream
    loader: Loader
    service: CurriculumService
    take_step: StagedStep
    recorder: Recorder
    tracker: Tracker | None
    validator: Validator | None
    exam: Examination | None
    writer: CheckpointWriter
    stops: Stops
    network: dict[str, str]
    """Fingerprint of the network and its frozen weights."""
    step: int = 0
    """Applied updates: schedule, budgets and checkpoint names count these."""
    batch_index: int = 0
    """Consumed global batches: order, draws and messages count these. A skipped batch is consumed, never retried."""
    skipped_in_row: int = 0
    best: Best | None = None
    _saved_batch: int = -1
    _last_save: Saved | None = None
    """How the newest save that ended did so."""

    def count(self, result: StepResult) -> None:
        """Advance the counters after a batch.

        Raises:
            RuntimeError: `train.max_skipped_in_row` batches in a row were skipped.
        """
        self.batch_index += 1
        self.step += result.applied
        self.skipped_in_row = 0 if result.applied else self.skipped_in_row + 1
        if result.applied:
            return
        why = result.dropped or "its gradient is not finite"
        self.recorder.say(f"batch {self.batch_index - 1} after step {self.step} is not learned from: {why}")
        if self.skipped_in_row >= self.recipe.train.max_skipped_in_row:
            raise RuntimeError(
                f"rank {self.ranks.rank}: {self.skipped_in_row} steps in a row were skipped; the last, batch "
                f"{self.batch_index - 1} after step {self.step}, since {why}: lower train.lr or train.clip, or look at these "
                f"batches' records (launch/compare.py --replay {self.folder} --step {self.step}); "
                f"train.max_skipped_in_row={self.recipe.train.max_skipped_in_row} allows more"
            )

    def report(self, result: StepResult) -> None:
        """Hand this rank's losses, flags and counts to the curriculum."""
        self.service.report(
            Report(
                batch_index=self.batch_index,
                losses=result.sample_losses,
                applied=result.applied,
                stop_wanted=self.stops.wanted,
                tokens=result.tokens,
                target_tokens=result.target_tokens,
                peak_memory=most_held(self.engine.device.name),
                replaced=self.loader.replaced,
            )
        )

    def _is_each(self, every: int) -> bool:
        """A step that is a multiple of `every` (0 = none) was just made; a skipped batch makes none."""
        return every > 0 and self.step % every == 0 and self.skipped_in_row == 0

    def _is_last(self) -> bool:
        return self.step == self.recipe.train.steps

    def due_to_log(self) -> bool:
        return self._is_each(self.recipe.train.log_every) or self._is_last()

    def log(self) -> None:
        """Tell what has happened since the last call."""
        self._note_saved(self.writer.ended())
        self.recorder.log(self.step)

    def due_to_validate(self) -> bool:
        every = self.recipe.validation.every
        return self._is_each(every) or (every > 0 and self._is_last())

    def validate(self) -> None:
        """Judge the fixed subset, note its losses, and keep this checkpoint if it is the best; every rank calls it."""
        assert self.validator is not None
        values = self.validator()
        if self.exam is not None:
            values |= self.exam()
        self.recorder.note(self.step, values)
        if not (name := self.recipe.validation.best):
            return
        if name not in values:
            raise ConfigError(f"validation.best={name}: no such score: choose one of {', '.join(values)}")
        sign = 1 if "loss" in name else -1
        if math.isfinite(values[name]) and (self.best is None or sign * values[name] < sign * self.best.value):
            self.best = Best(step=self.step, score=name, value=values[name])
            self.save()

    def due_to_save(self) -> bool:
        return self._is_each(self.recipe.train.checkpoint_every)

    def save(self) -> None:
        """Begin to write the checkpoint of this step, once; every rank calls it. The loop waits for a copy of the state."""
        if self.batch_index == self._saved_batch:
            return
        self._saved_batch, began = self.batch_index, time.perf_counter()
        self._note_saved(self.writer.finish())  # one copy in memory at a time
        run_state = {
            "step": self.step,
            "batch_index": self.batch_index,
            "skipped_in_row": self.skipped_in_row,
            "stream": self.stream.state(),
            "curriculum": self.service.state_dict(),
            "spikes": self.take_step.guard.state(),
            "network": self.network,
            "tracking_run": self.tracker.run_id if self.tracker else None,
            "best": asdict(self.best) if self.best else None,
        }
        files = self.engine.snapshot(exclude_frozen=bool(self.recipe.model.lora.rank))
        if self.ranks.is_main:
            files["run_state.json"] = _json(run_state)
            files["ds_config.json"] = _json(self.ds_config)
            files["recipe.yaml"] = recipe_yaml(self.recipe).encode()
        self.writer.begin(self.step, files, best=self.best.step if self.best else None, fault=self._fault_of_log())
        self.recorder.note(self.step, {"checkpoint/pause_s": time.perf_counter() - began})

    def _fault_of_log(self) -> str | None:
        """Why the log of decisions is not whole, on the main rank; a checkpoint without it could not be replayed."""
        if self.service.log is None:
            return None
        try:
            self.service.log.flush()
        except OSError as error:
            return str(error)
        return None

    def finish_saving(self) -> None:
        """Wait until the last checkpoint is on the disk; every rank calls it.

        Raises:
            RuntimeError: it is not.
        """
        self._note_saved(self.writer.finish())
        if self._last_save is not None and self._last_save.fault is not None:
            raise RuntimeError(
                f"rank {self.ranks.rank}: the last checkpoint, step {self._last_save.step}, was not saved ({self._last_save.fault}): make room in "
                f"{self.folder} and give --resume=auto: the run goes on from the newest one that was"
            )

    def _note_saved(self, ended: list[Saved]) -> None:
        for saved in ended:
            self._last_save = saved
            if saved.leftover is not None:
                self.recorder.say(
                    f"the checkpoint of step {saved.step} is saved, but an older one could not be removed: {saved.leftover}"
                )
            if saved.fault is None:
                self.recorder.note(saved.step, {"checkpoint/write_s": saved.seconds})
                continue
            self.recorder.note(saved.step, {"checkpoint/failed": 1.0})
            print(
                f"rank {self.ranks.rank}: the checkpoint of step {saved.step} was not saved ({saved.fault}); earlier ones are as they "
                "were, and the run goes on to the next",
                flush=True,
            )

    def resume(self, found: Found, state: Path) -> None:
        """Continue from a checkpoint that is known to fit.

        Args:
            state: DeepSpeed's files for this number of ranks.
        """
        self.service.load_state_dict(found.run_state["curriculum"])
        self.take_step.guard.load(found.run_state["spikes"])
        self.engine.load(state, exclude_frozen=bool(self.recipe.model.lora.rank))
        self.step, self.batch_index = found.run_state["step"], found.run_state["batch_index"]
        self.skipped_in_row = found.run_state["skipped_in_row"]
        self._saved_batch = self.batch_index
        if found.run_state.get("best"):
            self.best = Best(**found.run_state["best"])

    def tell(self, reason: str) -> None:
        """How the run ended, to people and to scripts; main rank."""
        steps, why = self.recipe.train.steps, f" ({self.stops.reason})" if self.stops.reason else ""
        write_json(self.folder / OUTCOME, {"reason": reason, "step": self.step, "steps": steps})
        share = 100 * self.recorder.curriculum_share
        print(
            f"{reason} at step {self.step}{why}: {self.folder}; curriculum, service and feedback took {share:.2f} % of the steps",
            flush=True,
        )
        if reason == "stopped":
            print(f"the same command with --resume=auto goes on from step {self.step} of {steps}", flush=True)

    def export(self) -> None:
        """Write the newest checkpoint as a plain transformers folder; main rank."""
        export = export_checkpoint(step_folder(self.folder / "checkpoints", self.step), self.folder / "export")
        print(f"model for transformers, evaluate.py and predict.py: {export}", flush=True)

    def close(self, *, failed: bool = False) -> None:
        """Let go of everything; after an error, without a word to the other ranks."""
        self.loader.close()
        self.recorder.close()
        if failed:
            self.writer.abandon()
        else:
            self.service.close()
        if self.service.log is not None:
            self.service.log.close()
        if self.tracker is not None:
            if not failed and self.step >= self.recipe.train.steps:  # a run that was asked to stop has no time for pictures
                draw_course(self.folder, policy=self.service.policy, stream=self.stream, tracker=self.tracker)
            self.tracker.close("FAILED" if failed else "FINISHED" if self.step >= self.recipe.train.steps else "KILLED")
        if not failed:
            self.engine.close()
        if self.lock is not None:
            self.lock.close()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def check_same_run(recipe: Recipe, folder: Path) -> list[str]:
    """Refuse to continue a checkpoint whose recipe differs where the run would no longer be the run.

    Returns:
        What else differs, as `train.lr=0.0002, was 0.0001`.

    Raises:
        ConfigError: naming the key, both values and the cure.
    """
    now, then = (recipe_params(each.model_dump(mode="json")) for each in (recipe, load_recipe(config=folder / "recipe.yaml")))
    changed = []
    for key in now:
        if now[key] == then[key] or (key.startswith("run.") and key != "run.seed"):
            continue
        if key.startswith(BOUND) and key not in FREE:
            raise ConfigError(
                f"{key}={now[key]}: the checkpoint {folder} was written with {then[key]}: use that, or start another run.name"
            )
        changed.append(f"{key}={now[key]}, was {then[key]}")
    return changed
