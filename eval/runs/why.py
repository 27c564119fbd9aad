"""Why a sample was shown at its stage: the decision again, with everything that went into it; and where a record was seen.

Works for any policy: from its chances, its reports and the plain numbers in its state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.runs.replay import LoggedCurriculum
from medclm.curriculum.course import Fate, Turn
from medclm.curriculum.policy import Policy
from medclm.curriculum.stages import FALLBACK
from medclm.data.schema import SPLITS
from medclm.draws import uniforms
from medclm.types import Stage

FATES = {
    Fate.IN_FLIGHT: "not consumed yet, or the run ended before",
    Fate.APPLIED: "applied",
    Fate.SKIPPED: "skipped: the step was not finite",
}


@dataclasses.dataclass(frozen=True)
class Change:
    """A number of the policy became another one."""

    batch_index: int
    """The first decision that knew the new one."""
    before: float
    after: float
    restless: bool
    """It changed at the batch before, too."""

    def __str__(self) -> str:
        relative = f", {self.after / self.before - 1:+.1%}" if np.isfinite(self.before) and self.before else ""
        return f"   (since batch {self.batch_index}; before that {_number(self.before)}{relative})"


def print_why(run: LoggedCurriculum, what: str | None, step: int | None) -> None:
    """Answer `--why` and `--step`.

    Args:
        what: a global position, or a record id; None = the whole batch of `step`.
        step: number of updates before the batch in question; None with a record = everywhere it was seen.

    Raises:
        ValueError: no such position, record or step in this run; says where there is one.
    """
    if what is None:
        assert step is not None
        _print_batch(run, int(_batches_of(run, step)[-1]))
        return
    positions = _positions(run, what)
    if step is not None:
        batches = _batches_of(run, step)
        here = positions[np.isin(positions // run.global_batch_size, batches)]
        if not len(here):
            steps = run.log.applied_before[positions // run.global_batch_size]
            raise ValueError(f"--why {what}: not in step {step}; in this run it was at step {_some(steps)}")
        positions = here
    elif len(positions) > 1 or not _is_position(what):
        _print_visits(run, what, positions)
        return
    for position in positions.tolist():
        _print_decision(run, position)


def _is_position(what: str) -> bool:
    return what.isdecimal() and len(what) <= 18


def _positions(run: LoggedCurriculum, what: str) -> np.ndarray:
    """(n,) int64, ascending: where in the run's sequence `what` is."""
    samples = len(run.log.rows) * run.global_batch_size
    if _is_position(what):
        if int(what) >= samples:
            raise ValueError(f"--why {what}: the log holds positions 0 to {samples - 1} ({len(run.log.rows)} batches)")
        return np.array([int(what)])
    row, split = _record_row(run, what)
    positions = np.arange(samples)
    found = positions[run.stream.record_rows(positions) == row]
    if not len(found):
        trained = str(run.log.header["stream"]["split"])
        reason = (
            f"it is in split {split}, the run read {trained}" if split != trained else "too small a box, or not yet its turn"
        )
        raise ValueError(f"--why {what}: this record was not among the run's {samples:,} samples: {reason}")
    return found


def _record_row(run: LoggedCurriculum, record_id: str) -> tuple[int, str]:
    """A record's row among all records of the corpus, and its split."""
    corpus, first = run.stream.corpus, 0
    for split in SPLITS:
        begin = 0
        for batch in corpus.scan("records", ["record_id"], split):
            place = pc.index(batch.column(0), pa.scalar(record_id, batch.schema.field(0).type)).as_py()
            if place >= 0:
                return _row_of(corpus.record_files(split), begin + place), split
            begin += batch.num_rows
        first += begin
    raise ValueError(f"--why {record_id}: no such record among the {first:,} of {corpus.folder}, and no number of a position")


