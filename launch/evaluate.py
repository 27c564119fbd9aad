"""Evaluate: how good a checkpoint is on stored questions it has not been trained on.

    python launch/evaluate.py --checkpoint runs/demo --suites vqa,grounding --data runs/demo/corpus --out runs/demo/eval

Writes OUT/SUITE-SPLIT/{results.json, predictions.jsonl, report.html, overlays/*.png}. A killed evaluation goes on when the
same command is given again. Research use only, not a medical device.
"""

import os
import sys

# The launchers put launch/ first on the path, where `import train` would find launch/train.py.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path

from medclm.config import TrackingSection


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="run folder (its newest step), step folder, or export")
    add("--data", type=Path, required=True, help="corpus folder with manifest.json")
    add("--out", type=Path, required=True, help="folder that gets one folder per suite")
    add(
        "--suites",
        default="vqa,grounding",
        help="comma-separated: vqa (are the answers right), grounding (are the boxes right)",
    )
    add("--split", default="test", help="split that is asked (default: test)")
    add("--limit", type=int, help="at most so many questions a suite, a fixed draw (default: all)")
    add(
        "--instruction",
        default="reason",
        choices=("reason", "direct"),
        help="reason: box and chain of thought, then the answer",
    )
    add("--max-new-tokens", type=int, default=256, help="longest completion in tokens (default: 256)")
    add("--batch-size", type=int, default=16, help="questions decoded together; changes speed only (default: 16)")
    add("--seed", type=int, default=0, help="of the draw of --limit and of the intervals (default: 0)")
    add("--blank", action="store_true", help="show grey pictures instead: what the model says without looking, kept apart")
    add("--overwrite", action="store_true", help="replace what --out holds of another checkpoint or other settings")
    add("--tracking-uri", default="", help="MLflow store; empty = mlflow.db in --runs; off = none")
    add("--experiment", default=TrackingSection().experiment, help="MLflow experiment for a checkpoint of no tracked run")
    add("--runs", type=Path, default=Path("runs"), help="folder with the default store (default: runs)")
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    chosen = arguments(given)
    from eval.runner import evaluate, track  # torch and transformers: seconds that --help need not pay
    from eval.summary import print_scores
    from medclm.tracking import Tracker, stored_run_id

    results = evaluate(
        chosen.checkpoint,
        [name.strip() for name in chosen.suites.split(",") if name.strip()],
        chosen.data,
        chosen.out,
        split=chosen.split,
        limit=chosen.limit,
        max_new_tokens=chosen.max_new_tokens,
        batch_size=chosen.batch_size,
        instruction=chosen.instruction,
        seed=chosen.seed,
        blank=chosen.blank,
        overwrite=chosen.overwrite,
    )
    with Tracker(chosen.out, TrackingSection(uri=chosen.tracking_uri, experiment=chosen.experiment), chosen.runs) as tracker:
        run_id = stored_run_id(chosen.checkpoint, tracker.uri)
        if run_id is None:
            tracker.start(f"eval {chosen.checkpoint.name}", {"checkpoint": chosen.checkpoint.as_posix(), "split": chosen.split})
        else:
            tracker.attach(run_id)
        track(tracker, results, chosen.checkpoint, chosen.out, split=chosen.split, blank=chosen.blank)
    print_scores(results)
    print(f"reports: {chosen.out}/*/report.html")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        sys.exit(2)
