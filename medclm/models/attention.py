"""Which attention kernel runs. `auto` takes the best that is installed and fits the device and precision.

Knows nothing of model families; a kernel that was asked for and cannot run is an error, never a silent fallback.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

log = logging.getLogger(__name__)

ORDER = ("flash_attention_3", "flash_attention_2")
NEEDS = {"flash_attention_3": ("flash-attn-3", (9, 0)), "flash_attention_2": ("flash-attn", (8, 0))}


@dataclass(frozen=True)
class Surroundings:
    """What the choice depends on."""

    installed: frozenset[str]
    """Flash kernels that can be imported."""
    capability: tuple[int, int] | None
    """CUDA compute capability of this rank's device; None = no CUDA GPU."""
    dtype: torch.dtype
    """Precision of the weights; the flash kernels take float16 and bfloat16 only."""


def surroundings(dtype: torch.dtype) -> Surroundings:
    """Those of this process."""
    found = {"flash_attention_3": is_flash_attn_3_available(), "flash_attention_2": is_flash_attn_2_available()}
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    return Surroundings(frozenset(name for name, there in found.items() if there), capability, dtype)


def obstacle(kernel: str, around: Surroundings) -> str:
    """Why `kernel` cannot run, or an empty string."""
    if kernel not in NEEDS:
        return ""
    package, least = NEEDS[kernel]
    if around.capability is None:
        return "needs a CUDA GPU"
    if around.capability[0] < least[0]:
        return f"needs compute capability {least[0]}.{least[1]}, this GPU has {around.capability[0]}.{around.capability[1]}"
    if kernel not in around.installed:
        return f"needs the package {package} (see README, extras gpu)"
    if around.dtype not in (torch.bfloat16, torch.float16):
        return f"needs train.precision=bf16, not {str(around.dtype).removeprefix('torch.')}"
    return ""


def choose_attention(asked: str, around: Surroundings) -> str:
    """The kernel's transformers name.

    Args:
        asked: `model.attention`.

    Raises:
        ValueError: a kernel was asked for that cannot run here.
    """
    if asked != "auto":
        why = obstacle(asked, around)
        if why:
            raise ValueError(f"model.attention={asked}: {why}; use model.attention=auto")
        return asked
    chosen = next((kernel for kernel in ORDER if not obstacle(kernel, around)), "sdpa")
    log.info("model.attention=auto: %s", chosen)
    return chosen