def _row_of(files: list[tuple[int, int]], within_split: int) -> int:
    for first, rows in files:
        if within_split < rows:
            return first + within_split
        within_split -= rows
    raise AssertionError("the scan read more rows than the files have")


def _batches_of(run: LoggedCurriculum, step: int) -> np.ndarray:
    """(n,) int64: batches consumed after exactly `step` updates: those that were skipped there, then the applied one."""
    applied = run.log.applied_before
    batches = np.flatnonzero(applied == step)
    if not len(batches):
        raise ValueError(f"--step {step}: this run has steps 0 to {int(applied[-1])}")
    rows = run.log.rows["observed"][batches]
    return batches[rows != Fate.IN_FLIGHT] if (rows != Fate.IN_FLIGHT).any() else batches[:1]


def _turn(run: LoggedCurriculum, batch_index: int) -> tuple[Turn, dict[str, Change]]:
    """One batch's decision, and the last change of each plain number of the policy that does not move at every step."""
    changes: dict[str, Change] = {}
    before: dict[str, float] = {}
    for turn in run.turns():
        now = _numbers(run.policy, turn)
        for name, value in now.items():
            if name in before and not _same(before[name], value):
                last = changes[name].batch_index if name in changes else -1
                changes[name] = Change(turn.batch_index, before[name], value, restless=turn.batch_index - last == 1)
        before = now
        if turn.batch_index == batch_index:
            return turn, {name: change for name, change in changes.items() if not change.restless}
    raise AssertionError(f"batch {batch_index} is not in the log")


def _numbers(policy: Policy[Any], turn: Turn) -> dict[str, float]:
    """What the policy reports, and the plain numbers among the fields of its state."""
    state = turn.state
    fields = dataclasses.fields(state) if dataclasses.is_dataclass(state) else ()
    plain = {entry.name: getattr(state, entry.name) for entry in fields}
    return {
        **policy.report(state, turn.progress),
        **{name: value for name, value in plain.items() if isinstance(value, int | float)},
    }


def _same(left: float, right: float) -> bool:
    return left == right or (np.isnan(left) and np.isnan(right))


def _print_head(run: LoggedCurriculum, turn: Turn) -> None:
    before = turn.batch_index - turn.step
    note = (
        f"; {before} batches before it were skipped, so step and batch differ" if before and turn.fate != Fate.IN_FLIGHT else ""
    )
    print(f"batch {turn.batch_index}, step {turn.step} ({FATES[turn.fate]}){note}")
    last = turn.batch_index - int(run.log.header["lookahead"]) - 1
    observed = run.log.rows["observed"][: max(0, last + 1)]
    rests = (
        f"the losses of batches 0 to {last} ({int((observed == Fate.APPLIED).sum())} applied)" if last >= 0 else "no loss yet"
    )
    print(f"  decided at {turn.progress:.2%} of the run on {rests}; lookahead {run.log.header['lookahead']}")


def _print_state(run: LoggedCurriculum, turn: Turn, changes: Mapping[str, Change]) -> None:
    print(f"  state of {run.policy.name}:")
    numbers = _numbers(run.policy, turn)
    for name, value in numbers.items():
        print(f"    {name:20} {_number(value)}{changes.get(name, '')}")
    if not numbers:
        print("    nothing: its shares do not depend on what was seen")


