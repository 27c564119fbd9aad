"""What a drill case is: which faults, when and where, all drawn from (seed, number). Pure; knows no process and no torch.

A case is one run in several attempts. An attempt may begin with damage to what the last one left, and may meet one fault; after
the planned attempts the run is resumed undisturbed until it is finished.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medclm.draws import generator

STEPS, CHECKPOINT_EVERY, GLOBAL_BATCH = 30, 5, 12
SPIKE_STEPS, SPIKE_AT = 50, 42
"""Of a run with a spike: the guard knows none before it has seen 32 batches."""
GRADIENT = "gradient"
TIMEOUT_S = 15.0
"""`curriculum.timeout_s` and `engine.timeout_s` of every run."""
PLACES = ("exchange", "forward", "update", "save")
"""Before the curriculum's exchange, inside the model's forward, between backward and update, as a checkpoint is begun."""
STOPS = ("SIGTERM", "SIGUSR1", "SIGINT")
DAMAGES = ("flip", "truncate", "no_manifest", "no_file", "half_written")
"""What is done to the newest checkpoint; `half_written` leaves a temporary folder beside it."""
SHAPES: dict[str, tuple[str, ...]] = {
    "plain": ("--train.micro_batch_size=6",),
    "accumulating": ("--train.micro_batch_size=3",),
    "lora": ("--train.micro_batch_size=6", "--model.freeze_language_model=true", "--model.lora.rank=4"),
}
"""Ways to train, by name; each has its own undisturbed run."""
SHAPES["lora_without_dropout"] = (
    *SHAPES["lora"],
    "--model.lora.dropout=0",
)  # what dropout leaves out depends on the micro-batch


@dataclass(frozen=True)
class Fault:
    """One fault and its moment."""

    action: str
    """A signal's name, `raise`, `memory`, `clock`, `fill`, `read_only`, `tracker_killed` or `tracker_frozen`."""
    rank: int = 0
    """The rank that waits for the moment."""
    target: str = "rank"
    """Who gets a signal: that `rank`, `all` ranks, the `launcher`, or the `runner` above it."""
    place: str = "forward"
    """One of PLACES, or `any`: `delay_s` after the attempt began."""
    at: int = 0
    """Batch at which the moment comes; the step of the checkpoint for `save`."""
    delay_s: float = 0.0
    """From that place on."""
    again_s: float | None = None
    """Seconds until the same signal comes a second time; for SIGSTOP until SIGCONT, for others until the cause is removed."""
    jump_s: float = 0.0
    """Of the wall clock."""

    @property
    def ends(self) -> bool:
        """Whether the attempt cannot go on to the end of the run."""
        if self.action == "SIGSTOP":
            return self.again_s is None or self.again_s > TIMEOUT_S
        return self.action.startswith("SIG") or self.action in ("raise", "memory")


@dataclass(frozen=True)
class Attempt:
    """One start of the run."""

    world_size: int = 2
    launcher: str = "strict"
    """`strict` ends the other ranks when one fails, `patient` lets them come to their end, `deepspeed` is the real one."""
    damage: str | None = None
    """One of DAMAGES, or `shard`: done before this start."""
    fault: Fault | None = None


@dataclass(frozen=True)
class Case:
    """Everything that decides what happens; an equal case is an equal drill."""

    number: int
    seed: int
    kind: str
    attempts: tuple[Attempt, ...]
    shape: str = "plain"
    losses: tuple[tuple[int, str], ...] = ()
    """(batch, factor): the loss of that batch is multiplied by it, or its gradient made infinite (`GRADIENT`), in every attempt and in
    the undisturbed run alike. Texts, since `nan` equals nothing."""
    tracked: bool = False
    """The run reports to a tracking server."""
    small_disk: bool = False
    """The run folder lies on a small file system of its own."""
    pace_s: float = 0.0
    """Added to every step, where a run would else be over before somebody can notice."""

    @property
    def same_world(self) -> bool:
        return {attempt.world_size for attempt in self.attempts} == {2}

    @property
    def steps(self) -> int:
        return SPIKE_STEPS if self.kind == "spike" else STEPS

    @property
    def flags(self) -> tuple[str, ...]:
        """Recipe keys that change what is learned; the undisturbed run has the same."""
        return (*SHAPES[self.shape], f"--train.steps={self.steps}")


