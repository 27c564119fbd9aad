"""From the command line to a finished run; launch/train.py is its door."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medclm.config import ConfigError, Recipe, load_recipe, recipe_help
from medclm.ds_config import read_json

if TYPE_CHECKING:
    from train.validate import MakeExam

DEMO = Path(__file__).parent / "configs" / "demo.yaml"

ABOUT = """\
Train a vision-language model through the Easy / Medium / Hard curriculum under DeepSpeed.

  deepspeed launch/train.py --deepspeed ds_configs/zero3.json
        the built-in demo: phantom images made on the spot and a tiny ViP-LLaVA; no data, weights or GPU needed
  deepspeed launch/train.py --deepspeed ds_configs/zero3.json --config train/configs/vip_llava_7b.yaml --data.corpus=DIR
        a corpus made by launch/corpus.py
  ... --dry-run
        print the resolved recipe, the batch algebra, parameter counts and the stage plan, and exit
"""


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Own flags, and the rest: recipe keys."""
    parser = argparse.ArgumentParser(
        prog="launch/train.py",
        description=ABOUT,
        epilog="recipe keys and their defaults (a recipe file overrides them, the command line overrides it):\n\n"
        + recipe_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--deepspeed", type=Path, required=True, metavar="FILE", help="DeepSpeed JSON: memory layout and buckets (ds_configs/)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="recipe (train/configs/*.yaml); without one, the demo")
    parser.add_argument(
        "--resume", choices=["never", "auto"], default="never", help="auto: continue from the newest checkpoint that verifies"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and exit")
    own = [argument for argument in arguments if not _is_launcher_flag(argument)]
    given = [argument.partition("=")[0] for argument in own if argument.startswith("--")]
    for flag in ("--deepspeed", "--config", "--resume"):
        if given.count(flag) > 1:
            raise ConfigError(f"{flag} is given twice: give it once")
    return parser.parse_known_args(own)


def _is_launcher_flag(argument: str) -> bool:
    """The deepspeed launcher adds `--local_rank=N`; exactly that is dropped."""
    return argument == "--local_rank" or (argument.startswith("--local_rank=") and argument[13:].isdigit())


def set_threads() -> None:
    """Share the cores between this machine's ranks, unless OMP_NUM_THREADS says otherwise."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))


def run_training(recipe: Recipe, flags: argparse.Namespace, make_exam: MakeExam | None) -> int:
    """Build, train, export, close; 0 when finished or stopped on request."""
    from medclm.distributed import Ranks
    from medclm.engine import disconnect
    from train.build import build_run
    from train.faults import explained
    from train.loop import train
    from train.stops import Stops

    ds_tree = read_json(flags.deepspeed)
    set_threads()
    # DeepSpeed calls collectives by names that torch is about to retire: two lines of warning per rank, nothing to do here.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    ranks = Ranks.from_environment()
    stops = Stops(rank=ranks.rank, launched="RANK" in os.environ, after_s=60 * recipe.run.stop_after_min or None)
    try:
        run = build_run(
            recipe, ds_tree, ds_name=str(flags.deepspeed), resume=flags.resume == "auto", stops=stops, make_exam=make_exam
        )
    except ValueError:
        disconnect()
        raise
    stops.watch()
    try:
        outcome = train(run)
        if run.ranks.is_main:
            run.tell(outcome.reason)
            # whoever asked for a stop may not wait for more than the save
            if recipe.train.export and outcome.reason == "finished":
                run.export()
    except Exception as error:
        # no word to the other ranks, which may be gone: whoever waits for this one hears that it is lost
        run.close(failed=True)
        raise explained(error, run) from error
    run.close()
    disconnect()
    return 0


def main(arguments: Sequence[str], make_exam: MakeExam | None = None) -> int:
    """Exit status: 0 done, 2 the user's mistake (one message), 1 anything else.

    Args:
        make_exam: for `validation.questions`; the launcher brings it, since training knows nothing of evaluation.
    """
    try:
        flags, rest = parse(arguments)
        recipe = load_recipe(rest, config=flags.config or DEMO)
        if flags.dry_run:
            from train.plan import print_plan

            print_plan(recipe, read_json(flags.deepspeed), ds_name=str(flags.deepspeed))
            return 0
        return run_training(recipe, flags, make_exam)
    except ValueError as error:
        if isinstance(error, ConfigError) or os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
