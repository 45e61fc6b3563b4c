"""The K largest of every row.

On CPU, PyTorch 2.13 handles pairs of value and column one at a time. NumPy (since 2.0) sorts whole rows of float64 with
the vector instructions of x86 and ARM, and a float64 has room for a float32 and, below its last bit, a column. So short
rows take a quarter of the time of `torch.topk` on two threads (docs/log.md, 2026-11-26).

Letters: r rows of any shape, W columns, K largest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.bank.primitives.segment_sum import device_type

WIDEST = 512
"""Columns of a row up to which sorting it whole is faster than `torch.topk`."""

BELOW = 2**29 - 1
"""Bits of a float64 that a float32 leaves zero."""


def top_k(values_rW: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """(values, columns) of the K largest of every row, largest first, int64 columns. No gradient.

    Values must be finite. A row with other values has diverged; its columns only exist. On ties the lower column comes
    first where rows are sorted and values are not negative; elsewhere any may.
    """
    sortable = values_rW.dtype == torch.float32 and values_rW.shape[-1] <= WIDEST
    if sortable and device_type(values_rW.device) == "cpu":
        column_rK = _largest_columns(values_rW, K)
        return values_rW.gather(-1, column_rK), column_rK
    value_rK, column_rK = values_rW.topk(K, dim=-1)
    return value_rK, column_rK


@torch.library.custom_op("token_memory::largest_columns", mutates_args=())
def _largest_columns(values_rW: Tensor, K: int) -> Tensor:
    """A custom operator, because compilers and fake tensors cannot trace NumPy."""
    W = values_rW.shape[-1]
    packed_rW = values_rW.double().view(torch.int64).bitwise_or_(torch.arange(W - 1, -1, -1))
    packed_rW.view(torch.float64).numpy().sort(axis=-1)
    return W - 1 - packed_rW[..., W - K :].flip(-1).bitwise_and_(BELOW)


@_largest_columns.register_fake
def _(values_rW: Tensor, K: int) -> Tensor:
    return values_rW.new_empty((*values_rW.shape[:-1], K), dtype=torch.int64)
