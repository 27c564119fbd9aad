"""Compare: MLflow runs, two evaluations, a run's curriculum with its log, its numbers with the store, or simulated policies.

runs of an MLflow experiment side by side:
  python launch/compare.py --experiment medclm
  python launch/compare.py --experiment medclm --metric grounding/mean_iou
two evaluations by a paired test over patients:
  python launch/compare.py --paired runs/a/eval/vqa-test runs/b/eval/vqa-test --metric answer_accuracy
  python launch/compare.py --paired runs/a/eval/vqa-test runs/b/eval/vqa-test --out a-or-b.html     case by case, with pictures
prove that every stage of a run follows from its logged losses (exit status 0 equal, 1 not, 2 cannot be said):
  python launch/compare.py --replay runs/demo
  python launch/compare.py --replay runs/demo --out pictures        its course as pictures, too
  python launch/compare.py --replay runs/a --data /new/place/corpus  the corpus was moved since
why did this sample get its stage?
  python launch/compare.py --replay runs/demo --why RECORD_ID              everywhere the record was seen
  python launch/compare.py --replay runs/demo --step 412 --why RECORD_ID   that decision: averages, chances, draw, fallback
  python launch/compare.py --replay runs/demo --why 19783                  the same by global position
  python launch/compare.py --replay runs/demo --step 412                   the whole batch after 412 updates
store what the tracking store has not got of a run's metrics.jsonl and files, as after it was down:
  python launch/compare.py --sync runs/demo
  python launch/compare.py --sync runs/demo --tracking-uri http://127.0.0.1:5000
try policies without training; recipe flags such as --train.steps and --curriculum.* set their numbers:
  python launch/compare.py --simulate medclm,mixture,threshold --out simulated
  python launch/compare.py --simulate medclm --learner no_transfer --curriculum.medclm.explore=0.2 --out simulated
  python launch/compare.py --simulate medclm,sequential --learner mine.yaml --config train/configs/demo.yaml --out simulated
"""

import os
import sys

# The launchers put launch/ first on the path, where `import train` would find launch/train.py.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path

from medclm.config import TrackingSection, load_recipe

_MODES = {
    "metric": ("experiment", "paired"),
    "target": ("experiment",),
    "tracking_uri": ("experiment", "sync"),
    "runs": ("experiment",),
    "data": ("replay",),
    "step": ("replay",),
    "why": ("replay",),
    "learner": ("simulate",),
    "config": ("simulate",),
}
"""Flag -> the modes that read it."""


