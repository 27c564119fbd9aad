"""What all sides share, made once: corpus, weights as a transformers folder, recipe, and which sample is read when at which stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

from benchmarks.peers.rendering import renderer_of
from benchmarks.peers.shapes import PUBLISHED_VOCABULARY, Shape
from medclm.config import Recipe, TinySection, load_recipe, recipe_yaml
from medclm.curriculum.policy import decide
from medclm.curriculum.registry import make_policy
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.models.tiny import IMAGE, tiny_config, tiny_transformers_processor
from medclm.models.vip_llava import VipLlavaFamily, VipLlavaProcessor
from medclm.models.weights import seeded
from medclm.types import Segment, Stage
from train.corpora import corpus_folder, training_texts
from train.main import DEMO

PHANTOMS = 1000


@dataclass(frozen=True)
class Prepared:
    """Files for the jobs, and what they hold."""

    recipe: Path
    plan: Path
    global_batch_size: int
    tokens: np.ndarray
    """(steps,) int64, real tokens of each global batch, image tokens included."""
    targets: np.ndarray
    """(steps,) int64, supervised tokens of each global batch."""
    stages: np.ndarray
    """(3,) int64, samples per stage."""
    parameters: int


def prepare(
    shape: Shape, work: Path, *, steps: int, layers: int = 0, phantoms: int = PHANTOMS, flags: Sequence[str] = ()
) -> Prepared:
    """Make it all in `work`.

    Args:
        steps: length of every run.
        layers: of the language model, where fewer than the shape's are wanted (0 = as it is).
        phantoms: images of the corpus.
        flags: recipe flags over the shape's; a repeated one is refused.
    """
    own = [f"--model.tiny.{key}={value}" for key, value in shape.tiny.items()]
    first = load_recipe(
        [
            *own,
            *shape.flags,
            f"--run.output_dir={work}",
            f"--data.phantoms={phantoms}",
            f"--train.steps={steps}",
            # all stages from the first step on, drawn from seed and position alone: known before anybody trains
            "--curriculum.policy=mixture",
            "--train.normalization=token",
            "--train.spike_sigma=0",  # a batch that only one side leaves out would end the comparison
            "--train.checkpoint_every=0",
            "--train.export=false",
            "--tracking.uri=off",
            *flags,
        ],
        config=DEMO,
    )
    folder = corpus_folder(first)
    weights, parameters = _write_weights(shape, first, Corpus(folder), work / "weights", layers)
    data = first.data.model_copy(update={"corpus": folder})
    recipe = first.model_copy(update={"data": data, "model": first.model.model_copy(update={"path": str(weights)})})
    (work / "recipe.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
    renderer, total = renderer_of(recipe), recipe.train.global_batch_size
    plan = make_plan(recipe, renderer)
    np.save(work / "plan.npy", plan)
    tokens, targets = _count(plan, renderer).reshape(steps, total, 2).sum(axis=1).T
    return Prepared(
        recipe=work / "recipe.yaml",
        plan=work / "plan.npy",
        global_batch_size=total,
        tokens=tokens,
        targets=targets,
        stages=np.bincount(plan[:, 2], minlength=3),
        parameters=parameters,
    )


def make_plan(recipe: Recipe, renderer: Renderer) -> np.ndarray:
    """(steps * G, 3) int64: record row, position and stage of every sample that our loop will read, for a policy without state."""
    stream = Stream(
        corpus=renderer.corpus,
        split=recipe.data.split,
        seed=recipe.run.seed,
        window=recipe.data.shuffle_window,
        min_side=recipe.data.min_side,
        image_size=renderer.processor.image_size,
        fit=recipe.data.fit,
    )
    steps, total = recipe.train.steps, recipe.train.global_batch_size
    policy = make_policy(recipe.curriculum, domains=len(renderer.corpus.domains), total_steps=steps)
    parts = []
    for index in range(steps):
        batch = stream.describe(index, total)
        stages, _ = decide(policy, policy.initial(), batch, progress=index / steps, seed=recipe.run.seed)
        parts.append(np.stack([batch.record_rows, batch.positions, stages.astype(np.int64)], axis=1))
    return np.concatenate(parts)


def _count(plan: np.ndarray, renderer: Renderer) -> np.ndarray:
    """(n, 2) int64: real tokens and supervised tokens of every planned sample."""
    counts = []
    for row, position, stage in plan.tolist():
        segments = renderer.render(row, position, Stage(stage))[1].segments
        counts.append((len(segments), int((segments != Segment.CONTEXT).sum())))
    return np.array(counts, dtype=np.int64)


def _write_weights(shape: Shape, recipe: Recipe, corpus: Corpus, folder: Path, layers: int) -> tuple[Path, int]:
    """Random weights and their processor as a plain transformers folder; also the number of parameters."""
    section = recipe.model.tiny
    processor = VipLlavaProcessor(tiny_transformers_processor(section, training_texts(corpus, recipe.data)))
    config = _published_config(processor) if shape.published else _tiny_config(section, processor, shape.vocabulary)
    if layers:
        config.text_config.num_hidden_layers = layers
    dtype = torch.bfloat16 if shape.published else torch.float32
    with seeded(recipe.run.seed, "benchmark.weights"):
        network = VipLlavaForConditionalGeneration._from_config(config, dtype=dtype)
    if not shape.published:
        VipLlavaFamily().spread_positions(network)
    VipLlavaFamily().export(network, processor, folder, dict(network.state_dict()))
    return folder, sum(parameter.numel() for parameter in network.parameters())


def _tiny_config(section: TinySection, processor: VipLlavaProcessor, vocabulary: int) -> VipLlavaConfig:
    config: VipLlavaConfig = tiny_config(section, processor.tokenizer)
    config.text_config.vocab_size = max(vocabulary, config.text_config.vocab_size)
    return config


def _published_config(processor: VipLlavaProcessor) -> VipLlavaConfig:
    """The 7B layout, but for the tokenizer: the phantoms' own, whose image token lies elsewhere."""
    config = VipLlavaConfig(image_token_index=processor.tokenizer.convert_tokens_to_ids(IMAGE))
    config.text_config.vocab_size = PUBLISHED_VOCABULARY
    return config
