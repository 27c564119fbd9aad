"""Our side: train/main.py as its command line runs it, followed from outside.

Two things are done to the loop that it does not do by itself. Steps are timed. And the loss weights are set before every forward so
that `normalization: token` is what the peers optimise, the mean over all target tokens: with N_a answer and N_r rationale tokens in the
global batch our loss is w_a S_a / N_a + w_r S_r / N_r, so w_a = N_a / (N_a + N_r) and w_r = N_r / (N_a + N_r).
"""

from __future__ import annotations

import functools
import sys

from benchmarks.peers.job import Job
from benchmarks.peers.meter import Meter, Spans
from medclm.config import load_recipe
from medclm.curriculum.service import CurriculumService
from medclm.data.loader import Loader
from medclm.distributed import Ranks
from medclm.ds_config import batch_plan
from medclm.engine import Engine
from medclm.models.objective import Losses, TokenCounts
from medclm.types import Batch, LossWeights
from train.main import main as train_main
from train.record import Recorder
from train.run import Run
from train.steps import StagedStep


def follow(meter: Meter) -> None:
    """Tell `meter` of every step and loss of the run that this process is about to make."""
    forward, recorded = Engine.forward, Recorder.step

    @functools.wraps(forward)
    def weighted(engine: Engine, batch: Batch, counts: TokenCounts | None = None) -> Losses:
        assert counts is not None
        answer = counts.answer / (counts.answer + counts.rationale)
        engine.module.weights = LossWeights(answer=answer, rationale=1 - answer, hard=answer)
        losses = forward(engine, batch, counts)
        # one rank's part of the global mean, times the micro-batches of the global batch: divided by this rank's own, like a peer's
        meter.loss(losses.loss / meter.micro_batches)
        return losses

    @functools.wraps(recorded)
    def counted(recorder: Recorder, *, curriculum_s: float, data_s: float, step_s: float, applied: bool, lr: float) -> None:
        recorded(recorder, curriculum_s=curriculum_s, data_s=data_s, step_s=step_s, applied=applied, lr=lr)
        if not applied:
            raise RuntimeError("a step was skipped: the sides no longer do the same work")
        meter.step()

    Engine.forward, Recorder.step = weighted, counted  # type: ignore[method-assign]


def wrap_parts(spans: Spans) -> None:
    """Our own parts of a step; where they contain a collective or a forward, that is taken away from them."""
    for owner, name, part in (
        (Loader, "submit", "data wait"),
        (Loader, "take", "data wait"),
        (CurriculumService, "exchange", "curriculum"),
        (CurriculumService, "report", "curriculum"),
        (Recorder, "step", "logging"),
        (Run, "log", "logging"),
        (StagedStep, "__call__", "the step's rest"),
    ):
        spans.wrap(owner, name, part)


def main() -> int:
    job = Job.read(sys.argv[1])
    recipe, ranks = load_recipe(config=job.recipe), Ranks.from_environment()
    accumulation = batch_plan(recipe, ranks.world_size).accumulation
    meter = Meter(job, rank=ranks.rank, steps=recipe.train.steps, micro_batches=accumulation)
    follow(meter)
    if meter.spans is not None:
        wrap_parts(meter.spans)
        meter.spans.wrap_training()
    flags = [f"--run.output_dir={job.folder}", f"--run.name={job.name}"]
    return train_main(["--deepspeed", str(job.ds_config), "--config", str(job.recipe), *flags])


if __name__ == "__main__":
    sys.exit(main())
