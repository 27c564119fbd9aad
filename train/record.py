"""What a run says of itself: a progress bar, a line in metrics.jsonl and MLflow now and then. Rank 0 only.

Every number comes from what rank 0 already knows (the reports of all ranks travel with the curriculum's messages), so logging
adds no collective and no wait of another rank.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medclm.curriculum.course import CourseMaker
from medclm.curriculum.log import describe_in_order, read_log, turns
from medclm.curriculum.pictures import draw_course as draw
from medclm.curriculum.policy import Policy
from medclm.curriculum.service import CurriculumService
from medclm.data.stream import Stream
from medclm.engine import Engine
from medclm.tracking import Tracker
from medclm.types import Stage

MOST_REPLAYED = 5_000_000
"""Samples of a run up to which training draws its curriculum at its end; beyond, a GPU would wait minutes for a picture."""


@dataclass
class Window:
    """Sums since the last log line."""

    began: float = field(default_factory=time.perf_counter)
    tokens_before: int = 0
    target_tokens_before: int = 0
    steps: int = 0
    curriculum_s: float = 0.0
    data_s: float = 0.0
    step_s: float = 0.0
    samples: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """(3,) samples seen per stage."""
    loss: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """(3,) sum of their losses."""
    skipped: int = 0


class Recorder:
    """Collects per step, writes per log line; does nothing on other ranks."""

    def __init__(
        self,
        *,
        service: CurriculumService,
        engine: Engine,
        domains: list[str],
        tracker: Tracker | None,
        total_steps: int,
        first_step: int,
    ) -> None:
        """`tracker` is None on every rank but the main one."""
        self.service, self.engine, self.domains, self.tracker = service, engine, domains, tracker
        self._bar = (
            tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True, mininterval=1.0) if tracker else None
        )
        self._window = Window()
        self._seen_batch = -1
        self.learning_rate = 0.0
        self.curriculum_share = 0.0
        """Curriculum, service and feedback as a fraction of all step time of the run so far."""
        self._total_curriculum_s, self._total_step_s = 0.0, 0.0

    def step(self, *, curriculum_s: float, data_s: float, step_s: float, applied: bool, lr: float) -> None:
        """Count one step; times in seconds."""
        if self.tracker is None:
            return
        window = self._window
        window.steps += 1
        window.curriculum_s += curriculum_s
        window.data_s += data_s
        window.step_s += step_s
        window.skipped += not applied
        self._total_curriculum_s += curriculum_s
        self._total_step_s += step_s
        self.curriculum_share = self._total_curriculum_s / self._total_step_s
        self.learning_rate = lr
        self._see()
        if self._bar is not None and applied:
            self._bar.update()

    def _see(self) -> None:
        """Add the newest observation, once."""
        latest = self.service.latest
        if latest is None or latest.batch_index == self._seen_batch or not np.isfinite(latest.losses).all():
            return
        self._seen_batch = latest.batch_index
        self._window.samples += np.bincount(latest.stages, minlength=3)
        self._window.loss += np.bincount(latest.stages, weights=latest.losses.astype(np.float64), minlength=3)

    def log(self, step: int) -> None:
        """Write everything since the last call under `step`."""
        if self.tracker is None:
            return
        values = self._values()
        self.tracker.log(step, values)
        if self._bar is not None and "train/loss" in values:
            self._bar.set_postfix_str(f"loss {values['train/loss']:.3f}")
        self._window = Window(tokens_before=self.service.totals.tokens, target_tokens_before=self.service.totals.target_tokens)

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        if self.tracker is not None:
            tqdm.write(text)

    def note(self, step: int, values: dict[str, float]) -> None:
        """Write numbers that were taken apart from the steps."""
        if self.tracker is not None:
            self.tracker.log(step, values)

    def _values(self) -> dict[str, float]:
        window, service = self._window, self.service
        seconds, samples = time.perf_counter() - window.began, window.samples.sum()
        values = {
            "train/learning_rate": self.learning_rate,
            "train/gradient_norm": self.engine.gradient_norm(),
            "train/skipped_steps": float(window.skipped),
            "speed/samples_per_s": service.global_batch_size * window.steps / seconds,
            "speed/tokens_per_s": (service.totals.tokens - window.tokens_before) / seconds,
            "speed/target_tokens_per_s": (service.totals.target_tokens - window.target_tokens_before) / seconds,
            "speed/step_s": window.step_s / max(1, window.steps),
            "speed/data_wait_s": window.data_s / max(1, window.steps),
            "speed/curriculum_share": window.curriculum_s / max(window.step_s, 1e-9),
            "memory/peak_bytes": float(service.totals.peak_memory),
            "curriculum/fallbacks": float(service.fallbacks),
            "data/replaced": float(service.replaced),
        }
        if samples:
            values["train/loss"] = float(window.loss.sum() / samples)
        for stage in Stage:
            if samples:
                values[f"stage_share/{stage.key}"] = float(window.samples[stage] / samples)
            if window.samples[stage]:
                values[f"train/loss_{stage.key}"] = float(window.loss[stage] / window.samples[stage])
        values |= {
            f"curriculum/{name}": value
            for name, value in service.policy.report(service.state, service.progress).items()
            if np.isfinite(value)
        }
        for name, per_domain in service.policy.domain_report(service.state).items():
            shown = zip(self.domains, per_domain, strict=True)
            values |= {f"domain/{domain}/{name}": float(value) for domain, value in shown if np.isfinite(value)}
        return values

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def draw_course(folder: Path, *, policy: Policy[Any], stream: Stream, tracker: Tracker) -> None:
    """The whole run's curriculum as pictures in `folder`/pictures and among the artifacts, made of its log.

    Takes 12 to 20 s per million samples, and is left to launch/compare.py beyond `MOST_REPLAYED`. A picture is no reason to lose
    a run: whatever goes wrong is said, and can be done again with the same command.
    """
    command = f"python launch/compare.py --replay {folder} --out {folder / 'pictures'}"
    try:
        log = read_log(folder)
        samples = log.rows["stages"].size
        if samples > MOST_REPLAYED:
            print(f"pictures of the curriculum of {samples:,} samples, more than {MOST_REPLAYED:,}: {command}", flush=True)
            return
        maker = CourseMaker(policy, domains=log.header["domains"], total_steps=log.header["total_steps"], batches=len(log.rows))
        for turn in turns(log, policy, describe_in_order(stream, log.header["global_batch_size"])):
            maker.add(turn)
        for path in draw(maker.course(), folder / "pictures"):
            tracker.artifact(path, "pictures")
    except Exception as error:  # a full disk, no matplotlib, a log that another process touched
        print(f"no pictures of the curriculum ({type(error).__name__}: {error}); to try again: {command}", flush=True)
