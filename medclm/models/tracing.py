"""What one forward and backward of an objective would hold in memory, found without computing it.

Every floating-point tensor lies on the meta device: it has a shape and a lifetime but no numbers, so a 7B model is traced in
seconds on any machine. Integers are computed for real, since shapes depend on them (which tokens are targets). Knows nothing of
ranks or DeepSpeed: whoever predicts a sharded run says what becomes of gradients (medclm/memory.py).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from medclm.types import Batch

Aten = torch.ops.aten
OnGradient = Callable[[nn.Parameter], None]


@dataclass(frozen=True)
class Traced:
    """Bytes of one micro-batch, weights not counted."""

    kept: int
    """Alive when the forward ends: what backward needs."""
    peak: int
    """The most alive at once, gradients included for as long as they were left in place."""


def trace(objective: nn.Module, batch: Batch, on_gradient: OnGradient | None = None) -> Traced:
    """Run `objective` forward and backward on `batch` for shapes alone.

    Args:
        objective: parameters on the meta device (`ModelFamily.skeleton`), in training mode.
        batch: on the CPU; its integers count, its pixels do not.
        on_gradient: called when a parameter's gradient is complete; without it gradients stay.

    Raises:
        RuntimeError: an operation's shape depends on floating-point numbers.
    """
    pixels = batch.pixel_values.to("meta")
    hooks = [
        parameter.register_post_accumulate_grad_hook(on_gradient)  # type: ignore[no-untyped-call]
        for parameter in objective.parameters()
        if parameter.requires_grad and on_gradient is not None
    ]
    shadow = Batch(**{**vars(batch), "pixel_values": pixels})
    try:
        with _flash_attention(), _Held(objective) as held:
            loss = objective(shadow).loss
            kept = held.bytes
            loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
        objective.zero_grad(set_to_none=True)
    return Traced(kept=kept, peak=held.peak)


@contextlib.contextmanager
def _flash_attention() -> Iterator[None]:
    """On the meta device PyTorch takes the kernel that spells out all scores, real devices one that does not; hence another for a while.

    (Modes cannot do it: the choice is made below the dispatcher, and function modes are off in what backward recomputes.)
    """
    usual = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = _flash
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = usual


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Kept for backward: query, key, value, output and one number a row; alike on CPUs and GPUs."""
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out: torch.Tensor = Aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return out


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of living meta storages, those of `objective`'s own parameters and buffers excepted."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        own = [*objective.parameters(), *objective.buffers()]
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in own)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = _on_one_device(func, args, kwargs or {})
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.bytes -= size


def _on_one_device(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Arguments such that integers stay on the CPU among themselves, and meet floating-point tensors on the meta device."""
    tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
    if not any(tensor.device.type == "meta" for tensor in tensors):
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        whole = dtype is None or not dtype.is_floating_point
        numbers = [item for item in tree_leaves(args) if isinstance(item, (int, float))]
        counted = bool(tensors) or (dtype is not None) or all(isinstance(number, int) for number in numbers)
        made = func in (Aten.empty.memory_format, Aten.ones.default, Aten.zeros.default)  # floating-point unless told otherwise
        if device is not None and torch.device(device).type == "meta" and whole and counted and not (made and dtype is None):
            kwargs = {**kwargs, "device": torch.device("cpu")}
        return args, kwargs
    if func is Aten.index.Tensor:  # a mask says by its numbers how much it takes
        args = (args[0], [place for index in args[1] for place in _places(index)])
    args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    return args, kwargs


def _places(index: torch.Tensor | None) -> list[torch.Tensor | None]:
    if index is None or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    return list(index.nonzero(as_tuple=True))
