"""Checks before a run starts (its engine is installed, its processes were started), and DeepSpeed's configuration.

Imports no torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from model.config.settings import Config, ConfigError

EXPANDABLE = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""For the environment of a process that shares a GPU: the allocator's segments grow in place, and leave no gaps that
nothing fits into. CUDA reads it when it starts."""

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Either configures the allocator. `ablate` changes none that the user has set."""

_RANKS_SET_BY = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Accelerate reads the number of ranks from these: torchrun, Ray Train and three kinds of MPI set them."""

_RANK_SET_BY = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""The same for a process's own rank."""

_UNSET = "unset it to train alone, or start with torchrun"


def check_packages(config: Config) -> None:
    """Raise ConfigError where the configuration needs a package that is not installed."""
    if config.train.engine == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        hint = "pip install 'ablate[deepspeed]', or use ddp"
        raise ConfigError("train.engine", "deepspeed", "DeepSpeed is not installed", hint)


def check_processes(environment: Mapping[str, str]) -> None:
    """Raise ConfigError where `accelerate launch` was asked for several processes and started one, or where a launcher
    has left only some of its variables (in a shell of `salloc`, say), so that this process would wait for others.

    With `--cpu`, and on a machine without several GPUs, Accelerate's launcher starts one process whatever
    `--num_processes` says, and expects MPI to start the others. The run would train alone without a word.
    """
    for name in (*_RANKS_SET_BY, *_RANK_SET_BY, "LOCAL_RANK"):
        if name in environment and not environment[name].lstrip("-").isdecimal():
            raise ConfigError(name, environment[name], "not a whole number", _UNSET)
    told = [name for name in _RANKS_SET_BY if name in environment and int(environment[name]) > 1]
    told += [name for name in ("LOCAL_RANK",) if name in environment and int(environment[name]) >= 0]
    if told and not ("MASTER_ADDR" in environment and any(name in environment for name in _RANK_SET_BY)):
        rule = "a launcher's variable, but MASTER_ADDR and RANK, which find the other processes, are not both set"
        raise ConfigError(told[0], environment[told[0]], rule, _UNSET)
    alone = "MASTER_ADDR" in environment and not any(name in environment for name in _RANKS_SET_BY)
    if alone and "ACCELERATE_MIXED_PRECISION" in environment:
        rule = "several were asked for, and `accelerate launch` starts one on a CPU"
        hint = "give it --multi_gpu, which starts them without a GPU too, or use torchrun (or unset MASTER_ADDR)"
        raise ConfigError("accelerate launch", "one process", rule, hint)


def check_ranks(config: Config, *, ranks: int) -> None:
    """Raise ConfigError where the ranks would have different numbers of sequences. The mean of a gradient over ranks
    would not be that of the joined batch, and a rank might have no sequence."""
    batch_size = config.train.batch_size
    if batch_size % ranks:
        below = batch_size - batch_size % ranks
        hint = f"try {' or '.join(str(size) for size in (below, below + ranks) if size)}, or other ranks"
        raise ConfigError("train.batch_size", batch_size, f"not divisible by {ranks} ranks", hint)


def deepspeed_config(config: Config, *, ranks: int, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's configuration: ZeRO stage 2 (Rajbhandari et al. 2020, arXiv 1910.02054), as the source ran it.

    It states everything that this project decides, so that no launcher fills in a default. Precision is autocast over
    weights in fp32, as with `ddp`. DeepSpeed's own bf16 would store the weights in bf16, but scores, reads and the
    bank's sums need fp32.
    """
    train = config.train
    a_rank = train.batch_size // ranks
    return {
        "train_micro_batch_size_per_gpu": a_rank,
        "gradient_accumulation_steps": train.accumulation_steps,
        "train_batch_size": a_rank * train.accumulation_steps * ranks,
        "gradient_clipping": train.grad_clip,
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
    }
