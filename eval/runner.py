"""One evaluation: ask the model every question once, judge the answers by each suite, and leave results a person can check.

    OUT/SUITE-SPLIT/{results.json, predictions.jsonl, settings.json, report.html, overlays/*.png}

A killed evaluation goes on where it stopped: predictions are appended as they come, and settings.json refuses to mix those
of another checkpoint or other settings. Knows no score by name.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from eval.model import OpenModel, fingerprint, open_checkpoint, read_prediction
from eval.overlay import overlay
from eval.report import Shown, write_report
from eval.suite import Example, Prediction, Suite, Values, load_pool, summarise
from eval.suites.grounding import GroundingSuite
from eval.suites.vqa import VqaSuite
from medclm.data.manifest import sha256_file, write_json
from medclm.data.render import with_instruction
from medclm.data.schema import MANIFEST
from medclm.data.shards import Corpus
from medclm.draws import generator
from medclm.tracking import Tracker
from medclm.types import Box

SUITES: dict[str, type[VqaSuite] | type[GroundingSuite]] = {"vqa": VqaSuite, "grounding": GroundingSuite}
OVERLAYS = 24
"""Pictures drawn per suite."""
_WRONG_REASON = 12
_TRACKED_PICTURES = 6
_CHUNK_BATCHES = 4
"""Batches between two writes of predictions.jsonl: what a killed evaluation loses at most."""


def evaluate(
    checkpoint: Path,
    suites: Sequence[str],
    data: Path,
    out: Path,
    *,
    split: str = "test",
    limit: int | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 16,
    instruction: str = "reason",
    seed: int = 0,
    blank: bool = False,
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """Judge a checkpoint on stored questions, asked at the Medium stage (no box drawn), greedily.

    Args:
        checkpoint: run folder, step folder or export.
        suites: names in `SUITES`.
        data: corpus folder.
        out: gets one folder per suite.
        split: split that is asked.
        limit: at most so many examples a suite, drawn by `seed`; None = all.
        max_new_tokens: longest completion.
        batch_size: questions decoded together; changes speed only.
        instruction: `reason` or `direct`, how each question ends.
        seed: of the draw of `limit` and of the bootstrap.
        blank: show a grey picture instead of each image: a floor of the trained model itself, kept apart as SUITE-SPLIT-blank.
        overwrite: throw away what `out` holds of another checkpoint or other settings.

    Returns:
        suite -> what its results.json holds.

    Raises:
        ValueError: unknown suite, empty split, or `out` holds another evaluation; names the cure.
    """
    unknown = [name for name in suites if name not in SUITES]
    if unknown or not suites:
        raise ValueError(f"--suites {','.join(suites)}: choose from {', '.join(SUITES)}")
    with_instruction("", instruction)  # refuses an unknown mode before anything is loaded
    if limit is not None and limit < 1:
        raise ValueError(f"--limit {limit}: give at least 1, or leave it out for all examples")
    corpus = Corpus(data)
    if corpus.count("records", split) == 0:
        raise ValueError(f"{data}: split {split!r} has no records: choose another with --split or build one")
    model, folder = open_checkpoint(checkpoint)
    settings = {
        "weights": fingerprint(folder),
        "corpus": sha256_file(data / MANIFEST),
        "split": split,
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "instruction": instruction,
        "stage": "medium",
        "decoding": "greedy",
        "blank_image": blank,
        "fit": model.fit,
        "box_text": model.box_text.model_dump(mode="json"),
        "seed": seed,
    }
    pool = load_pool(corpus, split, model.square)
    sittings = []
    for name in suites:
        suite: Suite = SUITES[name](pool)
        suite.examples = _limited(suite.examples, limit, seed)
        place = result_folder(out, name, split, blank=blank)
        sittings.append(_Sitting(suite, place, model, _reopen(place, settings, overwrite=overwrite)))
    _ask(model, corpus, sittings, settings, batch_size=batch_size)
    results = {}
    for sitting in sittings:
        results[sitting.suite.name] = _finish(sitting, corpus=corpus, checkpoint=checkpoint, settings=settings)
    return results


def result_folder(out: Path, suite: str, split: str, *, blank: bool) -> Path:
    """Where one suite's results go: OUT/vqa-test, and apart from it OUT/vqa-test-blank."""
    return out / f"{suite}-{split}{'-blank' if blank else ''}"


