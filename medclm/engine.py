"""The only file that imports deepspeed: processes, sharded weights, forward, backward, step, save, load.

The loop sees `Engine`: it hands in micro-batches and gets losses back. Knows nothing of stages, corpora or tracking.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medclm.config import ConfigError, EngineSection, Recipe, TrainSection
from medclm.device_memory import forget_peak, most_held
from medclm.distributed import Ranks
from medclm.memory import Layout, state_parts, weights_of
from medclm.models.objective import Losses, TokenCounts
from medclm.types import Batch


@dataclass(frozen=True)
class Device:
    """Where this rank computes."""

    name: str
    """`cuda:0`, `cpu`, ..."""
    bf16: bool
    """The accelerator computes in bfloat16 natively."""


def find_device(local_rank: int) -> Device:
    """This rank's accelerator, or the CPU."""
    if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK={local_rank}, but this machine has {torch.cuda.device_count()} GPU(s): start fewer ranks"
            )
        torch.cuda.set_device(local_rank)
        return Device(name=f"cuda:{local_rank}", bf16=torch.cuda.is_bf16_supported())
    return Device(name="cpu", bf16=False)


def wants_bf16(section: TrainSection, device: Device) -> bool:
    """`train.precision`, resolved for this machine."""
    return device.bf16 if section.precision == "auto" else section.precision == "bf16"


def connect(section: EngineSection, device: Device) -> Ranks:
    """Join the process group that the launcher's environment describes (a group of one without a launcher).

    Raises:
        ConfigError: the rendezvous port is taken.
        RuntimeError: peers do not come.
    """
    import deepspeed

    ranks = Ranks.from_environment()
    for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, str(default))
    os.environ.setdefault("MASTER_PORT", str(_free_port()) if ranks.world_size == 1 else "29500")
    if device.name == "cpu" and not section.shm_op:
        # DeepSpeed would compile a shared-memory op with g++ and ninja, a minute on every fresh machine, and fail without
        # them. An empty list of compatible ops makes it use plain gloo: the same results, nothing compiled.
        deepspeed.ops.__compatible_ops__ = {}
    backend = "gloo" if device.name == "cpu" else "nccl"
    try:
        deepspeed.init_distributed(dist_backend=backend, timeout=timedelta(seconds=section.timeout_s), verbose=False)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            raise ConfigError(
                f"port {os.environ['MASTER_PORT']} on {os.environ['MASTER_ADDR']} is in use: another run? Choose another one with "
                f"`deepspeed --master_port N ...`"
            ) from error
        raise
    return ranks


