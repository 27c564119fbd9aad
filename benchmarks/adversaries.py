"""Can a score be had without looking? Players that do not read the picture, and one that knows every answer, on every suite.

    python benchmarks/adversaries.py --data ../shared/data

Suites `vqa`, `grounding`, `choice`, `classification` and `behaviour` on 300 phantoms made on the spot, `vqa` also on the questions of
vqa_med_2019_text, `report` on openi_reports where --data has them. Everything goes through the same replies, parser and judges as a
model's words. Exit status 1 if perfect is not 1, or a trick earns more than an honest guess made without the picture.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.example import Ask, Example, Reply, Said, Square, Terms, number_of
from eval.layouts.layout import open_pool
from eval.pool import Pool
from eval.respondent import read_reply
from eval.runner import SUITES
from eval.suite import Suite, summarise
from eval.suites.choice import truth_of
from eval.suites.classification import labels_of
from medclm.config import BoxTextSection
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import phantom_ids
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.draws import generator
from medclm.metrics.parsing import alternatives
from medclm.types import Box

SQUARE, BOX_TEXT = Square(336, 14, "pad"), BoxTextSection()
KINDS = ("what", "which_organ", "where", "presence", "count")
SHOWN = {
    "vqa": ("answer_accuracy", "closed_accuracy", "open_exact_match", "open_token_f1"),
    "grounding": ("answer_and_box", "mean_iou", "acc@0.5", "union_iou"),
    "report": (
        "f1_13_micro_uncertain_positive",
        "f1_14_micro_uncertain_positive",
        "report_bleu4",
        "report_rouge_l",
        "report_cider",
    ),
    "choice": ("choice_accuracy", "choice_accuracy_normalised"),
    "classification": ("auroc_macro", "average_precision_macro"),
    "behaviour": ("changed_when_occluded", "side_changed_when_mirrored"),
}
"""Suite -> scores shown, the first of which counts for the exit status."""
GRID = [Box(x / 10, y / 10, x / 10 + 0.1, y / 10 + 0.1) for y in range(10) for x in range(10)]


@dataclass
class Scene:
    """What the players may know: the questions of one suite, never a picture."""

    suite: Suite
    pool: Pool

    def boxes(self, example: Example, boxes: Sequence[Box]) -> str:
        """Boxes as a model writes them."""
        if self.pool.pictures is None:
            return ""
        frame = SQUARE.frame(self.pool.pictures.size(example.picture))
        return " ".join(frame.write(box, BOX_TEXT) for box in boxes)

    def answers(self, example: Example) -> list[str]:
        """Every answer that some question of this kind has."""
        return sorted(
            {one.answers[0] for one in self.suite.examples if one.question_kind == example.question_kind and one.answers}
        )


Player = Callable[[Scene, Example, Ask], Reply]


def wrote(scene: Scene, example: Example, answer: str, boxes: Sequence[Box] = ()) -> Reply:
    return Reply(f"Reasoning: It is at {scene.boxes(example, boxes)}.\n\nAnswer: {answer}")


def scored(ask: Ask, scores: Sequence[float]) -> Reply:
    """Log-likelihoods; 4 times as sure as a decision, since 0 and 1 would be taken for one."""
    return Reply(option_scores=tuple(4.0 * float(score) for score in scores), option_tokens=(1,) * len(ask.options))


def perfect(scene: Scene, example: Example, ask: Ask) -> Reply:
    if not ask.options:
        first = (alternatives(example.answers) or [""])[0] if scene.suite.name != "report" else example.answers[0]
        return replace(wrote(scene, example, first), boxes_unit=example.boxes_unit)  # written boxes are rounded: IoU 0.996
    if scene.suite.name == "classification":
        truth = labels_of(example)[ask.name.removeprefix("label: ")]
        return scored(ask, (truth, 1 - truth))
    return scored(ask, np.eye(len(ask.options))[truth_of(example)])


def empty(scene: Scene, example: Example, ask: Ask) -> Reply:
    return scored(ask, np.zeros(len(ask.options))) if ask.options else Reply()


def chance(scene: Scene, example: Example, ask: Ask) -> Reply:
    draw = generator(0, "benchmark.adversaries", number_of(f"{example.id} {ask.name}"))
    if ask.options:
        return scored(ask, draw.random(len(ask.options)))
    answers = scene.answers(example)
    x, y, wide, high = draw.random(4) * (0.6, 0.6, 0.4, 0.4)
    return wrote(scene, example, answers[int(draw.integers(len(answers)))], [Box(x, y, x + wide, y + high)])


def constant(scene: Scene, example: Example, ask: Ask) -> Reply:
    if ask.options:
        return scored(ask, [1, *[0] * (len(ask.options) - 1)])
    return wrote(scene, example, scene.answers(example)[0], [Box(0.3, 0.3, 0.7, 0.7)])


def says(words: str) -> Player:
    return lambda scene, example, ask: constant(scene, example, ask) if ask.options else wrote(scene, example, words)


def spam_boxes(scene: Scene, example: Example, ask: Ask) -> Reply:
    return constant(scene, example, ask) if ask.options else wrote(scene, example, scene.answers(example)[0], GRID)


def every_answer(scene: Scene, example: Example, ask: Ask) -> Reply:
    return constant(scene, example, ask) if ask.options else wrote(scene, example, ", ".join(scene.answers(example)[:60]))


def repeated_words(scene: Scene, example: Example, ask: Ask) -> Reply:
    """The commonest words of all answers, twenty times."""
    words = " ".join(answer.split()[0] for answer in scene.answers(example)[:5] if answer.split())
    return constant(scene, example, ask) if ask.options else wrote(scene, example, " ".join([words] * 20))


PLAYERS: Mapping[str, Player] = {
    "perfect": perfect,
    "empty": empty,
    "random": chance,
    "constant": constant,
    "yes and no": says("yes and no"),
    "normal": says("normal"),
    "spam boxes": spam_boxes,
    "every answer": every_answer,
    "repeated words": repeated_words,
}
TRICKS = ("empty", "yes and no", "normal", "spam boxes", "every answer", "repeated words")


def play(scene: Scene, player: Player) -> dict[str, float | None]:
    """The suite's scores when `player` answers."""
    said = [_read(scene, player, example) for example in scene.suite.examples]
    judged = scene.suite.judge(scene.suite.examples, said)
    return {metric.name: metric.of(_columns(judged, metric.columns)) for metric in scene.suite.metrics()}


