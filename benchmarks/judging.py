"""How long judging takes: stored predictions through suites, intervals, breakdown and page.

    python benchmarks/judging.py --predictions 10000

Questions, truths and predictions are made up (half of them right); boxes and answers are judged, floors and 2,000 resamples included.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import argparse
import json
import tempfile
import time
from collections.abc import Sequence

from eval.runner import Plan, evaluate_predictions
from medclm.draws import generator

CLASSES = ("cyst", "mass", "nodule", "calcification", "effusion", "fracture")


def rows(number: int) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Questions with their truth, and predictions, of `number` examples on a third as many patients."""
    draw = generator(0, "benchmark.judging")
    questions: list[dict[str, object]] = []
    predictions: list[dict[str, object]] = []
    for at in range(number):
        name, said = CLASSES[int(draw.integers(6))], CLASSES[int(draw.integers(6))]
        x, y = (float(value) for value in draw.random(2) * 0.7)
        box = [round(value, 3) for value in (x, y, x + 0.2, y + 0.2)]
        near = [round(min(1.0, value + 0.02), 3) for value in box]
        closed = at % 4 == 0
        questions.append(
            {
                "id": f"q{at}",
                "image": f"{at // 3}.png",
                "patient": f"p{at // 3}",
                "question": "Is there a cyst?" if closed else "What is shown?",
                "question_kind": "presence" if closed else "what",
                "answer": ("yes" if name == "cyst" else "no") if closed else name,
                "boxes": [box],
            }
        )
        right = draw.random() < 0.5
        answer = ("yes" if draw.random() < 0.5 else "no") if closed else name if right else said
        text = f"Reasoning: A {said} lies in the upper part, round and dark."
        predictions.append(
            {"id": f"q{at}", "text": text, "answer": answer, "boxes": [near], "box_scores": [-float(draw.random())]}
        )
    return questions, predictions


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=10_000, help="how many (default: 10000)")
    chosen = parser.parse_args(given)
    questions, predictions = rows(chosen.predictions)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "questions.json").write_text(json.dumps(questions), encoding="utf-8")
        (work / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions), encoding="utf-8")
        for suites in (("vqa",), ("grounding",), ("vqa", "grounding")):
            clock, processor = time.perf_counter(), time.process_time()
            evaluate_predictions(work / "theirs.jsonl", work / "questions.json", work / "out", Plan(suites=suites))
            wall, spent = time.perf_counter() - clock, time.process_time() - processor
            print(
                f"{'+'.join(suites)}: {chosen.predictions} predictions in {wall:.1f} s, {spent:.1f} s of processor", flush=True
            )
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
