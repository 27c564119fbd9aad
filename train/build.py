"""Puts one run together from its recipe: corpus, processor, network, engine, stream, loader, curriculum, tracking.

Order matters under ZeRO-3: the network is built in shards inside `sharded_weights`, the same on every rank. What a run
consists of stands in `Run`; train/loop.py drives it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import resource
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from medclm.checkpoint import Found, export_checkpoint, newest, package_versions, save_checkpoint
from medclm.config import ConfigError, Recipe, load_recipe, recipe_yaml
from medclm.curriculum.log import AssignmentLog
from medclm.curriculum.registry import make_policy
from medclm.curriculum.service import CurriculumService, Report
from medclm.data.loader import Loader
from medclm.data.manifest import write_json
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.distributed import ControlPlane, Ranks
from medclm.ds_config import BatchPlan, batch_plan, fill
from medclm.engine import Device, Engine, connect, find_device, sharded_weights, wants_bf16
from medclm.models.protocol import Processor
from medclm.models.registry import family
from medclm.tracking import Tracker
from medclm.types import LossWeights
from train.corpora import corpus_folder, training_texts
from train.record import Recorder, draw_course
from train.steps import StagedStep, StepResult
from train.validate import Examination, MakeExam, Validator


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
    engine: Engine
    stream: Stream
    loader: Loader
    service: CurriculumService
    take_step: StagedStep
    recorder: Recorder
    tracker: Tracker | None
    validator: Validator | None
    exam: Examination | None
    step: int = 0
    """Applied updates: schedule, budgets and checkpoint names count these."""
    batch_index: int = 0
    """Consumed global batches: order, draws and messages count these. A skipped batch is consumed, never retried."""
    skipped_in_row: int = 0
    best: Best | None = None
    _saved_step: int = -1
    _validated_step: int = -1
    _signals: list[int] = field(default_factory=list)

    def count(self, *, applied: bool) -> None:
        """Advance the counters after a batch.

        Raises:
            RuntimeError: `train.max_skipped_in_row` batches in a row were not finite.
        """
        self.batch_index += 1
        self.step += applied
        self.skipped_in_row = 0 if applied else self.skipped_in_row + 1
        if self.skipped_in_row >= self.recipe.train.max_skipped_in_row:
            raise RuntimeError(
                f"rank {self.ranks.rank}: {self.skipped_in_row} steps in a row had a gradient that is not finite (last: batch "
                f"{self.batch_index - 1}, step {self.step}): lower train.lr or train.clip, or look at that batch's records; "
                f"train.max_skipped_in_row={self.recipe.train.max_skipped_in_row} allows more"
            )

    def report(self, result: StepResult) -> None:
        """Hand this rank's losses, flags and counts to the curriculum."""
        if self.engine.device.name == "cpu":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        else:
            peak = torch.cuda.max_memory_allocated()
        self.service.report(
            Report(
                batch_index=self.batch_index,
                losses=result.sample_losses,
                applied=result.applied,
                stop_wanted=bool(self._signals),
                tokens=result.tokens,
                target_tokens=result.target_tokens,
                peak_memory=peak,
            )
        )

    def due_to_log(self) -> bool:
        return self.step % self.recipe.train.log_every == 0 or self.step == self.recipe.train.steps

    def due_to_validate(self) -> bool:
        every = self.recipe.validation.every
        due = every > 0 and (self.step % every == 0 or self.step == self.recipe.train.steps)
        return due and self.step != self._validated_step  # a skipped batch leaves the step where it was

    def validate(self) -> None:
        """Judge the fixed subset, note its losses, and keep this checkpoint if it is the best; every rank calls it."""
        assert self.validator is not None
        self._validated_step = self.step
        values = self.validator()
        if self.exam is not None:
            values |= self.exam()
        self.recorder.note(self.step, values)
        if not (name := self.recipe.validation.best):
            return
        if name not in values:
            raise ConfigError(f"validation.best={name}: no such score: choose one of {', '.join(values)}")
        sign = 1 if "loss" in name else -1
        if self.best is None or sign * values[name] < sign * self.best.value:
            self.best = Best(step=self.step, score=name, value=values[name])
            self.save()

    def due_to_save(self) -> bool:
        every = self.recipe.train.checkpoint_every
        return every > 0 and self.step % every == 0

    def save(self) -> Path | None:
        """Write the checkpoint of this step, once; every rank calls it."""
        if self.step == self._saved_step:
            return None
        self._saved_step = self.step
        run_state = {
            "step": self.step,
            "batch_index": self.batch_index,
            "skipped_in_row": self.skipped_in_row,
            "stream": self.stream.state(),
            "curriculum": self.service.state_dict(),
            "tracking_run": self.tracker.run_id if self.tracker else None,
            "best": asdict(self.best) if self.best else None,
        }
        return save_checkpoint(
            self.folder / "checkpoints",
            step=self.step,
            engine=self.engine,
            run_state=run_state,
            recipe=self.recipe,
            ds_config=self.ds_config,
            ranks=self.ranks,
            keep=self.recipe.train.keep_checkpoints,
            best=self.best.step if self.best else None,
        )

    def resume(self, found: Found) -> None:
        """Continue from a checkpoint of the same number of ranks.

        Raises:
            ValueError: a checkpoint of another model, corpus, seed, policy or world size, naming the key.
        """
        if found.world_size != self.ranks.world_size:
            raise ValueError(
                f"{found.folder}: written by {found.world_size} ranks, this run has {self.ranks.world_size}: start {found.world_size}"
            )
        _check_same_run(self.recipe, found.folder)
        self.stream.check_state(found.run_state["stream"])
        self.service.load_state_dict(found.run_state["curriculum"])
        self.engine.load(found.folder / "deepspeed", exclude_frozen=bool(self.recipe.model.lora.rank))
        self.step, self.batch_index = found.run_state["step"], found.run_state["batch_index"]
        self.skipped_in_row, self._saved_step = found.run_state["skipped_in_row"], found.run_state["step"]
        if found.run_state.get("best"):
            self.best = Best(**found.run_state["best"])

    def export(self) -> Path | None:
        """The newest checkpoint as a plain transformers folder, on the main rank."""
        if not self.ranks.is_main:
            return None
        found = newest(self.folder / "checkpoints")
        assert found is not None
        return export_checkpoint(found.folder, self.folder / "export")

    def catch_signals(self) -> None:
        """SIGTERM, SIGUSR1 and SIGINT ask for a stop; it takes effect on all ranks after the same step."""

        def ask(number: int, frame: FrameType | None) -> None:
            self._signals.append(number)

        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, ask)

    def close(self) -> None:
        self.loader.close()
        self.recorder.close()
        self.service.close()
        if self.service.log is not None:
            self.service.log.close()
        if self.tracker is not None:
            if self.step >= self.recipe.train.steps:  # a run that was asked to stop has no time for pictures
                draw_course(self.folder, policy=self.service.policy, stream=self.stream, tracker=self.tracker)
            self.tracker.close()
        self.engine.close()


