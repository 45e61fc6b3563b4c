"""A read of the bank as products with a dense matrix of shares: a candidate, for benchmarks.gpu.read alone.

    A[p, v] = sum over the slots (k, l) of p that hold v of w_pk / L
    m = A E      dE = A^T G      dw_pk = 1/L * sum_l (G E^T)[p, token]

For a small vocabulary three products on tensor cores may take less time than gathering rows: [P, V] of 24,576 x 6,400
is 0.3 GB in bf16, and a product of it 161 GFLOP. Shares are added up as whole numbers, so that their order is no
matter.

Letters: P positions, c positions of a chunk, K entries selected, L tokens an entry, M = K*L, D dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ONE = 2**24
"""A share of 1 as a whole number: finer than bf16 by 2^16."""


def shares(weight_PK: Tensor, token_PM: Tensor, *, V: int) -> Tensor:
    """A: [P, V] in bf16."""
    L = token_PM.shape[1] // weight_PK.shape[1]
    whole_PM = (weight_PK * ONE).round().to(torch.int32).repeat_interleave(L, dim=1)
    sum_PV = torch.zeros(len(token_PM), V, dtype=torch.int32, device=token_PM.device)
    with _any_order():
        sum_PV.scatter_add_(1, token_PM.long(), whole_PM)
    return sum_PV.to(torch.float32).mul_(1 / (ONE * L)).to(torch.bfloat16)


def read(weight_PK: Tensor, table_VD: Tensor, token_PM: Tensor, *, chunk_bytes: int) -> Tensor:
    """m: [P, D] in fp32."""
    (V, D), half_VD = table_VD.shape, table_VD.to(torch.bfloat16)
    read_PD = torch.empty(len(token_PM), D, device=table_VD.device)
    for c in _chunks(len(token_PM), V, chunk_bytes):
        read_PD[c] = shares(weight_PK[c], token_PM[c], V=V) @ half_VD
    return read_PD


def weight_slope(slope_PD: Tensor, token_PM: Tensor, table_VD: Tensor, *, K: int, chunk_bytes: int) -> Tensor:
    """dw: [P, K] in fp32."""
    half_DV = table_VD.to(torch.bfloat16).T
    L = token_PM.shape[1] // K
    slopes = []
    for c in _chunks(len(token_PM), len(table_VD), chunk_bytes):
        dots_cV = slope_PD[c].to(torch.bfloat16) @ half_DV
        slopes.append(dots_cV.gather(1, token_PM[c].long()).float().unflatten(1, (K, L)).mean(dim=-1))
    return torch.cat(slopes)


def table_slope(slope_PD: Tensor, weight_PK: Tensor, token_PM: Tensor, *, V: int, chunk_bytes: int) -> Tensor:
    """dE: [V, D] in fp32."""
    slope_VD = torch.zeros(V, slope_PD.shape[1], device=slope_PD.device)
    for c in _chunks(len(token_PM), V, chunk_bytes):
        slope_VD += shares(weight_PK[c], token_PM[c], V=V).T @ slope_PD[c].to(torch.bfloat16)
    return slope_VD


def _chunks(P: int, V: int, chunk_bytes: int) -> Iterator[slice]:
    positions = max(1, chunk_bytes // (4 * V))
    return (slice(first, first + positions) for first in range(0, P, positions))


@contextmanager
def _any_order() -> Iterator[None]:
    """Let a kernel add in any order, which changes no sum of whole numbers."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
