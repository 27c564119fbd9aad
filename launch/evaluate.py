"""Evaluate: how good a checkpoint is on questions it has not been trained on: our own corpora and public benchmarks.

    python launch/evaluate.py --checkpoint runs/demo --suites vqa,grounding --data runs/demo/corpus --out runs/demo/eval
    python launch/evaluate.py --checkpoint runs/demo --suites vqa --data VQA_RAD --out runs/demo/eval-rad
    python launch/evaluate.py --predictions theirs.jsonl --suites vqa --data VQA_RAD --out theirs     another model's answers
    python launch/evaluate.py --base-url http://127.0.0.1:8000/v1 --model NAME --suites vqa --data VQA_RAD --out theirs
                                                                          another model, behind an OpenAI-compatible server
    torchrun --nproc-per-node 4 launch/evaluate.py ...                    four ranks ask, rank 0 judges

Writes OUT/SUITE-SPLIT/{results.json, predictions.jsonl, report.html, pictures/*.jpg}. A killed evaluation goes on when the
same command is given again. Research use only, not a medical device.
"""

from __future__ import annotations

import os
import sys

# The launchers put launch/ first on the path, where `import train` would find launch/train.py.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from eval.decoding import Decoding
from medclm.config import BoxTextSection, TrackingSection, load_recipe

if TYPE_CHECKING:
    from eval.runner import Benchmark, Plan


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    asking = parser.add_argument_group("what is asked, of whom")
    add = asking.add_argument
    whom = asking.add_mutually_exclusive_group(required=True)
    whom.add_argument("--checkpoint", type=Path, help="run folder (its newest step), step folder, or export")
    whom.add_argument(
        "--predictions", type=Path, help="stored predictions instead (JSON Lines, JSON or CSV: id and answer or text, boxes)"
    )
    whom.add_argument(
        "--base-url",
        metavar="URL",
        help="OpenAI-compatible server instead, with its version, e.g. http://127.0.0.1:8000/v1; it writes texts alone, so "
        "choice and classification need --checkpoint",
    )
    add("--data", type=Path, required=True, help="corpus folder with manifest.json, or folder or file of a public benchmark")
    add("--out", type=Path, required=True, help="folder that gets one folder per suite")
    add(
        "--suites",
        default="vqa,grounding",
        help="comma-separated: vqa (are the answers right), grounding (are the boxes right), report (written findings), "
        "classification (is it there, as a number), choice (by likelihood), behaviour (does it look)",
    )
    add("--split", default="test", help="split that is asked (default: test)")
    add("--limit", type=int, help="at most so many questions a suite, a fixed draw (default: all)")
    add("--layout", default="auto", help="form of --data where it is not plain from its files; --layout list shows all")
    add("--images", type=Path, help="folder of a benchmark's pictures, if not where its layout has them")
    add("--window", type=float, nargs=2, metavar=("CENTRE", "WIDTH"), help="grey values shown of 16-bit pictures")
    answering = parser.add_argument_group("how it answers")
    add = answering.add_argument
    add(
        "--instruction",
        default="reason",
        choices=("reason", "direct"),
        help="reason: box and chain of thought, then the answer",
    )
    add(
        "--profile",
        default="medclm",
        help="whose rules ask and judge vqa: medclm, llava_med, medevalkit or octomed (docs/profiles.md; default: medclm)",
    )
    add("--max-new-tokens", type=int, default=256, help="longest completion in tokens (default: 256)")
    add(
        "--temperature",
        type=float,
        default=0.0,
        help="0 = the likeliest token (default); above: sampled by --seed; below, with --base-url: the server's own",
    )
    add("--batch-size", type=int, default=16, help="questions decoded together; changes speed only (default: 16)")
    add("--seed", type=int, default=0, help="of the draw of --limit, of the intervals, of sampled tokens (default: 0)")
    add("--blank", action="store_true", help="show grey pictures instead: what the model says without looking, kept apart")
    add("--overwrite", action="store_true", help="replace what --out holds of another checkpoint or other settings")
    add("--timeout", type=float, default=4 * 3600.0, help="longest wait for another rank, in seconds (default: 14400)")
    _add_server_flags(parser)
    tracking = parser.add_argument_group("where results go beside --out")
    add = tracking.add_argument
    add("--tracking-uri", default="", help="MLflow store; empty = mlflow.db in --runs; off = none")
    add("--experiment", default=TrackingSection().experiment, help="MLflow experiment for a checkpoint of no tracked run")
    add("--runs", type=Path, default=Path("runs"), help="folder with the default store (default: runs)")
    return parser.parse_args(given)


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "a model behind a server (--base-url)",
        "Pictures go as PNG, unpadded, long side at most 1024 pixels. A question without a reply after several tries ends the "
        "evaluation with status 1 and its reasons; replies are kept, and the same command asks only what has none.",
    )
    add = group.add_argument
    add("--model", default="", metavar="NAME", help="name by which the server knows the model")
    add(
        "--api-key-variable",
        default="OPENAI_API_KEY",
        metavar="V",
        help="environment variable that holds the key (default: OPENAI_API_KEY); the key itself is never a flag",
    )
    add("--concurrency", type=int, default=8, metavar="N", help="requests at once (default: 8)")
    add("--requests-per-minute", type=float, metavar="N", help="at most (default: no limit)")
    add(
        "--request-timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="of one request (default: 120); it is tried again",
    )
    add(
        "--allow-remote", action="store_true", help="the server may be another machine; pictures that may not leave are refused"
    )
    add(
        "--shareable",
        action="store_true",
        help="with --allow-remote: the licence of this public benchmark lets its pictures leave this machine (a corpus says so itself)",
    )
    add(
        "--box-text.frame",
        default="resized",
        choices=("resized", "padded", "original"),
        help="frame of the boxes that it writes: the picture as sent (default), padded to a square, or as stored",
    )
    add("--box-text.scale", default="1", choices=("1", "100", "1000", "px"), help="right and lower border in it (default: 1)")
    add(
        "--form",
        default="told",
        choices=("told", "untold"),
        help="told: a line after our instruction says how reasoning, boxes and answer are written (default); untold: for a model "
        "that was trained on it; questions worded by another --profile get no such line",
    )
    add("--accept-empty", action="store_true", help="judge replies without text as nothing said, instead of asking again")


