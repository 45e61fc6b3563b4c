"""AdamW, with the memory's own parameters in a group of their own where they have another rate or no weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from model.config import Config

SCALE = "lr_scale"
"""The key of a group: its learning rate is the schedule's times this."""

_ROW_SCALES = {"ngram": 5.0, "values": 10.0}
"""Engram and Memory Layers train their rows faster than the rest; rows are rarely touched."""

_OWN_OF_A_BANK = ("query.", "keys_", "temperature_")


def adamw(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """The optimiser of a run. What is frozen is not in it."""
    train, groups = config.train, _groups(model, config)
    return torch.optim.AdamW(
        groups,
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        weight_decay=train.weight_decay,
        fused=True,  # keeps its step count on the device
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group from the schedule's."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[SCALE]


def _groups(model: nn.Module, config: Config) -> list[dict[str, Any]]:
    chosen, scale = config.model, config.train.memory_lr_scale
    if chosen.has_rows:
        own, special = ("rows_",), {SCALE: scale or _ROW_SCALES[chosen.memory], "weight_decay": 0.0}
    else:
        own, special = _OWN_OF_A_BANK if scale and chosen.has_bank else (), {SCALE: scale}
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    apart = [parameter for name, parameter in trained if name.partition(".memory.")[2].startswith(own)]
    alone = set(map(id, apart))
    others = [parameter for _, parameter in trained if id(parameter) not in alone]
    return [{"params": others, SCALE: 1.0}, *([{"params": apart, **special}] if apart else [])]