def _read(scene: Scene, player: Player, example: Example) -> Said:
    frame = SQUARE.frame(scene.pool.pictures.size(example.picture)) if scene.pool.pictures else None
    return {ask.name: read_reply(player(scene, example, ask), frame, BOX_TEXT) for ask in scene.suite.asks(example)}


def _columns(judged: Sequence[Mapping[str, float]], columns: Sequence[str]) -> np.ndarray:
    return np.array([[row.get(name, np.nan) for name in columns] for row in judged], dtype=np.float64)


def phantoms(folder: Path, count: int) -> Pool:
    options = BuildOptions(ids=phantom_ids(7), workers=len(os.sched_getaffinity(0)), near_duplicates=False)
    build(PhantomSource(count=count, seed=7), TemplateWriter(kinds=KINDS), folder, options)
    return open_pool(folder, "test")


def with_options(pool: Pool) -> Pool:
    """Questions for organs as choices among four."""
    asked = [one for one in pool.asked if one.question_kind == "which_organ"]
    organs = sorted({one.answers[0] for one in asked})
    made = []
    for one in asked:
        draw = generator(0, "benchmark.adversaries.options", number_of(one.id))
        others = [organ for organ in organs if organ != one.answers[0]]
        listed = [one.answers[0], *(others[int(at)] for at in draw.permutation(len(others))[:3])]
        options = tuple(listed[int(at)] for at in draw.permutation(len(listed)))
        made.append(replace(one, options=options, answer_type="choice"))
    return replace(pool, asked=made, train=[])


def scenes(data: Path | None, work: Path, count: int) -> dict[str, Scene]:
    terms = Terms("reason", SQUARE)
    pool = phantoms(work / "phantoms", count)
    pools = dict.fromkeys(("vqa", "grounding", "classification", "behaviour"), pool) | {"choice": with_options(pool)}
    made = {f"{name}, phantoms": Scene(SUITES[name](one, terms), one) for name, one in pools.items()}
    for name, folder in (("vqa", "vqa_med_2019_text"), ("report", "openi_reports")):
        if data is not None and (data / folder).is_dir():
            one = open_pool(data / folder, "test" if name == "vqa" else "all")
            made[f"{name}, {folder}"] = Scene(SUITES[name](one, terms), one)
    return made


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with vqa_med_2019_text and openi_reports")
    parser.add_argument("--phantoms", type=int, default=300, help="phantom images, a tenth of them asked (default: 300)")
    chosen = parser.parse_args(given)
    table = Table("suite", "score", "n", *PLAYERS, "honest guess")
    faults = []
    with tempfile.TemporaryDirectory() as work:
        for name, scene in scenes(chosen.data, Path(work), chosen.phantoms).items():
            scores = {player: play(scene, of) for player, of in PLAYERS.items()}
            guess = summarise(scene.suite, [{}] * len(scene.suite.examples), seed=0)
            shown = SHOWN[scene.suite.name]
            for metric in shown:
                floor = guess[metric].floor
                cells = [_number(scores[player][metric]) for player in PLAYERS]
                table.add_row(name, metric, str(len(scene.suite.examples)), *cells, _number(floor))
            faults += _faults(name, shown[0], scores, guess[shown[0]].floor)
    Console(width=220).print(table)
    print("\n".join(faults) or "perfect is 1 everywhere, and no trick earns more than an honest guess")
    return 1 if faults else 0


def _faults(name: str, metric: str, scores: Mapping[str, Mapping[str, float | None]], floor: float | None) -> list[str]:
    """What a headline gives away."""
    best = scores["perfect"][metric]
    found = [] if name.startswith("behaviour") or best == 1.0 else [f"{name}: perfect has {metric} {best}"]
    honest = max(value for value in (floor, scores["constant"][metric], scores["random"][metric], 0.0) if value is not None)
    return found + [
        f"{name}: {player!r} earns {metric} {scores[player][metric]:.3f}, an honest guess {honest:.3f}"
        for player in TRICKS
        if (scores[player][metric] or 0.0) > honest + 1e-9
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