def arguments(given: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Own flags, and recipe keys for --simulate.

    Raises:
        ValueError: a flag that belongs to another mode.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--experiment", help="MLflow experiment whose runs are compared (the recipe's tracking.experiment)")
    what.add_argument(
        "--paired", type=Path, nargs=2, metavar=("FIRST", "SECOND"), help="two folders such as runs/NAME/eval/vqa-test"
    )
    what.add_argument("--replay", type=Path, metavar="RUN", help="run folder whose curriculum is recomputed from its log")
    what.add_argument("--sync", type=Path, metavar="RUN", help="run or evaluation folder whose numbers and files are stored")
    what.add_argument("--simulate", metavar="POLICIES", help="policies, joined by commas, to try on a simulated learner")
    add = parser.add_argument
    add(
        "--metric",
        action="append",
        help="metric to compare, repeatable (default: headline scores and loss); with --paired a score of each example",
    )
    add("--target", type=float, help="with --experiment and one --metric: value whose first step and seconds are told")
    add(
        "--tracking-uri",
        help="MLflow store, with --experiment (default: mlflow.db in --runs) or --sync (default: the one of the run)",
    )
    add("--runs", type=Path, help="with --experiment: folder with the default store (default: runs)")
    add("--data", type=Path, metavar="FOLDER", help="with --replay: where the run's corpus is now")
    add("--step", type=int, help="with --replay: the batch after this many updates")
    add("--why", metavar="RECORD", help="with --replay: a record id or a global position to explain")
    add(
        "--out",
        type=Path,
        help="folder for pictures of --replay or --simulate; with --experiment or --paired an HTML file to write",
    )
    add("--learner", help="with --simulate: transfer (the default), no_transfer, plateau, long_tail, or a YAML file")
    add("--config", type=Path, metavar="FILE", help="with --simulate: recipe whose train, run.seed and curriculum count")
    chosen, recipe_keys = parser.parse_known_args(given)
    if recipe_keys and chosen.simulate is None:
        parser.error(f"unrecognized arguments: {' '.join(recipe_keys)}")
    for flag, modes in _MODES.items():
        if getattr(chosen, flag) is not None and all(getattr(chosen, mode) is None for mode in modes):
            raise ValueError(f"--{flag.replace('_', '-')}: only with {' or '.join(f'--{mode}' for mode in modes)}")
    draws = chosen.replay is not None and chosen.why is None and chosen.step is None
    if chosen.out is not None and not (chosen.experiment or chosen.paired or chosen.simulate is not None or draws):
        raise ValueError("--out: only with --experiment, --paired, --simulate, or --replay without --why and --step")
    if chosen.out is not None and (chosen.experiment or chosen.paired):
        from eval.pages.page import check_page

        check_page(chosen.out)
    if chosen.paired and len(chosen.metric or ()) > 1:
        raise ValueError("--metric: with --paired give one")
    return chosen, recipe_keys


def main(given: list[str]) -> int:
    chosen, recipe_keys = arguments(given)
    if chosen.replay is not None:
        return replay(chosen)
    if chosen.sync is not None:
        return sync(chosen)
    if chosen.simulate is not None:
        return simulate(chosen, recipe_keys)
    if chosen.paired:
        from eval.summary import paired, print_paired

        score = (*(chosen.metric or ()), "mean_iou" if chosen.paired[0].name.startswith("grounding") else "answer_accuracy")[0]
        print_paired(paired(chosen.paired[0], chosen.paired[1], score), score)
        if chosen.out is not None:
            from eval.pages.side_by_side import write_side_by_side

            write_side_by_side(chosen.out, chosen.paired[0], chosen.paired[1])
            print(f"page: {chosen.out}")
        return 0
    from eval.runs.experiment import compare_experiment
    from medclm.tracking import store_uri

    uri = store_uri(named_store(chosen), chosen.runs or Path("runs"))
    compare_experiment(chosen.experiment, uri=uri, metrics=chosen.metric or (), target=chosen.target, out=chosen.out)
    return 0


def replay(chosen: argparse.Namespace) -> int:
    """0 equal, 1 not; an explanation alone proves nothing and is 0."""
    from eval.runs.replay import audit, open_run, print_audit
    from eval.runs.why import print_why

    run = open_run(chosen.replay, chosen.data)
    if chosen.why is not None or chosen.step is not None:
        print_why(run, chosen.why, chosen.step)
        return 0
    found, course = audit(run)
    print_audit(run, found)
    if chosen.out is not None:
        from medclm.curriculum.pictures import draw_course

        print("pictures: " + ", ".join(map(str, draw_course(course, chosen.out))))
    return 0 if found.equal else 1


def sync(chosen: argparse.Namespace) -> int:
    from eval.runs.sync import print_synced, sync_run

    print_synced(chosen.sync, sync_run(chosen.sync, named_store(chosen).uri))
    return 0


def named_store(chosen: argparse.Namespace) -> TrackingSection:
    """The store of --tracking-uri, checked as the recipe's is."""
    return load_recipe([f"--tracking.uri={chosen.tracking_uri or ''}"]).tracking


def simulate(chosen: argparse.Namespace, recipe_keys: list[str]) -> int:
    from eval.runs.simulated import print_simulated, simulated_policies

    recipe = load_recipe(recipe_keys, config=chosen.config)
    learner = chosen.learner or "transfer"
    found = simulated_policies(chosen.simulate.split(","), learner, recipe)
    print_simulated(found, learner, recipe)
    if chosen.out is not None:
        from medclm.curriculum.pictures import draw_side_by_side

        title = f"Simulated learner {Path(learner).stem}"
        print(f"picture: {draw_side_by_side([each.course for each in found], title, chosen.out / 'simulated.png')}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(2)
