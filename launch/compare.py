"""Compare: MLflow runs side by side, or two evaluations by a paired test over patients.

python launch/compare.py --experiment medclm
python launch/compare.py --experiment medclm --metric grounding/mean_iou
python launch/compare.py --paired runs/a/eval/vqa-test runs/b/eval/vqa-test --metric answer_accuracy
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
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--experiment", help="MLflow experiment whose runs are compared (the recipe's tracking.experiment)")
    what.add_argument(
        "--paired", type=Path, nargs=2, metavar=("FIRST", "SECOND"), help="two folders such as runs/NAME/eval/vqa-test"
    )
    add = parser.add_argument
    add("--metric", help="metric to compare (default: headline scores and loss); with --paired a score of each example")
    add("--tracking-uri", default="", help="MLflow store; empty = mlflow.db in --runs")
    add("--runs", type=Path, default=Path("runs"), help="folder with the default store (default: runs)")
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    chosen = arguments(given)
    from eval.summary import default_metrics, paired, print_paired, print_runs
    from medclm.tracking import store_uri, stored_runs

    if chosen.paired:
        score = chosen.metric or ("mean_iou" if chosen.paired[0].name.startswith("grounding") else "answer_accuracy")
        print_paired(paired(chosen.paired[0], chosen.paired[1], score), score)
        return 0
    uri = store_uri(TrackingSection(uri=chosen.tracking_uri), chosen.runs)
    runs = stored_runs(uri, chosen.experiment)
    known = sorted({metric for run in runs for metric in run.metrics})
    if chosen.metric and chosen.metric not in known:
        raise ValueError(f"--metric {chosen.metric}: no run has it; known: {', '.join(known) or 'none'}")
    print_runs(uri, runs, [chosen.metric] if chosen.metric else default_metrics(runs))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(2)
