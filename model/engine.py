"""Who runs the step: Accelerate, with DDP between the ranks or DeepSpeed's ZeRO-2. A run starts a fresh one."""

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
from model.meters import reset_peaks

# Before cuBLAS starts: without a fixed workspace it may sum in another order from run to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


class Zero2(DeepSpeedPlugin):
    """Accelerate's plugin, which hands its configuration to transformers as well, installed or not. What transformers
    does with it, loading models under ZeRO-3, nobody does here."""

    def set_deepspeed_weakref(self) -> None:
        """Tell nobody."""


def start(config: Config) -> Accelerator:
    """A fresh one: Accelerate keeps its state in the process, and a process may train one trial after another.

    Raises ConfigError where the engine cannot run here, or its ranks cannot share a batch.
    """
    _forget_earlier_runs()
    torch.set_num_threads(config.train.threads)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode writes NaN over every new tensor, which costs a twentieth of a step here; nothing reads one
    # before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    # The configuration decides, and neither `accelerate launch --use_deepspeed` nor an earlier run of this process.
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    accelerator = {"ddp": _ddp, "deepspeed": _deepspeed}[config.train.engine](config)
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    assert accelerator.num_processes == ranks, "RANK, LOCAL_RANK and WORLD_SIZE are set by whoever starts the ranks"
    check_ranks(config, ranks=ranks)
    return accelerator


def _forget_earlier_runs() -> None:
    """What a run that this process trained before has left: its model, should anything still hold it, cached blocks
    of the device, peaks, Accelerate's state. Not torch's default generator: a new process seeds it at random, and
    nothing here draws from it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    reset_peaks()
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]


def prepare(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """(model, optimiser) as the training step calls them."""
    wrapped, wrapped_optimizer = accelerator.prepare(model, optimizer)
    if isinstance(wrapped, DistributedDataParallel):
        # Every rank forms the same bank from the same sums. Sending rank 0's along with every step would cost 32 MB at
        # full size, and would hide it if they did not.
        wrapped.forward_sync_buffers = False
    return wrapped, wrapped_optimizer


def autocast(config: Config, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of a forward outside the training step."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=_bf16(config))


def weights_dtype(config: Config) -> torch.dtype:
    """What weights are stored in: fp32 under every autocast."""
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
        raise ConfigError("train.engine", "deepspeed", "CUDA sees no card", "use ddp")
    if "LOCAL_RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        cure = "start it with torchrun --nproc-per-node CARDS -m model.train, or use ddp"
        raise ConfigError("train.engine", "deepspeed", "no launcher started this process", cure)


def _accumulation(config: Config) -> GradientAccumulationPlugin:
    """`backward` divides by the steps of an update; the trainer says which steps end one."""
    return GradientAccumulationPlugin(num_steps=config.train.accumulation_steps, sync_with_dataloader=False)


def _bf16(config: Config) -> bool:
    return config.train.precision == "bf16" or (config.train.precision == "auto" and torch.cuda.is_available())
