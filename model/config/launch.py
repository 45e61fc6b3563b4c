"""What must hold before a run starts: its engine is installed, its processes were started; and how DeepSpeed is set up.
Imports no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from model.config.settings import Config, ConfigError

EXPANDABLE = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""For the environment of a process that shares a card: what the allocator holds grows where it is, instead of in pieces
between which nothing fits. Read when CUDA starts."""

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Either configures the allocator; one that the user has set is left alone."""

_RANKS_SET_BY = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""torchrun, Ray Train and three kinds of MPI: what Accelerate reads the number of ranks from."""


def check_packages(config: Config) -> None:
    """Raise ConfigError where the configuration needs a package that is not installed."""
    if config.train.engine == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        cure = "pip install 'ablate[deepspeed]', or use ddp"
        raise ConfigError("train.engine", "deepspeed", "DeepSpeed is not installed", cure)


def check_processes(environment: Mapping[str, str]) -> None:
    """Raise ConfigError where `accelerate launch` was asked for several processes and started one.

    Its launcher for `--cpu`, and for a machine without several cards, starts one whatever `--num_processes` says: it
    prepares the others' address and leaves them to MPI. A run would train alone and say nothing.
    """
    alone = "MASTER_ADDR" in environment and not any(name in environment for name in _RANKS_SET_BY)
    if alone and "ACCELERATE_MIXED_PRECISION" in environment:
        rule = "several were asked for, and `accelerate launch` starts one on a CPU"
        cure = "give it --multi_gpu, which starts them without a card too, or use torchrun (or unset MASTER_ADDR)"
        raise ConfigError("accelerate launch", "one process", rule, cure)


def check_ranks(config: Config, *, ranks: int) -> None:
    """Raise ConfigError where the ranks would have different numbers of sequences: the mean over ranks of a gradient is
    then not the joined batch's, and a rank may have none."""
    batch_size = config.train.batch_size
    if batch_size % ranks:
        below = batch_size - batch_size % ranks
        cure = f"try {' or '.join(str(size) for size in (below, below + ranks) if size)}, or other ranks"
        raise ConfigError("train.batch_size", batch_size, f"not divisible by {ranks} ranks", cure)


def deepspeed_config(config: Config, *, ranks: int, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's configuration: ZeRO stage 2 (Rajbhandari et al. 2020, arXiv 1910.02054), as the source ran it.

    Everything that this project decides is said, so that no launcher's default fills it. Precision is autocast over
    weights in fp32, as with `ddp`, and not DeepSpeed's own bf16, which would store the weights in bf16: scores, reads
    and the bank's sums are formed in fp32.
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
