"""Read the bank: m = sum_k w_k * mean_l E[bank[I_k, l]], without a tensor of size [.., K, L, D].

The backward is written by hand. Both gradients are embedding bags too: with G the gradient of m,

    dE[v]  = sum over the slots (p, k, l) that hold v of  w_pk / L * G[p]      positions pooled by token
    dw_pk  = 1/L * (sum_l E[bank[I_pk, l]]) . G[p]                             rows of entries, a chunk at a time

torch's own backward of a weighted bag takes about twice as long on CPU (docs/log.md), and on CUDA an fp32 buffer of
P*K*L/10 rows.

Letters: P positions (B*T), K entries selected, L tokens an entry, M = K*L, D dim, V vocabulary, N entries, F width
of a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from model.bank.primitives.segment_sum import cache_bytes, grouped_sum
from model.bank.product_key import Selection

CHUNK_BYTES = 2**28
"""Bound on what a read holds at once besides its result, and what its backward holds besides E's gradient."""


def read_tokens(selection: Selection, bank_NL: Tensor, table_VD: Tensor, *, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """The pooled read, [.., D], for a selection of shape [.., K]; differentiable in the weights and the table.

    It works on chunks of positions, so that `chunk_bytes` bounds its memory. For the backward it keeps the P*M tokens
    that it read: the bank may change before, and the entries of a large bank are scattered in memory.
    """
    *batch, K = selection.index_BTK.shape
    index_PK = selection.index_BTK.reshape(-1, K)
    weight_PK = selection.weight_BTK.reshape(-1, K).to(table_VD.dtype)
    read_PD = _Read.apply(weight_PK, table_VD, index_PK, bank_NL, chunk_bytes)
    return read_PD.reshape(*batch, table_VD.shape[1])  # pyright: ignore[reportOptionalMemberAccess]


def pool(selection: Selection, rows_NF: Tensor) -> Tensor:
    """sum_k w_k * rows[I_k], [.., F], of stored or trained rows: one weighted `embedding_bag` of K rows. torch's own
    backward: with one row an entry it takes no longer than one written by hand."""
    *batch, K = selection.index_BTK.shape
    weight_PK = selection.weight_BTK.reshape(-1, K).to(rows_NF.dtype)
    pooled_PF = F.embedding_bag(selection.index_BTK.reshape(-1, K), rows_NF, per_sample_weights=weight_PK, mode="sum")
    return pooled_PF.reshape(*batch, rows_NF.shape[1])


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight_PK: Tensor, table_VD: Tensor, index_PK: Tensor, bank_NL: Tensor, chunk_bytes: int
    ) -> Tensor:
        token_PM = bank_NL.index_select(0, index_PK.flatten()).view(len(index_PK), -1)
        ctx.save_for_backward(weight_PK, table_VD, token_PM)
        ctx.chunk_bytes = chunk_bytes
        positions = max(1, chunk_bytes // (16 * token_PM.shape[1]))  # bytes of a slot: its token as int64, its share
        reads = [
            F.embedding_bag(token_cM, table_VD, per_sample_weights=_shares(weight_cK, token_cM), mode="sum")
            for token_cM, weight_cK in zip(token_PM.split(positions), weight_PK.split(positions), strict=True)
        ]
        return reads[0] if len(reads) == 1 else torch.cat(reads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_PD: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight_PK, table_VD, token_PM = ctx.saved_tensors
        slope_PD = slope_PD.contiguous()
        slope_PK = slope_VD = None
        if ctx.needs_input_grad[0]:
            slope_PK = _weight_slope(slope_PD, token_PM, table_VD, K=weight_PK.shape[1], chunk_bytes=ctx.chunk_bytes)
        if ctx.needs_input_grad[1]:
            slope_VD = _table_slope(slope_PD, weight_PK, token_PM, V=len(table_VD), chunk_bytes=ctx.chunk_bytes)
        return slope_PK, slope_VD, None, None, None


def _weight_slope(slope_PD: Tensor, token_PM: Tensor, table_VD: Tensor, *, K: int, chunk_bytes: int) -> Tensor:
    """dw: [P, K]. Reads the entries again, as many at a time as stay in the cache."""
    L, D = token_PM.shape[1] // K, table_VD.shape[1]
    positions = max(1, min(chunk_bytes, cache_bytes(slope_PD.device)) // (4 * K * D))
    slopes = []
    for token_cM, slope_cD in zip(token_PM.split(positions), slope_PD.split(positions), strict=True):
        rows_cKD = F.embedding_bag(token_cM.view(-1, L), table_VD, mode="sum").view(-1, K, D)
        slopes.append(rows_cKD.mul_(slope_cD[:, None]).sum(dim=-1))
        del rows_cKD  # or two pieces would exist at a time
    return torch.cat(slopes) / L


def _table_slope(slope_PD: Tensor, weight_PK: Tensor, token_PM: Tensor, *, V: int, chunk_bytes: int) -> Tensor:
    """dE: [V, D]. Sorts slots by token, and pools the positions of each token."""
    M = token_PM.shape[1]
    positions = max(1, chunk_bytes // (64 * M))  # sorted tokens, order, position, share, the sort's buffers
    total_VD: Tensor | None = None
    for slope_cD, weight_cK, token_cM in zip(
        slope_PD.split(positions), weight_PK.split(positions), token_PM.split(positions), strict=True
    ):
        token_S, order_S = token_cM.flatten().sort(stable=True)
        share_S = _shares(weight_cK, token_cM).flatten()[order_S]
        part_VD = grouped_sum(slope_cD, order_S // M, weight_S=share_S, group_S=token_S, groups=V)
        total_VD = part_VD if total_VD is None else total_VD.add_(part_VD)
    assert total_VD is not None, "there is a position"
    return total_VD


def _shares(weight_PK: Tensor, token_PM: Tensor) -> Tensor:
    """The weight of each slot: w_k / L."""
    L = token_PM.shape[1] // weight_PK.shape[1]
    return (weight_PK / L).repeat_interleave(L, dim=1)