def _free_port() -> int:
    """A port for a group of one, which talks to nobody but itself."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def disconnect() -> None:
    """Leave the process group."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def sharded_weights(ds_config: dict[str, Any]) -> Iterator[None]:
    """While open, transformers builds and loads models in ZeRO-3 shards, so that no rank ever holds a whole one."""
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    live = HfDeepSpeedConfig(ds_config)  # transformers keeps a weak reference: it counts while this object lives
    try:
        yield
    finally:
        del live
        unset_hf_deepspeed_config()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters with and without decay: biases and norms (one-dimensional) are not decayed.

    Under ZeRO-3 a parameter's own shape is its shard's; `ds_shape` is the whole.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) >= 2]
    plain = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class Engine:
    """An objective under DeepSpeed."""

    def __init__(self, objective: nn.Module, recipe: Recipe, ds_config: dict[str, Any], device: Device) -> None:
        import deepspeed

        section = recipe.train
        optimizer = torch.optim.AdamW(
            parameter_groups(objective, section.weight_decay),
            lr=section.lr,
            betas=(section.betas[0], section.betas[1]),
            fused=True,  # on the CPU too: no intermediate tensors, so that the update needs no memory of its own
        )
        self.device = device
        self.layout = Layout.of(ds_config, world_size=torch.distributed.get_world_size(), fused=True)
        self._optimizer = optimizer
        with _one_float32_copy():
            self._engine, *_ = deepspeed.initialize(model=objective, optimizer=optimizer, config=ds_config)
        if device.name == "cpu":
            _gather_together(getattr(self._engine.optimizer, "persistent_parameters", []))
        self._captured = _Captured()
        self._engine.checkpoint_engine = self._captured
        # Copying its converter beside the states is the one thing that saving would do on the disk by itself (see `snapshot`).
        self._engine._copy_recovery_script = lambda save_path: None

    @property
    def module(self) -> nn.Module:
        """The objective as it was handed in."""
        module = self._engine.module
        assert isinstance(module, nn.Module)
        return module

    def forward(self, batch: Batch, counts: TokenCounts | None = None) -> Losses:
        """The objective's losses of one micro-batch: a single forward for its mixed stages. `backward` comes next."""
        losses: Losses = self._engine(batch.to(self.device.name), counts)
        return losses

    def backward(self, losses: Losses, *, drop: torch.Tensor | None = None) -> None:
        """Add the gradient of one micro-batch.

        backward() divides by the accumulation and ZeRO averages over ranks: with equal micro-batches the gradient is exactly
        that of the mean over the global batch.

        Args:
            drop: () bool on the engine's device, the same on every rank: True gives up the whole accumulation, and the next `update`
                changes no weight and no moment. ZeRO has no public way to forget gradients, but it skips an update whose gradient is
                not finite, so this one is not.
        """
        self._engine.backward(losses.loss if drop is None else losses.loss * torch.where(drop, float("nan"), 1.0))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # counts the micro-batch; the weights stay

    @torch.no_grad()
    def copy_weights(self, into: nn.Module | None) -> None:
        """Copy the whole weights into a module like the one handed in, one parameter at a time; every rank calls it.

        Args:
            into: on the main rank, with parameters of the same names, on any device; None on the others.
        """
        import deepspeed

        there = dict(into.named_parameters()) if into is not None else {}
        for name, parameter in self.module.named_parameters():
            shard = hasattr(parameter, "ds_id")
            with deepspeed.zero.GatheredParameters([parameter]) if shard else contextlib.nullcontext():
                if into is not None:
                    there[name].copy_(parameter)

    @torch.no_grad()
    def judge(self, batch: Batch) -> Losses:
        """The objective's losses of one batch, without gradient and without dropout; nothing changes."""
        self._engine.eval()
        try:
            losses: Losses = self._engine(batch.to(self.device.name), None)
        finally:
            self._engine.train()
        return losses

    def update(self, lr: float) -> bool:
        """Clip, check, step with learning rate `lr`. False when a gradient was not finite on any rank: nothing changed."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        return bool(self._engine.was_step_applied())

    def state_bytes(self) -> int:
        """Bytes that weights, gradients and AdamW's moments take on this rank, offloaded ones included."""
        return sum(state_parts(weights_of(self.module), self.layout).values())

    def rehearse(self, batch: Batch) -> int:
        """Go through one whole step with `batch` in which nothing changes, and tell the most bytes held; every rank calls it.

        Before the first update. The loss counts zero times, so that gradients are zero; the update has no learning rate and no decay,
        and leaves each weight as it is, the sign of a zero included. Moments stay zeros; counters and random states are as before.

        Raises:
            RuntimeError: out of memory, in whatever words the device has for it.
        """
        engine, state = self._engine, self._optimizer.state
        assert not any(float(each.get("step", 0)) for each in state.values()), "a rehearsal comes before the first update"
        counters = {name: getattr(engine, name) for name in ("micro_steps", "global_steps", "global_samples", "skipped_steps")}
        settings = [(group["lr"], group["weight_decay"]) for group in self._optimizer.param_groups]
        passes = min(2, engine.gradient_accumulation_steps())  # a second one finds the gradients of the first
        engine.micro_steps = engine.gradient_accumulation_steps() - passes  # so that the last one ends an accumulation
        devices = [torch.cuda.current_device()] if self.device.name != "cpu" else []
        forget_peak(self.device.name)
        try:
            with torch.random.fork_rng(devices=devices):
                for _ in range(passes):
                    losses = self.forward(batch)
                    self.backward(losses._replace(loss=losses.loss * 0.0))
            for group in self._optimizer.param_groups:
                group["weight_decay"] = 0.0
            self.update(0.0)
        finally:
            for group, (lr, decay) in zip(self._optimizer.param_groups, settings, strict=True):
                group["lr"], group["weight_decay"] = lr, decay
            for name, value in counters.items():
                setattr(engine, name, value)
        peak = most_held(self.device.name)
        for each in state.values():  # the moments are zeros, as the first update would have made them; one update was counted
            each["step"].zero_()
        return peak

    def gradient_norm(self) -> float:
        """Global gradient norm of the last update, before clipping; forces a device synchronisation."""
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def snapshot(self, *, exclude_frozen: bool) -> dict[str, Any]:
        """What this rank must keep, copied to host memory: path -> what torch.save takes; every rank calls it.

        Nothing is written here, so that no rank can fail alone while the others wait for it.
        """
        self._engine.save_checkpoint("deepspeed", tag=_TAG, save_latest=False, exclude_frozen_parameters=exclude_frozen)
        return self._captured.take()

    def load(self, folder: Path, *, exclude_frozen: bool) -> None:
        """Continue from the files of `snapshot` in `folder`, or from what `to_universal` made of them; every rank calls it.

        The files must be of the same number of ranks, unless they are universal (ds_config's checkpoint.load_universal).

        Raises:
            RuntimeError: nothing could be loaded.
        """
        ours = [{key: value for key, value in group.items() if key != "params"} for group in self._optimizer.param_groups]
        path, _ = self._engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=not exclude_frozen)
        if path is None:
            raise RuntimeError(f"{folder}: DeepSpeed found no state to load")
        # From universal files (deepspeed 0.19, _load_universal_checkpoint of stage3.py) every group gets the first one's weight decay,
        # and all parameters share one step tensor, which AdamW then counts up once for each of them.
        for group, own in zip(self._optimizer.param_groups, ours, strict=True):
            group.update(own)
        for parameter, state in self._optimizer.state.items():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].to(parameter.device, copy=True)  # where a fused AdamW wants it
        # ZeRO's step counter is not ours, but the accumulation counter must start at a boundary.
        self._engine.micro_steps = 0

    @torch.no_grad()
    def fingerprint(self) -> dict[str, str]:
        """Short hashes of what a checkpoint must find again; every rank calls it and gets the same, at any number of ranks.

        Returns:
            `network`: names and shapes of all parameters; `frozen`: the values of those that are not trained.
        """
        names, sums = hashlib.blake2b(digest_size=16), []
        frozen = []
        for name, parameter in self.module.named_parameters():
            names.update(f"{name} {tuple(getattr(parameter, 'ds_shape', parameter.shape))}\n".encode())
            if not parameter.requires_grad:
                frozen.append(f"{name} {parameter.dtype}")
                sums.append(_weighted_bits(parameter))
        # with offloaded parameters some are on the CPU and small ones on the accelerator
        values = torch.tensor([int(value) for value in sums], dtype=torch.int64, device=self.device.name)
        if sums and self._engine.zero_optimization_partition_weights() and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(values)  # integers: the sum over shards is exact and wraps like each of them
        told = json.dumps([frozen, values.tolist()]).encode()
        return {"network": names.hexdigest(), "frozen": hashlib.blake2b(told, digest_size=16).hexdigest()}

    def close(self) -> None:
        self._engine.destroy()


