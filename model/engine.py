"""The engine of a run: Accelerate, with DDP between the ranks or with DeepSpeed's ZeRO-2. Each run starts its own."""

from __future__ import annotations

import gc
import os
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, GradientAccumulationPlugin
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.config import Config, ConfigError, check_packages, check_ranks, deepspeed_config
from model.device.meters import reset_peaks

# Before cuBLAS starts: without a fixed workspace it may sum in another order from run to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


class Zero2(DeepSpeedPlugin):
    """Accelerate's plugin, without its call to transformers, which may not be installed. transformers needs the
    configuration to load models under ZeRO-3 only."""

    def set_deepspeed_weakref(self) -> None:
        """Do nothing."""


def start(config: Config) -> Accelerator:
    """Start a fresh engine. Accelerate keeps its state in the process, and a process may train several trials.

    Raises ConfigError where the engine cannot run here, or where its ranks cannot share a batch.
    """
    _forget_earlier_runs()
    torch.set_num_threads(config.train.threads)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode fills every new tensor with NaN, which costs a twentieth of a step here. The model reads no
    # tensor before it writes it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    # The configuration decides, not `accelerate launch --use_deepspeed` or an earlier run of this process.
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    accelerator = {"ddp": _ddp, "deepspeed": _deepspeed}[config.train.engine](config)
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    assert accelerator.num_processes == ranks, "the launcher of the ranks sets RANK, LOCAL_RANK and WORLD_SIZE"
    check_ranks(config, ranks=ranks)
    return accelerator


def _forget_earlier_runs() -> None:
    """Remove what an earlier run of this process left: its model, cached blocks of the device, peaks of memory,
    Accelerate's state. torch's default generator stays: a new process seeds it at random, and no run draws from it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    reset_peaks()
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]


def prepare(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """(model, optimiser) as the training step calls them."""
    wrapped, wrapped_optimizer = accelerator.prepare(model, optimizer)
    if isinstance(wrapped, DistributedDataParallel):
        # Every rank computes the same bank from the same sums. Sending rank 0's bank with every step would cost 32 MB
        # at full size, and would hide a difference.
        wrapped.forward_sync_buffers = False
    return wrapped, wrapped_optimizer


def autocast(config: Config, device: torch.device) -> AbstractContextManager[Any]:
    """The autocast context of a forward outside the training step."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=_bf16(config))


def weights_dtype(config: Config) -> torch.dtype:
    """The type that weights are stored in: fp32 under every autocast."""
    return torch.float64 if config.train.precision == "fp64" else torch.float32


def _ddp(config: Config) -> Accelerator:
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if _bf16(config) else "no",
        gradient_accumulation_plugin=_accumulation(config),
    )


def _deepspeed(config: Config) -> Accelerator:
    check_packages(config)
    _check_deepspeed_can_start()
    settings = deepspeed_config(config, ranks=int(os.environ["WORLD_SIZE"]), bf16=_bf16(config))
    return Accelerator(
        mixed_precision="no",  # `settings` has it
        gradient_accumulation_plugin=_accumulation(config),
        deepspeed_plugin=Zero2(hf_ds_config=settings),
    )


def _check_deepspeed_can_start() -> None:
    if not torch.cuda.is_available():
        raise ConfigError("train.engine", "deepspeed", "CUDA sees no GPU", "use ddp")
    if "LOCAL_RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        hint = "start it with torchrun --nproc-per-node GPUS -m model.train, or use ddp"
        raise ConfigError("train.engine", "deepspeed", "no launcher started this process", hint)


def _accumulation(config: Config) -> GradientAccumulationPlugin:
    """`backward` divides by the steps of an update; the trainer decides which steps end an update."""
    return GradientAccumulationPlugin(num_steps=config.train.accumulation_steps, sync_with_dataloader=False)


def _bf16(config: Config) -> bool:
    return config.train.precision == "bf16" or (config.train.precision == "auto" and torch.cuda.is_available())