def build_run(recipe: Recipe, ds_tree: dict[str, Any], *, ds_name: str, resume: bool, make_exam: MakeExam | None = None) -> Run:
    """Connect the ranks and make the run; every rank calls it.

    Args:
        ds_tree: the DeepSpeed JSON as read; `ds_name` names it in messages.
        resume: continue from the newest checkpoint that verifies, if there is one.
        make_exam: makes what asks questions in words (`validation.questions`).

    Raises:
        ValueError: something the user can mend, with its key and cure.
    """
    make_policy(recipe.curriculum, domains=1, total_steps=recipe.train.steps)  # a wrong name ends here, before all else
    ranks = Ranks.from_environment()
    device = find_device(ranks.local_rank)
    plan = batch_plan(recipe, ranks.world_size)
    bf16 = wants_bf16(recipe.train, device)
    ds_config = fill(ds_tree, recipe, world_size=ranks.world_size, bf16=bf16, accelerator=device.name != "cpu", where=ds_name)
    folder = recipe.run.output_dir / recipe.run.name
    found = _prepare_folder(folder, recipe, ranks, resume=resume)
    connect(recipe.engine, device)

    corpus = Corpus(on_main_first(ranks, lambda: corpus_folder(recipe)))
    if recipe.data.verify and ranks.is_main:
        corpus.verify()
    processor = on_main_first(ranks, lambda: _processor(recipe, corpus, folder))
    stream = Stream(
        corpus=corpus,
        split=recipe.data.split,
        seed=recipe.run.seed,
        window=recipe.data.shuffle_window,
        min_side=recipe.data.min_side,
        image_size=processor.image_size,
        fit=recipe.data.fit,
    )
    if ranks.is_main:
        _print_left_out(stream, recipe.data.min_side)
    service = _service(recipe, plan, stream, corpus, ranks, folder)
    engine = _engine(recipe, ds_config, processor, device=device, bf16=bf16)
    tracker = _tracker(recipe, ds_config, folder, found) if ranks.is_main else None
    renderer = Renderer(corpus=corpus, processor=processor, data=recipe.data, seed=recipe.run.seed)
    loader = Loader(
        renderer=renderer,
        stream=stream,
        global_batch_size=plan.global_batch_size,
        micro_batch_size=plan.micro_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        workers=recipe.data.workers,
    )
    first_step = found.run_state["step"] if found else 0
    recorder = Recorder(
        service=service,
        engine=engine,
        domains=corpus.domains,
        tracker=tracker,
        total_steps=recipe.train.steps,
        first_step=first_step,
    )
    take_step = StagedStep(engine, recipe.train, ranks, recipe.run.seed)
    validator = _validator(recipe, plan, corpus, processor, engine, renderer, ranks) if recipe.validation.every else None
    exam = _exam(recipe, corpus, processor, engine, ranks, make_exam) if recipe.validation.every else None
    run = Run(recipe, ds_config, ranks, folder, engine, stream, loader, service, take_step, recorder, tracker, validator, exam)
    if found is not None:
        run.resume(found)
    return run


