"""Who this process is among its peers, and the small CPU messages they exchange. Knows nothing of models or DeepSpeed.

The control plane (stages, losses, flags) runs on its own gloo group with its own timeout, so that a message never waits
behind a model collective and a silent peer is named as what was waited for.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place: read from the environment that the deepspeed, torchrun or srun launcher sets."""

    rank: int
    local_rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> Ranks:
        """RANK, LOCAL_RANK and WORLD_SIZE, or a single process where they are absent.

        Raises:
            ValueError: a value that is not a number, or a rank outside the world.
        """
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        try:
            rank, local_rank, world = (
                int(os.environ.get(name, default)) for name, default in zip(names, ("0", "0", "1"), strict=True)
            )
        except ValueError as error:
            found = {name: os.environ.get(name) for name in names}
            raise ValueError(f"{found}: the launcher must set these to whole numbers") from error
        if not 0 <= rank < world:
            raise ValueError(f"RANK={rank} is outside WORLD_SIZE={world}: start the ranks with one launcher")
        return cls(rank=rank, local_rank=local_rank, world_size=world)


@contextlib.contextmanager
def joined(*, timeout_s: float) -> Iterator[Ranks]:
    """This process among its peers, on a gloo group that a launcher's environment describes; alone without a launcher.

    For programs without DeepSpeed, which brings its own group (medclm/engine.py).
    """
    ranks = Ranks.from_environment()
    if ranks.world_size == 1:
        yield ranks
        return
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


class ControlPlane:
    """Gather to rank 0, broadcast from it, and agree: for small messages of a fixed length. A no-op in a single process.

    A message longer than the receiver's makes gloo end the receiver's process, so that whoever uses this must first see to it
    that all ranks have the same lengths (medclm/curriculum/service.py greets).
    """

    def __init__(self, ranks: Ranks, *, timeout_s: float, knob: str = "curriculum.timeout_s") -> None:
        """`knob`: what a user raises for a longer wait."""
        self.ranks, self.timeout_s, self._knob = ranks, timeout_s, knob
        self._group = None
        if ranks.world_size > 1:
            with self._watch("all ranks to join"):
                self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))

    def gather(self, message: np.ndarray, *, what: str) -> np.ndarray | None:
        """The messages (R, L) uint8 of all ranks on rank 0, in order; None elsewhere.

        Args:
            message: (L,) uint8, of the same length on every rank.
            what: for the error, as in "the losses of batch 7".

        Raises:
            RuntimeError: a peer did not answer within the timeout or is gone; names who waited for what.
        """
        if self._group is None:
            return message[None]
        main, world = self.ranks.is_main, self.ranks.world_size
        messages = torch.empty((world, len(message)), dtype=torch.uint8) if main else None
        whom = f"{what} from {_others(world)}" if main else f"rank 0 to take {what}"
        with self._watch(whom):
            places = list(messages) if messages is not None else None
            dist.gather(torch.from_numpy(message), places, dst=0, group=self._group)
        return messages.numpy() if messages is not None else None

    def broadcast(self, message: np.ndarray | None, *, length: int, what: str) -> np.ndarray:
        """Rank 0's message (L,) uint8 on every rank.

        Args:
            message: (length,) uint8 on rank 0, None elsewhere.

        Raises:
            RuntimeError: rank 0 did not answer within the timeout or is gone; names who waited for what.
        """
        if self._group is None:
            assert message is not None
            return message
        buffer = torch.empty(length, dtype=torch.uint8) if message is None else torch.from_numpy(message)
        with self._watch(f"{_others(self.ranks.world_size)} to take {what}" if self.ranks.is_main else f"{what} from rank 0"):
            dist.broadcast(buffer, src=0, group=self._group)
        return buffer.numpy()

    def largest(self, number: int, *, what: str) -> int:
        """The largest of all ranks' numbers, on every rank.

        Raises:
            RuntimeError: a peer did not answer within the timeout or is gone; names who waited for what.
        """
        if self._group is None:
            return number
        numbers = torch.tensor([number])
        with self._watch(f"every rank's word on {what}"):
            dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=self._group)
        return int(numbers)

    def collect(self, item: T, *, what: str) -> list[T]:
        """Every rank's item, in order of ranks, on every rank; any picklable value, for moments that are not a step's.

        Raises:
            RuntimeError: a peer did not answer within the timeout or is gone; names who waited for what.
        """
        if self._group is None:
            return [item]
        items: list[Any] = [None] * self.ranks.world_size
        with self._watch(f"every rank's word on {what}"):
            dist.all_gather_object(items, item, group=self._group)
        return items

    def from_main(self, make: Callable[[], T], *, what: str) -> T:
        """What `make` returns on rank 0, on every rank; so does the error that it raises.

        Raises:
            RuntimeError: rank 0 did not answer within the timeout or is gone; names who waited for what.
        """
        if self._group is None:
            return make()
        told: list[Any] = [None, None]
        if self.ranks.is_main:
            try:
                told[0] = make()
            except Exception as error:  # the others must hear of it, or they would wait for the timeout
                told[1] = error
        whom = f"{_others(self.ranks.world_size)} to take {what}" if self.ranks.is_main else f"{what} from rank 0"
        with self._watch(whom):
            dist.broadcast_object_list(told, src=0, group=self._group)
        made, fault = told
        if fault is not None:
            raise fault
        return made  # type: ignore[no-any-return]

    def main_only(self, make: Callable[[], T], *, what: str) -> T | None:
        """`make()` on rank 0, which keeps what it returns; the others get None, or the error that it raises."""
        made: list[T] = []
        self.from_main(lambda: made.append(make()), what=what)
        return made[0] if self.ranks.is_main else None

    def main_first(self, make: Callable[[], T], *, what: str) -> T:
        """`make()` on rank 0, then on the others, which find its files in place; they raise what rank 0 raises."""
        made = self.main_only(make, what=what)
        return made if made is not None else make()

    @contextlib.contextmanager
    def _watch(self, whom: str) -> Iterator[None]:
        """Turn gloo's words into who waited for what, and what to do."""
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            # gloo knows a peer by its address only, and a time-out not even by that.
            address = re.search(r"\[[^\]/]+\]:\d+", text)
            if "imed out" in text or "timeout" in text:
                fault = f"no answer within {self.timeout_s:g} s"
                cure = "a rank hangs, died or raised: look for the first error in its log; if it is slow, raise " + self._knob
            elif "losed" in text or "reset" in text:
                fault = "lost the connection to another rank" + (f" ({address[0]})" if address else "")
                cure = "its process died or raised: look for the first error in its log"
            else:
                fault, cure = f"failed ({text})", "look for the first error in the logs of the other ranks"
            raise RuntimeError(f"rank {self.ranks.rank}: {fault} while waiting for {whom}: {cure}") from error


def _others(world_size: int) -> str:
    return "rank 1" if world_size == 2 else f"one of ranks 1 to {world_size - 1}"