def main(given: list[str]) -> int:
    if "--layout=list" in given or ("--layout" in given and given[given.index("--layout") + 1 :][:1] == ["list"]):
        from eval.summary import print_layouts

        print_layouts()
        return 0
    chosen = arguments(given)
    if chosen.model and not chosen.base_url:
        raise ValueError("--model names a model behind --base-url: give both, or --checkpoint alone")
    if chosen.temperature < 0 and not chosen.base_url:
        raise ValueError(f"--temperature {chosen.temperature}: give 0 or more; only a server has one of its own")
    if chosen.out.exists() and not chosen.out.is_dir():
        raise ValueError(f"--out {chosen.out}: is a file: give a folder")
    from eval.runner import Benchmark, Plan, evaluate_checkpoint, evaluate_predictions  # torch: not paid for --help
    from eval.summary import print_scores, tracked
    from medclm.distributed import joined

    plan = Plan(
        suites=tuple(name.strip() for name in chosen.suites.split(",") if name.strip()),
        split=chosen.split,
        limit=chosen.limit,
        instruction=chosen.instruction,
        profile=chosen.profile,
        seed=chosen.seed,
        blank=chosen.blank,
        overwrite=chosen.overwrite,
    )
    benchmark = Benchmark(chosen.layout, chosen.images, tuple(chosen.window) if chosen.window else None)
    if chosen.predictions:
        print_scores(evaluate_predictions(chosen.predictions, chosen.data, chosen.out, plan, benchmark=benchmark))
        print(f"reports: {chosen.out}/*/report.html")
        return 0
    if chosen.base_url:
        return _evaluate_served(chosen, plan, benchmark)
    store = load_recipe([f"--tracking.uri={chosen.tracking_uri}", f"--tracking.experiment={chosen.experiment}"]).tracking
    with joined(timeout_s=chosen.timeout) as ranks:
        results = evaluate_checkpoint(
            chosen.checkpoint,
            chosen.data,
            chosen.out,
            plan,
            Decoding(chosen.max_new_tokens, chosen.batch_size, chosen.temperature, chosen.seed),
            benchmark=benchmark,
            ranks=ranks,
            timeout_s=chosen.timeout,
        )
        if ranks.is_main:
            tracked(results, plan, chosen.checkpoint, chosen.out, store, chosen.runs)
            print_scores(results)
            print(f"reports: {chosen.out}/*/report.html")
    return 0


def _evaluate_served(chosen: argparse.Namespace, plan: Plan, benchmark: Benchmark) -> int:
    """Judge a model behind a server; RuntimeError where it left questions open."""
    from eval.endpoint import ServedModel, evaluate_endpoint
    from eval.summary import print_scores
    from medclm.chat.endpoint import Endpoint

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--base-url: one process asks --concurrency questions at once: start it without torchrun")
    endpoint = Endpoint(
        base_url=chosen.base_url,
        api_key_variable=chosen.api_key_variable,
        timeout=chosen.request_timeout,
        concurrency=chosen.concurrency,
        requests_per_minute=chosen.requests_per_minute,
        allow_remote=chosen.allow_remote,
    )
    served = ServedModel(
        chosen.model,
        endpoint,
        Decoding(chosen.max_new_tokens, chosen.batch_size, chosen.temperature, chosen.seed),
        box_text=BoxTextSection(frame=getattr(chosen, "box_text.frame"), scale=getattr(chosen, "box_text.scale")),
        tell_form=chosen.form == "told",
        accept_empty=chosen.accept_empty,
    )
    results = evaluate_endpoint(served, chosen.data, chosen.out, plan, shareable=chosen.shareable, benchmark=benchmark)
    print_scores(results)
    print(f"reports: {chosen.out}/*/report.html")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)
