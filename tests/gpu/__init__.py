"""What only a GPU can show. Every test here has the marker `gpu`, and is skipped where CUDA sees no GPU.

`python -m pytest tests/gpu -m gpu -W default` runs them alone, in about two minutes.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEVICE = torch.device("cuda")

CLOSE = {"fp32": 1e-4, "bf16": 2e-2}
"""How far a result may be from the exact one, by `distance`: some roundings of each type."""


def distance(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|, computed in fp64 on the host."""
    difference = found.detach().cpu().double() - exact.detach().cpu().double()
    return (difference.norm() / exact.detach().cpu().double().norm()).item()


def on_device(tensor: Tensor) -> Tensor:
    """A leaf on the GPU with the same values, in fp32 where they are real numbers."""
    moved = tensor.detach().to(DEVICE)
    return moved.float().requires_grad_(tensor.requires_grad) if moved.is_floating_point() else moved


def autocast(precision: str) -> torch.autocast:
    """What a run of this precision computes in."""
    return torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=precision == "bf16")