@dataclass
class _Sitting:
    """One suite being judged: its folder and the lines of its predictions.jsonl so far, by example id."""

    suite: Suite
    folder: Path
    model: OpenModel
    lines: dict[str, dict[str, Any]]

    def missing(self) -> list[Example]:
        return [example for example in self.suite.examples if example.id not in self.lines]

    def add(self, texts: dict[str, str]) -> None:
        """Judge and append what `texts` answers of the missing examples."""
        with (self.folder / "predictions.jsonl").open("a", encoding="utf-8") as stream:
            for example in self.missing():
                if example.id in texts:
                    frame = self.model.frame(example.width, example.height)
                    prediction = read_prediction(texts[example.id], frame, self.model.box_text)
                    line = _line(example, prediction, self.suite.judge(example, prediction))
                    self.lines[example.id] = line
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _limited(examples: list[Example], limit: int | None, seed: int) -> list[Example]:
    """At most `limit` examples, in their order. The draw is by record, so that suites share the questions they both ask."""
    if limit is None or limit >= len(examples):
        return examples
    draw = {example.id: hashlib.blake2b(f"{seed} {example.id}".encode()).digest() for example in examples}
    kept = set(sorted(draw, key=draw.__getitem__)[:limit])
    return [example for example in examples if example.id in kept]