def _check_same_run(recipe: Recipe, folder: Path) -> None:
    """Refuse to continue a checkpoint whose recipe differs where the run would no longer be the run."""
    now, then = flat(recipe), flat(load_recipe(config=folder / "recipe.yaml"))
    free = ("data.workers", "data.verify", "curriculum.timeout_s", "model.attention")
    for key in now:
        bound = key.startswith(("model.", "data.", "curriculum.", "run.seed")) or key in (
            "train.global_batch_size",
            "train.steps",
        )
        if bound and key not in free and now[key] != then[key]:
            raise ConfigError(
                f"{key}={now[key]}: the checkpoint {folder} was written with {then[key]}: use that, or start another run.name"
            )


def on_main_first(ranks: Ranks, make: Any) -> Any:
    """`make()` on the main rank, then on the others, which find its files in place."""
    if ranks.world_size == 1:
        return make()
    made = make() if ranks.is_main else None
    dist.barrier()
    return made if ranks.is_main else make()


def _prepare_folder(folder: Path, recipe: Recipe, ranks: Ranks, *, resume: bool) -> Found | None:
    found = newest(folder / "checkpoints") if resume else None
    if not resume and (folder / "checkpoints").is_dir() and any((folder / "checkpoints").glob("step_*")):
        raise ConfigError(
            f"{folder}: holds checkpoints of an earlier run: give --resume=auto to continue it, or another run.name"
        )
    if ranks.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
        for refused in found.refused if found else ():
            print(f"resume: passed over {refused}", flush=True)
    return found


def _processor(recipe: Recipe, corpus: Corpus, folder: Path) -> Processor:
    """The run's processor; made once (a tiny model's tokenizer learns from the training texts) and then read back."""
    models, kept = family(recipe.model.family), folder / "processor"
    if not (kept / "complete").is_file():
        texts = list(training_texts(corpus, recipe.data)) if recipe.model.path == "tiny" else []
        models.processor(recipe.model, texts).save(kept)
        (kept / "complete").touch()
    return models.processor(recipe.model.model_copy(update={"path": str(kept)}))


def _engine(recipe: Recipe, ds_config: dict[str, Any], processor: Processor, *, device: Device, bf16: bool) -> Engine:
    models, section = family(recipe.model.family), recipe.train
    dtype = torch.bfloat16 if bf16 else torch.float32
    shard = ds_config["zero_optimization"]["stage"] == 3
    with sharded_weights(ds_config) if shard else contextlib.nullcontext():
        network = models.build(recipe.model, processor, dtype, recipe.run.seed)
    if recipe.engine.activation_checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    weights = LossWeights(answer=section.answer_weight, rationale=section.rationale_weight, hard=section.hard_weight)
    return Engine(models.objective(network, weights), recipe, ds_config, device)


