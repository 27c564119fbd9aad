"""Who this process is among its peers, and the small CPU messages they exchange. Knows nothing of models or DeepSpeed.

The control plane (stages, losses, flags) runs on its own gloo group with its own timeout, so that a message never waits
behind a model collective and a silent peer is named as what was waited for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


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


class ControlPlane:
    """Gather to rank 0 and broadcast from it, for small byte messages of a fixed length. A no-op in a single process."""

    def __init__(self, ranks: Ranks, *, timeout_s: float) -> None:
        self.ranks, self.timeout_s = ranks, timeout_s
        self._group = None
        if ranks.world_size > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))

    def gather(self, message: bytes, *, what: str) -> list[bytes] | None:
        """The messages of all ranks, in order, on rank 0; None elsewhere. All have the same length.

        Raises:
            RuntimeError: a peer did not answer within the timeout, naming `what` was waited for.
        """
        if self._group is None:
            return [message]
        mine = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        places = [torch.empty_like(mine) for _ in range(self.ranks.world_size)] if self.ranks.is_main else None
        try:
            dist.gather(mine, places, dst=0, group=self._group)
        except RuntimeError as error:
            raise self._lost(what) from error
        return [bytes(place.numpy().tobytes()) for place in places] if places is not None else None

    def broadcast(self, message: bytes | None, *, length: int, what: str) -> bytes:
        """Rank 0's message on every rank.

        Args:
            message: `length` bytes on rank 0, ignored elsewhere.

        Raises:
            RuntimeError: rank 0 did not answer within the timeout.
        """
        if self._group is None:
            assert message is not None
            return message
        buffer = torch.empty(length, dtype=torch.uint8)
        if message is not None and self.ranks.is_main:
            buffer = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        try:
            dist.broadcast(buffer, src=0, group=self._group)
        except RuntimeError as error:
            raise self._lost(what) from error
        return bytes(buffer.numpy().tobytes())

    def _lost(self, what: str) -> RuntimeError:
        return RuntimeError(
            f"rank {self.ranks.rank}: no answer within {self.timeout_s:g} s while waiting for {what}: another rank died, hangs or "
            f"raised (its own log says why); a slow one needs a larger curriculum.timeout_s"
        )