@contextlib.contextmanager
def _one_float32_copy() -> Iterator[None]:
    """While open, ZeRO-3 updates float32 weights where they lie. It means to (deepspeed 0.19, _create_fp32_partitions of stage3.py), but
    compares their device with the name of one, which is never equal, and so makes a copy of them.
    """
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3 as Stage3

    create = Stage3._create_fp32_partitions

    def create_beside_device(optimizer: Any) -> None:
        name = optimizer.device
        try:
            optimizer.device = torch.device(name)
            create(optimizer)
        finally:
            optimizer.device = name

    Stage3._create_fp32_partitions = create_beside_device
    try:
        yield
    finally:
        Stage3._create_fp32_partitions = create


def _gather_together(kept: list[Any]) -> None:
    """After an update ZeRO-3 gathers the parameters that it always keeps whole, through the first one's `all_gather`: where the backend
    cannot join collectives (gloo), one by one, 98 exchanges a step in the demo. Here the same values in one exchange.
    """
    if len(kept) < 2:
        return
    one_by_one, together = kept[0].all_gather, kept[0].all_gather_coalesced

    def all_gather(param_list: list[Any] | None = None, async_op: bool = False, hierarchy: int = 0) -> Any:
        away = [parameter for parameter in param_list or [] if parameter.ds_status.name == "NOT_AVAILABLE"]
        if async_op or len(away) < 2:
            return one_by_one(param_list, async_op, hierarchy)
        return together(away).wait()

    kept[0].all_gather = all_gather


