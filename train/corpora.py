"""Which corpus a run reads: the given folder, an imported published JSON, or phantoms made on the spot; and its texts."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medclm.config import ConfigError, DataSection, Recipe
from medclm.curriculum.stages import STAGE_RULES
from medclm.data.draw import COLOURS
from medclm.data.frame import ImageFrame
from medclm.data.render import COLOUR, fill_boxes, target_pieces, with_instruction
from medclm.data.schema import MANIFEST
from medclm.data.shards import Corpus
from medclm.types import Box

TOKENIZER_RECORDS = 4000
"""Records whose texts a tiny model's tokenizer learns from."""
MOST_BOXES = 64
"""More than any stored text names."""


def corpus_folder(recipe: Recipe) -> Path:
    """The corpus of `recipe.data`, made first where the recipe asks for phantoms or an import. Call it on one rank first.

    Raises:
        ValueError: the folder is no corpus, or the JSON cannot be imported; names file, field and cure.
    """
    if recipe.data.corpus is not None:
        return recipe.data.corpus
    if recipe.data.train_json is not None:
        return _imported(recipe.data.train_json, recipe)
    return _phantoms(recipe)


def _phantoms(recipe: Recipe) -> Path:
    kinds = recipe.data.phantom_kinds
    out = recipe.run.output_dir / "-".join(["phantoms", str(recipe.data.phantoms), *kinds])
    if not (out / MANIFEST).is_file():
        from medclm.corpus.build import BuildOptions, build
        from medclm.corpus.ids import phantom_ids
        from medclm.corpus.sources.phantoms import PhantomSource
        from medclm.corpus.writers.template import KINDS, TemplateWriter

        try:
            writer = TemplateWriter(kinds=kinds or KINDS)
        except ValueError as error:
            raise ConfigError(f"data.phantom_{error}") from None
        workers = len(os.sched_getaffinity(0))
        build(
            PhantomSource(count=recipe.data.phantoms, seed=0),
            writer,
            out,
            BuildOptions(ids=phantom_ids(0), workers=workers, near_duplicates=False),
        )
    return out


def _imported(json_file: Path, recipe: Recipe) -> Path:
    """The cache of an import is named by the file's content, so a changed file is imported again."""
    if not json_file.is_file():
        raise ConfigError(f"data.train_json={json_file}: no such file")
    digest = hashlib.sha256(json_file.read_bytes()).hexdigest()[:16]
    out = recipe.run.output_dir / f"imported-{digest}"
    if not (out / MANIFEST).is_file():
        from medclm.corpus.exchange.importing import ImportOptions
        from medclm.corpus.exchange.published import import_published
        from medclm.corpus.ids import load_ids

        shutil.rmtree(out, ignore_errors=True)
        import_published([json_file], ImportOptions(out=out, ids=load_ids(None, out), image_root=recipe.data.image_root))
    return out


def training_texts(corpus: Corpus, data: DataSection) -> Iterator[str]:
    """What a model reads and writes in training: questions, rationales and answers of the split, boxes written out."""
    frame, box = ImageFrame(width=100, height=100, side=100, fit=data.fit), Box(0.12, 0.34, 0.56, 0.78)
    colours = itertools.cycle(COLOURS)
    columns = ["question_easy", "rationale_easy", "answer_easy", "question_medium", "rationale_medium", "answer_medium"]
    columns += ["question_hard", "answer_hard"]
    for record in itertools.islice(_records(corpus, data.split, columns), TOKENIZER_RECORDS):
        for stage, rule in STAGE_RULES.items():
            question = record[f"question_{stage.key}"]
            if question:
                yield with_instruction(question.replace(COLOUR, next(colours)[0]), rule.instruction)
                rationale = (
                    fill_boxes(record[f"rationale_{stage.key}"], [box] * MOST_BOXES, frame, data.box_text)
                    if rule.rationale
                    else ""
                )
                yield from (text for text, _ in target_pieces(stage, rationale, record[f"answer_{stage.key}"]))


def _records(corpus: Corpus, split: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for chunk in corpus.scan("records", columns, split=split):
        yield from chunk.to_pylist()