def _service(recipe: Recipe, plan: BatchPlan, stream: Stream, corpus: Corpus, ranks: Ranks, folder: Path) -> CurriculumService:
    epoch_steps = len(stream.order) / plan.global_batch_size
    section = recipe.curriculum.in_fractions(total_steps=recipe.train.steps, epoch_steps=epoch_steps)
    header = {
        "global_batch_size": plan.global_batch_size,
        "lookahead": recipe.curriculum.lookahead,
        "seed": recipe.run.seed,
        "total_steps": recipe.train.steps,
        "curriculum": section.model_dump(mode="json"),
        "domains": corpus.domains,
        "stream": stream.state(),
    }
    return CurriculumService(
        policy=make_policy(section, domains=len(corpus.domains), total_steps=recipe.train.steps),
        describe=functools.partial(stream.describe, global_batch_size=plan.global_batch_size),
        ranks=ranks,
        plane=ControlPlane(ranks, timeout_s=recipe.curriculum.timeout_s),
        global_batch_size=plan.global_batch_size,
        micro_batch_size=plan.micro_batch_size,
        lookahead=recipe.curriculum.lookahead,
        total_steps=recipe.train.steps,
        seed=recipe.run.seed,
        log=AssignmentLog(folder, header) if ranks.is_main else None,
    )


def _validator(
    recipe: Recipe,
    plan: BatchPlan,
    corpus: Corpus,
    processor: Processor,
    engine: Engine,
    renderer: Renderer,
    ranks: Ranks,
) -> Validator:
    section = recipe.validation
    if not corpus.record_files(section.split):
        raise ConfigError(
            f"validation.split={section.split}: the corpus has no record there: choose another, or validation.every=0"
        )
    stream = Stream(
        corpus=corpus,
        split=section.split,
        seed=0,
        window=recipe.data.shuffle_window,
        min_side=recipe.data.min_side,
        image_size=processor.image_size,
        fit=recipe.data.fit,
    )
    return Validator(
        engine,
        renderer,
        stream,
        samples=section.samples,
        micro_batch_size=plan.micro_batch_size,
        ranks=ranks,
        workers=recipe.data.workers,
    )


def _exam(
    recipe: Recipe, corpus: Corpus, processor: Processor, engine: Engine, ranks: Ranks, make_exam: MakeExam | None
) -> Examination | None:
    if recipe.validation.questions == 0 or make_exam is None:
        return None
    ask = make_exam(recipe, corpus) if ranks.is_main else None
    return Examination(engine, recipe, processor, ask=ask, ranks=ranks)


def _print_left_out(stream: Stream, min_side: float) -> None:
    for what, counts in (("records left out", stream.dropped), ("Hard stages withheld", stream.hard_withheld)):
        if counts:
            by_class = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
            print(f"data.min_side={min_side:g}: {sum(counts.values())} {what} for boxes too small ({by_class})", flush=True)


def _tracker(recipe: Recipe, ds_config: dict[str, Any], folder: Path, found: Found | None) -> Tracker:
    write_json(folder / "ds_config.json", ds_config)
    write_json(folder / "versions.json", package_versions())
    tracker = Tracker(folder, recipe.tracking, recipe.run.output_dir)
    tracker.start(recipe.run.name, flat(recipe), package_versions(), run_id=found.run_state["tracking_run"] if found else None)
    for name in ("recipe.yaml", "ds_config.json", "versions.json"):
        tracker.artifact(folder / name)
    return tracker


def flat(recipe: Recipe) -> dict[str, str]:
    """The recipe as dotted keys and texts, for MLflow parameters."""

    def leaves(tree: Any, prefix: str) -> dict[str, str]:
        if isinstance(tree, dict):
            return {key: text for name, value in tree.items() for key, text in leaves(value, f"{prefix}.{name}").items()}
        return {prefix[1:]: tree if isinstance(tree, str) else json.dumps(tree)}

    return leaves(recipe.model_dump(mode="json"), "")
