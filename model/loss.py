"""Next-token cross-entropy, a chunk of positions at a time, so that the fp32 logits of a micro-batch never exist whole.

At full size they are 0.6 GB, and their softmax and its gradient as much again. The loss computes its gradients while a
chunk's logits exist (Hsu et al. 2024, "Liger Kernel", arXiv 2410.10989, section 3.2), so no product with the head is
computed twice.

Letters: P positions, c positions of a chunk, D dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.config.work_sizes import LOGITS_BYTES
from model.data import IGNORED


def summed_nats(hidden_BTD: Tensor, table_VD: Tensor, target_BT: Tensor, *, chunk_bytes: int = LOGITS_BYTES) -> Tensor:
    """Sum over the targets that are not IGNORED of -log softmax(hidden W^T)[target]; differentiable in both factors.

    Products are computed in autocast's type where it is on, everything after them in fp32 (fp64 stays fp64).
    """
    hidden_PD, target_P = hidden_BTD.flatten(0, -2), target_BT.flatten()
    if torch.is_grad_enabled() and (hidden_PD.requires_grad or table_VD.requires_grad):
        return _SummedNats.apply(hidden_PD, table_VD, target_P, chunk_bytes)  # pyright: ignore[reportReturnType]
    return token_nats(hidden_PD, table_VD, target_P, chunk_bytes=chunk_bytes).sum()


def token_nats(hidden_PD: Tensor, table_VD: Tensor, target_P: Tensor, *, chunk_bytes: int = LOGITS_BYTES) -> Tensor:
    """The cost of each target, [P]; 0 where it is IGNORED. No gradient."""
    with torch.no_grad():
        chunks = _chunks(hidden_PD, table_VD, target_P, chunk_bytes=chunk_bytes)
        return torch.cat([_nats(logits_cV, target_c)[0] for _, logits_cV, target_c in chunks])


class _SummedNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_PD: Tensor, table_VD: Tensor, target_P: Tensor, chunk_bytes: int) -> Tensor:
        head_VD = table_VD.to(_product_dtype(table_VD))
        nats, slopes, slope_VD = [], [], torch.zeros_like(table_VD)
        for hidden_cD, logits_cV, target_c in _chunks(hidden_PD, table_VD, target_P, chunk_bytes=chunk_bytes):
            nats_c, slope_cV = _nats(logits_cV, target_c, slope=True)
            nats.append(nats_c.sum())
            slope_cV = slope_cV.to(head_VD.dtype)
            slopes.append((slope_cV @ head_VD).to(hidden_PD.dtype))
            slope_VD += slope_cV.T @ hidden_cD
        ctx.save_for_backward(torch.cat(slopes), slope_VD)
        return torch.stack(nats).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        slope_PD, slope_VD = ctx.saved_tensors
        return slope_PD * upstream, slope_VD * upstream, None, None


def _chunks(
    hidden_PD: Tensor, table_VD: Tensor, target_P: Tensor, *, chunk_bytes: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(hidden_cD in the type of the products, the logits in at least fp32, the targets) of each chunk."""
    dtype = _product_dtype(table_VD)
    head_DV = table_VD.to(dtype).T
    positions = max(1, chunk_bytes // (4 * table_VD.shape[0]))
    for hidden_cD, target_c in zip(hidden_PD.split(positions), target_P.split(positions), strict=True):
        hidden_cD = hidden_cD.to(dtype)
        logits_cV = hidden_cD @ head_DV
        yield hidden_cD, logits_cV.to(torch.promote_types(dtype, torch.float32)), target_c


def _nats(logits_cV: Tensor, target_c: Tensor, *, slope: bool = False) -> tuple[Tensor, Tensor]:
    """(cost of each target; with `slope` its gradient, softmax - one_hot). Overwrites the logits."""
    kept_c = target_c != IGNORED
    column_c1 = torch.where(kept_c, target_c, 0)[:, None]
    highest_c1 = logits_cV.amax(dim=-1, keepdim=True)
    above_c1 = highest_c1 - logits_cV.gather(1, column_c1)
    share_cV = logits_cV.sub_(highest_c1).exp_()
    total_c1 = share_cV.sum(dim=-1, keepdim=True)
    nats_c = torch.where(kept_c, (total_c1.log() + above_c1)[:, 0], 0)
    if slope:
        share_cV.mul_(kept_c[:, None] / total_c1)  # a position without a target has no gradient
        share_cV.scatter_(1, column_c1, share_cV.gather(1, column_c1) - kept_c[:, None].to(share_cV.dtype))
    return nats_c, share_cV


def _product_dtype(table_VD: Tensor) -> torch.dtype:
    """The type that autocast would multiply in. It is explicit because a chunk's products are accumulated too."""
    device = table_VD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table_VD.dtype
