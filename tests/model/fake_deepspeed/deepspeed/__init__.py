"""What DeepSpeed's engine is documented to do, for a test without it: divide the loss by the accumulation steps, and at
an update's last micro-batch clip, step and forget the gradients. One rank, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deepspeed import comm as comm


class Engine(nn.Module):
    """`deepspeed.runtime.engine.DeepSpeedEngine`, as much of it as Accelerate calls."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> None:
        super().__init__()
        self.module, self.optimizer, self.config = model, optimizer, config
        self.boundary, self.norm = True, 0.0

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        self.boundary = is_boundary

    def backward(self, loss: Tensor) -> None:
        (loss / self.config["gradient_accumulation_steps"]).backward()

    def step(self) -> None:
        assert self.boundary, "Accelerate steps at an update's last micro-batch only"
        self.norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config["gradient_clipping"]).item()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_global_grad_norm(self) -> float:
        return self.norm


def initialize(
    model: nn.Module, optimizer: torch.optim.Optimizer, config_params: dict[str, Any]
) -> tuple[Engine, torch.optim.Optimizer, None, None]:
    return Engine(model, optimizer, config_params), optimizer, None, None
