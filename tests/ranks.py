"""Real processes for tests of collectives: `run_ranks(world_size, function, ...)` starts them over gloo on 127.0.0.1."""

from __future__ import annotations

import multiprocessing
import os
import queue
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch.distributed as dist


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _child(
    function: Callable[..., Any], rank: int, world_size: int, port: int, arguments: tuple[Any, ...], results: Any
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
        results.put((rank, None, function(rank, *arguments)))
    except BaseException as error:
        results.put((rank, f"{type(error).__name__}: {error}\n{traceback.format_exc()}", None))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = 60.0) -> list[Any]:
    """`function(rank, *arguments)` in `world_size` processes; their results in rank order.

    A result is the function's return value, or a string `ErrorType: message` and traceback where it raised. A process that
    ends without a word reads `lost (exit code -9)`, one that does not answer in time is ended and reads `lost`.
    """
    for _ in range(3):
        answers = _run_once(world_size, function, arguments, timeout_s)
        # Between the choice of a free port and its use another process may have taken it.
        if not any(isinstance(answer, str) and answer.startswith("DistNetworkError") for answer in answers):
            break
    return answers


def _run_once(world_size: int, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float) -> list[Any]:
    context = multiprocessing.get_context("spawn")
    results, port = context.Queue(), free_port()
    processes = [
        context.Process(target=_child, args=(function, rank, world_size, port, arguments, results))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    answers: dict[int, Any] = {}
    deadline = time.monotonic() + timeout_s
    while len(answers) < world_size and time.monotonic() < deadline:
        ended = {rank: process.exitcode for rank, process in enumerate(processes) if not process.is_alive()}
        try:
            rank, fault, value = results.get(timeout=0.2)
            answers[rank] = fault if fault is not None else value
            if fault is not None and fault.startswith("DistNetworkError"):
                break
        except queue.Empty:  # whoever had ended before this wait has said all it will
            answers |= {rank: f"lost (exit code {code})" for rank, code in ended.items() if rank not in answers}
    for process in processes:
        process.join(timeout=5 if len(answers) == world_size else 0)
        if process.is_alive():
            process.kill()
    return [answers.get(rank, "lost") for rank in range(world_size)]
