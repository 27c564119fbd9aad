"""Puts one run together from its recipe: corpus, processor, network, engine, stream, loader, curriculum, tracking.

Order matters under ZeRO-3: the network is built in shards inside `sharded_weights`, the same on every rank. What a run
consists of stands in train/run.py; train/loop.py drives it.
"""

from __future__ import annotations

import fcntl
import functools
import os
import secrets
import shutil
import socket
from pathlib import Path
from typing import IO, Any

from medclm.checkpoint import Found, newest, package_versions, step_folders
from medclm.checkpoint_writer import CheckpointWriter, Retention, remove_leftovers
from medclm.config import ConfigError, Recipe, recipe_yaml
from medclm.curriculum.log import AssignmentLog
from medclm.curriculum.registry import make_policy
from medclm.curriculum.service import CurriculumService
from medclm.data.cache import cached
from medclm.data.loader import Loader
from medclm.data.manifest import write_json
from medclm.data.quarantine import QUARANTINE, Quarantine
from medclm.data.render import Renderer, check_room
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.distributed import ControlPlane, Ranks
from medclm.ds_config import BatchPlan, batch_plan, fill, read_json
from medclm.engine import Engine, connect, find_device, to_universal, wants_bf16
from medclm.models.protocol import Processor
from medclm.models.registry import family
from medclm.tracking import Tracker, recipe_params
from train.corpora import corpus_folder, training_texts
from train.fit import as_written, fit, make_engine
from train.memory_plan import stages_of
from train.record import Recorder
from train.run import OUTCOME, Run, check_same_run
from train.steps import StagedStep
from train.stops import Stops
from train.validate import Examination, MakeExam, Validator