@dataclass(frozen=True)
class Draw:
    """The random numbers of one case."""

    random: np.random.Generator

    def one(self, *choices: str) -> str:
        return choices[int(self.random.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def number(self, low: int, high: int) -> int:
        """low <= n < high."""
        return int(self.random.integers(low, high))

    def seconds(self, low: float, high: float) -> float:
        return round(float(self.random.uniform(low, high)), 3)

    def moment(self, first: int = 0, last: int = STEPS) -> dict[str, object]:
        """Place, batch and delay of something within batches first .. last - 1."""
        place = self.one(*PLACES)
        if place == "save":
            saves = [step for step in range(CHECKPOINT_EVERY, STEPS + 1, CHECKPOINT_EVERY) if first <= step <= last]
            return {"place": place, "at": saves[self.number(0, len(saves))], "delay_s": self.seconds(0, 0.4)}
        return {"place": place, "at": self.number(first, last), "delay_s": self.seconds(0, 0.2) if self.chance(0.5) else 0.0}

    def moment_or_any(self, first: int = 0) -> dict[str, object]:
        """The same, or one time in five any time after the start, start-up included."""
        if self.chance(0.2):
            return {"place": "any", "delay_s": self.seconds(0.05, 9)}
        return self.moment(first)

    def launcher(self) -> str:
        return self.one("strict", "patient")


def _kill(draw: Draw) -> dict[str, object]:
    target = draw.one("rank", "rank", "all", "launcher")
    fault = Fault("SIGKILL", rank=draw.number(0, 2), target=target, **draw.moment_or_any())  # type: ignore[arg-type]
    return {"attempts": (Attempt(launcher=draw.launcher(), fault=fault),), "pace_s": 0.3 if target == "launcher" else 0.0}


def _stop(draw: Draw) -> dict[str, object]:
    again = draw.seconds(0.01, 3.0) if draw.chance(0.3) else None
    target, action = draw.one("rank", "rank", "all", "launcher"), draw.one(*STOPS)
    if target == "launcher" and action == "SIGUSR1":
        action = "SIGTERM"  # no launcher passes the others on
    fault = Fault(action, rank=draw.number(0, 2), target=target, again_s=again, **draw.moment_or_any())  # type: ignore[arg-type]
    return {"attempts": (Attempt(launcher=draw.launcher(), fault=fault),)}


def _freeze(draw: Draw) -> dict[str, object]:
    thaw = draw.seconds(1, 5) if draw.chance(0.3) else None
    launcher = "strict"
    if thaw is None and draw.chance(0.4):
        thaw, launcher = draw.seconds(TIMEOUT_S + 5, TIMEOUT_S + 8), "patient"  # it wakes when the others are gone
    fault = Fault("SIGSTOP", rank=draw.number(0, 2), again_s=thaw, **draw.moment())  # type: ignore[arg-type]
    return {"attempts": (Attempt(launcher=launcher, fault=fault),)}


def _raise(draw: Draw) -> dict[str, object]:
    fault = Fault("raise", rank=draw.number(0, 2), **draw.moment() | {"delay_s": 0.0})  # type: ignore[arg-type]
    return {"attempts": (Attempt(launcher=draw.launcher(), fault=fault),)}


def _memory(draw: Draw) -> dict[str, object]:
    fault = Fault("memory", rank=draw.number(0, 2), place=draw.one("forward", "update"), at=draw.number(0, STEPS))
    return {"attempts": (Attempt(launcher=draw.launcher(), fault=fault),)}


def _not_finite(draw: Draw) -> dict[str, object]:
    first, in_row, factor = draw.number(1, 4) * 7, draw.number(1, 4), draw.one("nan", "inf", GRADIENT)
    losses = tuple((batch, factor) for batch in range(first, first + in_row))
    return _stop_or_kill(draw, near=first) | {"losses": losses}


def _spike(draw: Draw) -> dict[str, object]:
    return _stop_or_kill(draw, near=SPIKE_AT) | {"losses": ((SPIKE_AT, draw.one("10", "100", "1e4")),)}


def _stop_or_kill(draw: Draw, near: int) -> dict[str, object]:
    action, rank, place = draw.one("SIGKILL", "SIGTERM"), draw.number(0, 2), draw.one("exchange", "update")
    fault = Fault(action, rank=rank, place=place, at=near + draw.number(-2, 5))
    return {"attempts": (Attempt(launcher=draw.launcher(), fault=fault),)}


def _corrupt(draw: Draw) -> dict[str, object]:
    damage = draw.one(*DAMAGES, "shard")
    fault = Fault(draw.one("SIGKILL", "SIGTERM"), rank=draw.number(0, 2), **draw.moment(first=12, last=26))  # type: ignore[arg-type]
    return {"attempts": (Attempt(launcher=draw.launcher(), fault=fault), Attempt(damage=damage))}


def _disk_full(draw: Draw) -> dict[str, object]:
    freed = draw.seconds(0.5, 3) if draw.chance(0.5) else None
    fault = Fault("fill", again_s=freed, **draw.moment(first=CHECKPOINT_EVERY))  # type: ignore[arg-type]
    return {"attempts": (Attempt(launcher=draw.launcher(), fault=fault),), "small_disk": True}


def _read_only(draw: Draw) -> dict[str, object]:
    freed = draw.seconds(0.5, 3) if draw.chance(0.5) else None
    fault = Fault("read_only", again_s=freed, **draw.moment(first=CHECKPOINT_EVERY))  # type: ignore[arg-type]
    return {"attempts": (Attempt(launcher=draw.launcher(), fault=fault),)}


def _tracker(draw: Draw) -> dict[str, object]:
    fault = Fault(draw.one("tracker_killed", "tracker_frozen"), **draw.moment())  # type: ignore[arg-type]
    return {"attempts": (Attempt(fault=fault),), "tracked": True}


def _world(draw: Draw) -> dict[str, object]:
    worlds = [draw.number(1, 4)]
    while len(worlds) < 3:
        worlds.append(int(draw.random.choice([world for world in (1, 2, 3) if world != worlds[-1]])))
    moments = (draw.number(6, 14), draw.number(16, 26))
    faults = [Fault(draw.one("SIGKILL", "SIGTERM"), place=draw.one("exchange", "update"), at=at) for at in moments]
    return {"attempts": tuple(Attempt(world, fault=fault) for world, fault in zip(worlds, [*faults, None], strict=True))}


def _clock(draw: Draw) -> dict[str, object]:
    jump = draw.seconds(-86400, 86400)
    fault = Fault("clock", rank=draw.number(0, 2), jump_s=jump, **draw.moment() | {"delay_s": 0.0})  # type: ignore[arg-type]
    return {"attempts": (Attempt(fault=fault),)}


def _launcher(draw: Draw) -> dict[str, object]:
    target = draw.one("rank", "launcher", "runner")
    fault = Fault(draw.one("SIGKILL", "SIGTERM"), rank=draw.number(0, 2), target=target, **draw.moment())  # type: ignore[arg-type]
    return {"attempts": (Attempt(launcher="deepspeed", fault=fault),), "pace_s": 0.0 if target == "rank" else 0.3}


KINDS: dict[str, tuple[int, Callable[[Draw], dict[str, object]]]] = {
    "kill": (4, _kill),
    "stop": (4, _stop),
    "freeze": (2, _freeze),
    "raise": (1, _raise),
    "memory": (1, _memory),
    "not_finite": (2, _not_finite),
    "spike": (1, _spike),
    "corrupt": (3, _corrupt),
    "disk_full": (1, _disk_full),
    "read_only": (1, _read_only),
    "tracker": (1, _tracker),
    "world": (2, _world),
    "clock": (1, _clock),
    "launcher": (1, _launcher),
}
"""Kind -> how often it comes in a deck of 25 cases, and how one is drawn."""

TWICE = ("kill", "stop", "raise")
"""Kinds whose next attempt may be disturbed too."""
SHAPED = ("kill", "stop", "corrupt", "world")
"""Kinds that train in every shape; the others in the plain one."""


def draw_case(number: int, seed: int) -> Case:
    """Case `number` of a drill; every deck of 25 in a row holds every kind."""
    deck = [kind for kind, (cards, _) in KINDS.items() for _ in range(cards)]
    place = generator(seed, "drill.deck", number // len(deck)).permutation(len(deck))[number % len(deck)]
    kind = deck[int(place)]
    draw = Draw(generator(seed, "drill.case", number))
    content = KINDS[kind][1](draw)
    if kind in TWICE and draw.chance(0.3):
        more = KINDS[draw.one(*TWICE)][1](draw)
        content["attempts"] += more["attempts"]  # type: ignore[operator]
        content["pace_s"] = content.get("pace_s") or more.get("pace_s", 0.0)
    shape = draw.one("plain", "plain", "accumulating", "lora") if kind in SHAPED else "plain"
    if kind == "world" and shape == "lora":
        shape = "lora_without_dropout"
    return Case(number=number, seed=seed, kind=kind, shape=shape, **content)  # type: ignore[arg-type]
