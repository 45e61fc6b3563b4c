"""Read stored tokens: m = sum_k w_k * mean_l E[bank[I_k, l]], pooled before anything of size [.., K, L, D] exists.

Letters: P positions (B*T), K entries selected, L tokens an entry, D dim, V vocabulary, N entries, F width of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from model.product_key import Selection

CHUNK_BYTES = 2**30
"""Bound on the fp32 buffer that embedding_bag's backward takes on CUDA (about P*K*L/10 rows of D)."""


def decode(selection: Selection, bank_NL: Tensor, table_VD: Tensor, *, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """The pooled read, [.., D], for a selection of shape [.., K]; differentiable in the weights and the table.

    One weighted `embedding_bag` of K*L rows a position, chunked over positions so that its buffers stay bounded.
    """
    *batch, K = selection.index_BTK.shape
    L, D = bank_NL.shape[1], table_VD.shape[1]
    index_PK = selection.index_BTK.reshape(-1, K)
    weight_PK = selection.weight_BTK.reshape(-1, K).to(table_VD.dtype)
    positions = max(1, chunk_bytes // max(1, 4 * D * K * L // 10))
    reads = [
        _pooled(index_cK, weight_cK, bank_NL, table_VD)
        for index_cK, weight_cK in zip(index_PK.split(positions), weight_PK.split(positions), strict=True)
    ]
    return (reads[0] if len(reads) == 1 else torch.cat(reads)).reshape(*batch, D)


def pool(selection: Selection, rows_NF: Tensor) -> Tensor:
    """sum_k w_k * rows[I_k], [.., F], of stored rows that have no gradient: one weighted `embedding_bag` of K rows."""
    *batch, K = selection.index_BTK.shape
    weight_PK = selection.weight_BTK.reshape(-1, K).to(rows_NF.dtype)
    pooled_PF = F.embedding_bag(selection.index_BTK.reshape(-1, K), rows_NF, per_sample_weights=weight_PK, mode="sum")
    return pooled_PF.reshape(*batch, rows_NF.shape[1])


def _pooled(index_PK: Tensor, weight_PK: Tensor, bank_NL: Tensor, table_VD: Tensor) -> Tensor:
    L = bank_NL.shape[1]
    tokens_PM = bank_NL[index_PK].flatten(1)  # M = K*L token ids a position
    share_PM = (weight_PK / L).repeat_interleave(L, dim=1)
    return F.embedding_bag(tokens_PM, table_VD, per_sample_weights=share_PM, mode="sum")