def build_run(
    recipe: Recipe, ds_tree: dict[str, Any], *, ds_name: str, resume: bool, stops: Stops, make_exam: MakeExam | None = None
) -> Run:
    """Connect the ranks and make the run; every rank calls it.

    Args:
        ds_tree: the DeepSpeed JSON as read; `ds_name` names it in messages.
        resume: continue from the newest checkpoint that verifies, if there is one.
        stops: what may want the run to end early.
        make_exam: makes what asks questions in words (`validation.questions`).

    Raises:
        ValueError: something the user can mend, with its key and cure.
        RuntimeError: no checkpoint verifies, another process trains there, or a peer is lost.
    """
    make_policy(recipe.curriculum, domains=1, total_steps=recipe.train.steps)  # a wrong name ends here, before all else
    ranks = Ranks.from_environment()
    device = find_device(ranks.local_rank)
    plan = batch_plan(recipe, ranks.world_size)
    bf16 = wants_bf16(recipe.train, device)
    fill_for = functools.partial(fill, world_size=ranks.world_size, bf16=bf16, accelerator=device.name != "cpu", where=ds_name)
    stages = stages_of(ds_tree) if recipe.engine.memory == "auto" else ()
    ds_config = fill_for(ds_tree, recipe, zero_stage=max(stages, default=None))
    folder = recipe.run.output_dir / recipe.run.name
    if not resume and step_folders(folder / "checkpoints"):
        raise ConfigError(
            f"{folder}: holds checkpoints of an earlier run: give --resume=auto to continue it, or another run.name"
        )
    connect(recipe.engine, device)
    plane = ControlPlane(ranks, timeout_s=recipe.engine.timeout_s, knob="engine.timeout_s")
    lock = plane.main_only(functools.partial(_take_folder, folder), what=f"{folder} for this run alone")
    found = newest(folder / "checkpoints", plane) if resume else None
    if found is not None:
        ds_tree = as_written(ds_tree, found.folder, same_ranks=found.world_size == ranks.world_size)
        stages = stages_of(ds_tree) if stages else ()
        ds_config = fill_for(ds_tree, recipe)
    state = _resumable(found, recipe, ds_config, plane) if found is not None else None
    attempt = plane.from_main(lambda: secrets.token_hex(4), what="the name of this attempt")

    source = plane.main_first(lambda: corpus_folder(recipe), what="the corpus")
    if recipe.data.cache is not None:
        source = cached(source, recipe.data.cache, timeout_s=recipe.engine.timeout_s)
    corpus = Corpus(source)
    if recipe.data.verify:
        plane.from_main(corpus.verify, what="the check of the corpus (data.verify)")
    processor = plane.main_first(lambda: _processor(recipe, corpus, folder), what="the processor")
    check_room(processor.image_tokens, recipe.data)
    stream = Stream(
        corpus=corpus,
        split=recipe.data.split,
        seed=recipe.run.seed,
        window=recipe.data.shuffle_window,
        min_side=recipe.data.min_side,
        image_size=processor.image_size,
        fit=recipe.data.fit,
    )
    if found is not None:
        stream.check_state(found.run_state["stream"])
    if ranks.is_main:
        _print_left_out(stream, recipe.data.min_side)
    if recipe.engine.memory == "auto":
        fitted = fit(recipe, ds_tree, stages, processor, plane=plane, device=device, bf16=bf16, fill_for=fill_for)
        recipe, engine, plan = fitted.recipe, fitted.engine, batch_plan(fitted.recipe, ranks.world_size)
        ds_config = {**fitted.ds_config, **{key: ds_config[key] for key in ("checkpoint",) if key in ds_config}}
    else:
        engine = make_engine(recipe, ds_config, processor, device=device, bf16=bf16)
    network = engine.fingerprint()
    if found is not None:
        _check_network(network, found, recipe)

    if ranks.is_main:  # nothing is refused from here on, so what an earlier attempt left may be written over
        (folder / OUTCOME).unlink(missing_ok=True)
        (folder / "recipe.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
    service = _service(recipe, plan, stream, corpus, ranks, folder)
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
        pin_for=device.name if device.name != "cpu" else None,
        quarantine=Quarantine(renderer, stream, folder / QUARANTINE) if recipe.data.on_bad_record == "quarantine" else None,
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
    writer = CheckpointWriter(
        folder / "checkpoints",
        ranks,
        attempt=attempt,
        retention=Retention(last=recipe.train.keep_checkpoints, every=recipe.train.keep_every),
        background=recipe.train.save_in_background,
        # rank 0 may be waiting in this when the other ranks are at the next exchange already: it must give up first
        timeout_s=min(recipe.engine.timeout_s, recipe.curriculum.timeout_s) / 2,
    )
    run = Run(
        recipe=recipe,
        ds_config=ds_config,
        ranks=ranks,
        folder=folder,
        lock=lock,
        engine=engine,
        stream=stream,
        loader=loader,
        service=service,
        take_step=take_step,
        recorder=recorder,
        tracker=tracker,
        validator=validator,
        exam=exam,
        writer=writer,
        stops=stops,
        network=network,
    )
    if found is not None:
        assert state is not None
        run.resume(found, state)
    return run


def _take_folder(folder: Path) -> IO[str]:
    """The run folder, made, locked against another process, and rid of what a dead attempt left; on the main rank.

    Raises:
        RuntimeError: another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "run.lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise RuntimeError(
            f"{folder}: {lock.read().strip() or 'another process'} is training there: wait for its end, or give another run.name"
        ) from error
    except OSError as error:
        raise RuntimeError(
            f"{folder}: its file system has no locks ({error.strerror}), so two runs could write there at once: mount it with locks "
            "(Lustre: -o flock), or give another run.output_dir"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    remove_leftovers(folder / "checkpoints")
    return lock


def _resumable(found: Found, recipe: Recipe, ds_config: dict[str, Any], plane: ControlPlane) -> Path:
    """DeepSpeed's files of `found` for this number of ranks; another number of ranks gets them converted, once.

    Raises:
        ConfigError: the checkpoint is of another run or memory layout, naming the key.
    """
    ranks = plane.ranks
    changed = check_same_run(recipe, found.folder)
    stage, then = (
        ds_config["zero_optimization"]["stage"],
        read_json(found.folder / "ds_config.json")["zero_optimization"]["stage"],
    )
    if stage != then:
        raise ConfigError(
            f"--deepspeed: zero_optimization.stage={stage}: the checkpoint {found.folder} was written with {then}: use that, or export "
            "it and begin another run from the export (model.path)"
        )
    told = [f"passed over {refused}" for refused in found.refused]
    told += [f"from {found.folder}", *changed]
    if found.world_size != ranks.world_size:
        told.append(f"written by {found.world_size} rank(s), this run has {ranks.world_size}")
    if ranks.is_main:
        print("\n".join(f"resume: {line}" for line in told), flush=True)
    if found.world_size == ranks.world_size:
        return found.folder / "deepspeed"
    ds_config["checkpoint"] = {**ds_config.get("checkpoint", {}), "load_universal": True}
    return plane.from_main(lambda: _universal(found.folder), what=f"the files of {found.folder.name} for any number of ranks")


def _check_network(network: dict[str, str], found: Found, recipe: Recipe) -> None:
    theirs = found.run_state["network"]
    for part, what in (("network", "layers of other names or sizes"), ("frozen", "other frozen weights, or another precision")):
        if network[part] != theirs[part]:
            raise ConfigError(
                f"model.path={recipe.model.path}: has {what} than the checkpoint {found.folder} was trained on: give the same base and "
                "train.precision, or start another run.name"
            )


def _universal(step: Path) -> Path:
    """What DeepSpeed loads on any number of ranks, made of a step folder once."""
    made = step / "universal"
    if not made.is_dir():
        temporary = step / ".universal.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        to_universal(step / "deepspeed", temporary)
        os.replace(temporary, made)
    return made


def _processor(recipe: Recipe, corpus: Corpus, folder: Path) -> Processor:
    """The run's processor; made once (a tiny model's tokenizer learns from the training texts) and then read back."""
    models, kept = family(recipe.model.family), folder / "processor"
    if not (kept / "complete").is_file():
        texts = list(training_texts(corpus, recipe.data)) if recipe.model.path == "tiny" else []
        models.processor(recipe.model, texts).save(kept)
        (kept / "complete").touch()
    return models.processor(recipe.model.model_copy(update={"path": str(kept)}))


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
        quarantine_limit=recipe.data.quarantine_limit,
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
    tracker.start(
        recipe.run.name,
        recipe_params(recipe.model_dump(mode="json")),
        package_versions(),
        run_id=found.run_state["tracking_run"] if found else None,
        resumed=found is not None,
    )
    for name in ("recipe.yaml", "ds_config.json", "versions.json"):
        tracker.artifact(folder / name)
    return tracker