_TAG = "state"
"""Folder of DeepSpeed's files below the one that is named."""


class _Captured:
    """DeepSpeed's checkpoint engine (the same methods, by shape) for us: what it would write is copied to host memory."""

    def __init__(self) -> None:
        self._files: dict[str, Any] = {}

    def take(self) -> dict[str, Any]:
        files, self._files = self._files, {}
        return files

    def save(self, state_dict: Any, path: str) -> None:
        self._files[str(path)] = _on_host(state_dict)

    def load(self, path: str, map_location: Any = None) -> Any:
        # A pickle: medclm/checkpoint.py has verified its manifest.
        return torch.load(path, map_location=map_location, weights_only=False)

    def create(self, info: Any) -> None:
        """Folders are made by who writes."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Folders are made by who writes."""

    def commit(self, info: Any) -> bool:
        return True

    def cleanup(self) -> None:
        """Nothing is held."""

    def is_decoupled(self) -> bool:
        return False

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        return dp_rank == 0

    def preserves_storage_sharing(self) -> bool:
        return False  # `save` copies every tensor


def _on_host(item: Any) -> Any:
    """The same with every tensor copied to memory of its own."""
    if isinstance(item, torch.Tensor):
        return item.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(item, dict):
        copied = [(key, _on_host(value)) for key, value in item.items()]
        return type(item)(copied) if type(item) in (dict, OrderedDict) else dict(copied)
    if type(item) in (list, tuple):
        return type(item)(_on_host(value) for value in item)
    return item


def _weighted_bits(parameter: Any) -> torch.Tensor:
    """() int64: the bits of each value times an odd number of its place, summed modulo 2^64: a change of one value shows.

    Of a ZeRO-3 parameter, the part of this rank; parts add up to the whole.
    """
    first, values = 0, parameter.detach()
    if hasattr(parameter, "ds_tensor"):
        shard = parameter.ds_tensor.detach().flatten()
        first = torch.distributed.get_rank() * len(shard)
        values = shard[: max(0, int(parameter.ds_numel) - first)]  # the last shard is padded
    bits = values.flatten().contiguous().view({2: torch.int16, 4: torch.int32}[values.element_size()]).to(torch.int64)
    places = torch.arange(first, first + len(bits), device=bits.device)
    weighted: torch.Tensor = ((bits + 1) * (2 * places + 1)).sum()
    return weighted


def to_universal(folder: Path, out: Path) -> None:
    """Turn the files of `Engine.snapshot` into ones that any number of ranks can load (DeepSpeed's universal checkpoint)."""
    from deepspeed.checkpoint.ds_to_universal import main

    options = argparse.Namespace(
        input_folder=str(folder / _TAG),
        output_folder=str(out / _TAG),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        main(options)


def consolidated_state(folder: Path, *, exclude_frozen: bool) -> dict[str, torch.Tensor]:
    """The whole float32 weights of a saved checkpoint, on the CPU, with the objective's parameter names."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints a line per file
        state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=_TAG, exclude_frozen_parameters=exclude_frozen)
    return {name: tensor.contiguous() for name, tensor in state.items()}