def _print_decision(run: LoggedCurriculum, position: int) -> None:
    """Everything about one sample's stage."""
    turn, changes = _turn(run, position // run.global_batch_size)
    slot = position % run.global_batch_size
    domain = int(turn.batch.domains[slot])
    record = run.stream.corpus.row("records", int(run.stream.record_rows(np.array([position]))[0]), ["record_id"])["record_id"]
    print(f"record {record} at position {position}: sample {slot} of ", end="")
    _print_head(run, turn)
    _print_state(run, turn, changes)
    print(f"  domain {run.log.header['domains'][domain]}:")
    for name, values in run.policy.domain_report(turn.state).items():
        print(f"    {name:20} {_number(float(values[domain]))}")
    averages = getattr(turn.state, "averages", None)
    if averages is not None:
        seen = ", ".join(f"{stage.key} {int(averages.count[domain, stage])}" for stage in Stage)
        print(f"    {'updates of averages':20} {seen}")
    chances = run.policy.probabilities(turn.state, np.array([domain]), turn.progress)[0]
    draw = float(uniforms(int(run.log.header["seed"]), "stage", np.array([position]))[0])
    hard, medium = float(chances[Stage.HARD]), float(chances[Stage.HARD] + chances[Stage.MEDIUM])
    wanted, decided, given = (Stage(stages[slot]) for stages in (turn.wanted, turn.decided, turn.given))
    print("  draw:")
    print(f"    {'chances':20} " + ", ".join(f"{stage.key} {chances[stage]:.4f}" for stage in Stage))
    print(
        f"    {'drawn':20} {draw:.6f}: Hard below {hard:.4f}, else Medium below {medium:.4f}, else Easy -> {wanted.name.title()}"
    )
    offers = [stage for stage in Stage if turn.batch.offered[slot, stage]]
    print(f"    {'the record offers':20} {', '.join(stage.name.title() for stage in offers)}")
    if decided != wanted:
        order = ", then ".join(stage.name.title() for stage in FALLBACK)
        print(
            f"    {'fallback':20} {wanted.name.title()} is not offered: {decided.name.title()} (the first offered of {order})"
        )
    loss = f", its loss was {float(turn.losses[slot]):.4g}" if turn.fate == Fate.APPLIED else ""
    print(f"  given: {given.name.title()}{loss}")
    if decided != given:
        print(f"  NOT EQUAL: the log says {given.name.title()}, {decided.name.title()} is recomputed")


def _print_batch(run: LoggedCurriculum, batch_index: int) -> None:
    """A whole batch: the state, and what was wanted and given."""
    turn, changes = _turn(run, batch_index)
    _print_head(run, turn)
    _print_state(run, turn, changes)
    chances = run.policy.probabilities(turn.state, turn.batch.domains, turn.progress)
    for title, counts in (
        ("expected", chances.sum(axis=0)),
        ("wanted", np.bincount(turn.wanted, minlength=3)),
        ("given", np.bincount(turn.given, minlength=3)),
    ):
        print(f"  samples {title:14} " + ", ".join(f"{stage.key} {counts[stage]:.4g}" for stage in Stage))
    first = turn.batch_index * run.global_batch_size
    print(f"  a sample of it: --why {first} to --why {first + run.global_batch_size - 1}, or a record id")


def _print_visits(run: LoggedCurriculum, record_id: str, positions: np.ndarray) -> None:
    rows, applied = run.log.rows, run.log.applied_before
    print(f"record {record_id}: seen {len(positions)} {'time' if len(positions) == 1 else 'times'} in {run.folder}")
    print(f"  {'epoch':>5} {'position':>10} {'batch':>8} {'step':>8}  {'stage':8} loss")
    for position in positions.tolist():
        batch, slot = divmod(position, run.global_batch_size)
        row = rows[batch]
        fate = Fate(row["observed"])
        loss = f"{float(row['losses'][slot]):.4g}" if fate == Fate.APPLIED else f"- ({FATES[fate]})"
        stage = Stage(row["stages"][slot]).name.title()
        print(f"  {position // len(run.stream.order):>5} {position:>10} {batch:>8} {applied[batch]:>8}  {stage:8} {loss}")
    print(f"  why: --replay {run.folder} --why {positions[0]}")


def _number(value: float) -> str:
    return "unknown yet" if np.isnan(value) else f"{value:.4g}"


def _some(steps: np.ndarray) -> str:
    shown = ", ".join(map(str, steps[:10].tolist()))
    return shown if len(steps) <= 10 else f"{shown}, ... ({len(steps)} in all)"
