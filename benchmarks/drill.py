"""The fault drill: a small training, disturbed at random moments, resumed, and compared with the undisturbed one.

    python benchmarks/drill.py --cases 200 --seed 0 --max-minutes 40      finished cases are skipped; one JSON line each
    python benchmarks/drill.py --cases 200 --seed 0 --only kill,freeze
    python benchmarks/drill.py --replay 17 --seed 0                       one case again; its files are kept and named
    python benchmarks/drill.py --table                                    what all cases came to

Kinds, moments and damages: benchmarks/faults/cases.py. Linux, CPU, about ten seconds a case on two cores; disks are filled and
made read-only by mounts, so those kinds need root. docs/faults.md says what must be survived and how.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Before any import: one thread, no accelerator, and no background thread of Arrow's allocator, since ranks are forked.
os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1", JE_ARROW_MALLOC_CONF="background_thread:false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.faults.cases import KINDS, Case, draw_case
from benchmarks.faults.conduct import Drill
from benchmarks.faults.processes import adopt_orphans
from medclm.config import dotted_keys

RESULTS = ROOT / "benchmarks" / "results" / "drill.jsonl"

Lines = dict[tuple[int, int], dict[str, Any]]


def read_results(path: Path) -> Lines:
    """(seed, number) -> the last line of that case."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines() if path.is_file() else [])
    return {(line["case"]["seed"], line["case"]["number"]): line for line in lines}


def is_finished(case: Case, line: dict[str, Any] | None, code: str) -> bool:
    """A line of the same case counts; one that was not ok only for the code it was found in."""
    return line is not None and line["case"] == _plain(case) and (line["ok"] or line["code"] == code)


def _plain(case: Case) -> Any:
    from dataclasses import asdict

    return json.loads(json.dumps(asdict(case)))


def why_not(case: Case) -> str | None:
    """What this machine or this version lacks for a case."""
    if case.kind in ("disk_full", "read_only") and os.geteuid() != 0:
        return "needs root, to mount"
    if case.kind == "spike" and "train.spike_sigma" not in dotted_keys():
        return "needs train.spike_sigma"
    return None


def table(lines: Lines) -> str:
    """Kind by kind: cases, starts, faults whose moment came, what was lost, repeated, left; seconds from a fault until nothing of the attempt was left."""
    rows = [
        (
            "kind",
            "cases",
            "starts",
            "faults",
            "lost",
            "repeated",
            "hangs",
            "orphans",
            "bit-equal",
            "close",
            "notice s (median, max)",
            "ok",
        )
    ]
    for kind in [*KINDS, "all"]:
        chosen = [line for line in lines.values() if kind in (line["case"]["kind"], "all")]
        if not chosen:
            continue
        attempts = [attempt for line in chosen for attempt in line["attempts"]]
        notices = [attempt["notice_s"] for attempt in attempts if attempt["notice_s"] is not None]
        same = [line for line in chosen if _same_world(line)]
        other = [line for line in chosen if not _same_world(line)]
        rows.append(
            (
                kind,
                str(len(chosen)),
                str(len(attempts)),
                str(sum(attempt["fault_at_s"] is not None for attempt in attempts)),
                str(sum(line.get("lost", 0) for line in chosen)),
                str(sum(line.get("repeated", 0) for line in chosen)),
                str(sum(line["hangs"] for line in chosen)),
                str(sum(line["orphans"] for line in chosen)),
                f"{sum(line.get('bit_equal', False) for line in same)}/{len(same)}" if same else "",
                f"{max(line.get('distance', float('nan')) for line in other):.1e}" if other else "",
                f"{statistics.median(notices):.1f}, {max(notices):.1f}" if notices else "",
                f"{sum(line['ok'] for line in chosen)}/{len(chosen)}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def _same_world(line: dict[str, Any]) -> bool:
    return all(attempt["world_size"] == 2 for attempt in line["case"]["attempts"])


def tell(line: dict[str, Any]) -> str:
    case = line["case"]
    faults = [attempt["fault"] for attempt in case["attempts"] if attempt["fault"]]
    what = "; ".join(f"{fault['action']} {fault['target']} {fault['place']} {fault['at']}" for fault in faults)
    return (
        f"{case['number']:4d} {case['kind']:10s} {line['seconds']:6.1f} s  {'ok' if line['ok'] else 'WRONG'}  {what}"
        + "".join(f"\n       {one}" for one in line["wrong"])
    )


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=0, help="numbers 0 to this, less one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="begin no case after this time")
    parser.add_argument("--only", default="", help=f"kinds, with commas between: {', '.join(KINDS)}")
    parser.add_argument("--replay", type=int, help="run this case again and keep its files")
    parser.add_argument("--table", action="store_true", help="print what all cases came to")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "drill", help="where runs are made (default: runs/drill)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines (default: benchmarks/results/drill.jsonl)")
    chosen = parser.parse_args(given)
    only = set(filter(None, chosen.only.split(",")))
    if unknown := only - set(KINDS):
        parser.error(f"--only {', '.join(sorted(unknown))}: no such kind: choose of {', '.join(KINDS)}")
    numbers = [chosen.replay] if chosen.replay is not None else list(range(chosen.cases))
    wrong = drill(chosen, numbers, only) if numbers else 0
    if chosen.table or chosen.replay is None:
        print(table(read_results(chosen.results)), flush=True)
    return 1 if wrong else 0


def drill(chosen: argparse.Namespace, numbers: list[int], only: set[str]) -> int:
    """Run the cases that are due; how many were not ok."""
    adopt_orphans()
    begun, drill, wrong = time.monotonic(), Drill(chosen.work.resolve()), 0
    drill.warm()
    for number in numbers:
        case = draw_case(number, chosen.seed)
        known = read_results(chosen.results).get((chosen.seed, number))
        if (only and case.kind not in only) or (chosen.replay is None and is_finished(case, known, drill.code)):
            continue
        if lack := why_not(case):
            print(f"{number:4d} {case.kind:10s} left out: {lack}", flush=True)
            continue
        if time.monotonic() - begun > 60 * chosen.max_minutes:
            print(f"--max-minutes={chosen.max_minutes:g}: the rest is left for another time", flush=True)
            break
        line = drill.run(case)
        wrong += not line["ok"]
        print(tell(line), flush=True)
        folder = drill.work / f"case-{case.seed}-{case.number}"
        if chosen.replay is not None:
            print(f"       files: {folder}", flush=True)
            continue
        with chosen.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if line["ok"]:
            shutil.rmtree(folder)
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