def _reopen(folder: Path, settings: dict[str, Any], *, overwrite: bool) -> dict[str, dict[str, Any]]:
    """Lines of predictions.jsonl by id; a half-written last line, as a killed process leaves it, is cut off.

    Raises:
        ValueError: the folder holds an evaluation with other settings and `overwrite` is off.
    """
    noted = folder / "settings.json"
    if noted.is_file() and (before := json.loads(noted.read_text(encoding="utf-8"))) != settings:
        differing = sorted(key for key in settings.keys() | before.keys() if settings.get(key) != before.get(key))
        if not overwrite:
            raise ValueError(
                f"{folder}: holds an evaluation with other {', '.join(differing)}: choose another --out, or replace it with --overwrite"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    predictions = folder / "predictions.jsonl"
    if not noted.is_file() and predictions.is_file():
        raise ValueError(f"{folder}: predictions.jsonl without settings.json: choose another --out or remove it")
    write_json(noted, settings)
    if not predictions.is_file():
        return {}
    content = predictions.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        predictions.write_bytes(whole)
    return {line["id"]: line for line in map(json.loads, whole.decode("utf-8").splitlines())}


def _ask(model: OpenModel, corpus: Corpus, sittings: list[_Sitting], settings: dict[str, Any], *, batch_size: int) -> None:
    """Ask each question once, however many suites want its answer, and hand the texts to all of them as they come."""
    from medclm.generation import generate

    known = {key: line["text"] for sitting in sittings for key, line in sitting.lines.items()}
    every = {example.id: example for sitting in sittings for example in sitting.suite.examples}
    for sitting in sittings:
        sitting.add(known)
    unasked = [example for example in every.values() if example.id not in known]
    size = batch_size * _CHUNK_BATCHES
    chunks = [unasked[first : first + size] for first in range(0, len(unasked), size)]
    bar = tqdm(total=len(every), initial=len(every) - len(unasked), unit="question", desc="evaluate", file=sys.stderr)
    with bar, ThreadPoolExecutor(max_workers=1) as ahead:
        for requests in _prepared(chunks, model, corpus, settings, ahead):
            completions = generate(
                model.network,
                model.processor,
                requests,
                max_new_tokens=settings["max_new_tokens"],
                batch_size=batch_size,
                progress=bar.update,
            )
            texts = {completion.id: completion.text for completion in completions}
            for sitting in sittings:
                sitting.add(texts)


def _prepared(
    chunks: list[list[Example]], model: OpenModel, corpus: Corpus, settings: dict[str, Any], ahead: ThreadPoolExecutor
) -> Iterator[list[Any]]:
    """The requests of each chunk; the pictures of the next one are read while this one is asked."""
    coming = None
    for chunk in chunks:
        ready, coming = coming, ahead.submit(_requests, chunk, model, corpus, settings)
        if ready is not None:
            yield ready.result()
    if coming is not None:
        yield coming.result()


def _requests(chunk: list[Example], model: OpenModel, corpus: Corpus, settings: dict[str, Any]) -> list[Any]:
    from medclm.generation import Request

    requests = []
    for example in chunk:
        image = corpus.picture(example.image_row)
        if settings["blank_image"]:
            image = Image.new("RGB", image.size, (128, 128, 128))
        question = with_instruction(example.question, settings["instruction"])
        requests.append(Request(example.id, question, model.frame(*image.size).place(image)))
    return requests


def _line(example: Example, prediction: Prediction, values: Values) -> dict[str, Any]:
    return {
        "id": example.id,
        "patient": example.patient,
        "question_kind": example.question_kind,
        "answer_type": example.answer_type,
        "question": example.question,
        "truth": {"answers": list(example.answers), "boxes_xyxy_unit": [list(box) for box in example.boxes_unit]},
        "text": prediction.text,
        "parsed": {"answer": prediction.answer, "boxes_xyxy_unit": [list(box) for box in prediction.boxes_unit]},
        "scores": values,
    }


def _finish(sitting: _Sitting, *, corpus: Corpus, checkpoint: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Scores, pictures, report and, last, results.json: a folder that has it is complete."""
    from medclm.checkpoint import package_versions

    suite, folder = sitting.suite, sitting.folder
    lines = [sitting.lines[example.id] for example in suite.examples]
    scores = summarise(suite, [line["scores"] for line in lines], seed=settings["seed"])
    results = {
        "suite": suite.name,
        "n": len(lines),
        "scores": {name: score.as_json() for name, score in scores.items()},
        "checkpoint": checkpoint.as_posix(),
        "versions": package_versions(),
    }
    fooled = [line for line in lines if line["scores"].get("right_for_wrong_reason")][:_WRONG_REASON]
    spread = generator(settings["seed"], "eval.overlays").permutation(len(lines)).tolist()
    chosen = [lines[i] for i in spread if lines[i] not in fooled][: OVERLAYS - len(fooled)]
    examples = {example.id: example for example in suite.examples}
    (folder / "overlays").mkdir(exist_ok=True)
    shown = {line["id"]: _shown(line, examples[line["id"]], folder, corpus) for line in [*fooled, *chosen]}
    write_report(
        folder / "report.html",
        results=results,
        settings=settings,
        left_out=suite.left_out,
        wrong_reason=[shown[line["id"]] for line in fooled],
        examples=[shown[line["id"]] for line in chosen],
    )
    write_json(folder / "results.json", results)
    return results


def _shown(line: dict[str, Any], example: Example, folder: Path, corpus: Corpus) -> Shown:
    predicted = [Box(*box) for box in line["parsed"]["boxes_xyxy_unit"]]
    iou = line["scores"].get("mean_iou")
    caption = (
        f"Question: {example.question}",
        f"Truth: {' | '.join(example.answers)}",
        f"Model: {line['parsed']['answer'] or 'unparsed'}" + (f"   (IoU {iou:.2f})" if iou is not None else ""),
        line["text"],
    )
    picture = overlay(
        corpus.picture(example.image_row), truth_unit=example.boxes_unit, predicted_unit=predicted, caption=caption
    )
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in example.id)[:80]
    path = folder / "overlays" / f"{name}.png"
    picture.save(path)
    return Shown(id=example.id, picture=path, lines=(example.question,))


def track(
    tracker: Tracker, results: dict[str, dict[str, Any]], checkpoint: Path, out: Path, *, split: str, blank: bool = False
) -> None:
    """Log finished results as SUITE/SCORE at the step of the checkpoint, with results.json and a few pictures."""
    from medclm.checkpoint import export_settings, exported

    step = int(export_settings(exported(checkpoint)).get("step", 0))
    for name, result in results.items():
        folder = result_folder(out, name, split, blank=blank)
        tracker.log(
            step,
            {
                f"{name}{'-blank' if blank else ''}/{key}": score["value"]
                for key, score in result["scores"].items()
                if score["value"] is not None
            },
        )
        tracker.artifact(folder / "results.json", folder.name)
        for path in sorted((folder / "overlays").glob("*.png"))[:_TRACKED_PICTURES]:
            tracker.picture(path, f"{folder.name}/overlays")
