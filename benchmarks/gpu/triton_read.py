"""The read of the bank in Triton: `model.bank.bank_read` on CUDA, for a table in fp32, with the same gradients.

    m[p]   = 1/L * sum over the slots (k, l) of w_pk * E[token]       rows of E, gathered and summed in one pass
    dw_pk  = 1/L * sum_l E[token] . G[p]                              the same rows, times G in the same pass
    dE[v]  = 1/L * sum over the slots (p, k, l) that hold v of w_pk * G[p]

For dE, slots are sorted by token. The slots of a token are cut into bags, one program sums a bag, and a second kernel
the bags of a token, in order. There are no atomics, so gradients repeat bit for bit, and no shape depends on a value,
so nothing waits for the device and a CUDA graph can hold it all.

A program adds up tiles of rows in registers, and the rows of that tile at its end. Where it handles a block of columns,
the programs of a block start before those of the next: so the rows in use fit the second-level cache, though those
of all columns may not.

Letters: P positions, K entries selected, L tokens an entry, M = K*L, D dim, V vocabulary, N entries, S = P*M slots, C
bags.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:  # Triton comes with torch's CUDA builds alone
    triton: Any = None
    tl: Any = None
    constexpr = int
else:
    import triton
    import triton.language as tl
    from triton.language import constexpr

LONGEST = 512
"""Slots of a bag: the most that one program sums for a token's gradient."""

SLOT_BYTES = 48
"""What the table's gradient holds for each slot: keys and places, sorted and not, what the sort needs, sums of bags."""


class Launch(NamedTuple):
    """How a kernel runs: the tile of a program, its warps, how many tiles are fetched ahead through shared memory,
    and how many one round of the loop adds."""

    rows: int = 16
    columns: int = 128
    warps: int = 4
    stages: int = 1
    unroll: int = 1


POOL = Launch()
WEIGHTS = Launch()
TABLE = Launch()


def read(weight_PK: Tensor, table_VD: Tensor, index_PK: Tensor, bank_NL: Tensor, *, chunk_bytes: int) -> Tensor:
    """The pooled read, [P, D] fp32, differentiable in the weights and the table.

    For the backward it keeps the P*M tokens that it read, since the bank may change before. `chunk_bytes` bounds what
    the backward holds besides E's gradient.
    """
    return _Read.apply(weight_PK, table_VD, index_PK, bank_NL, chunk_bytes)  # pyright: ignore[reportReturnType]


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight_PK: Tensor, table_VD: Tensor, index_PK: Tensor, bank_NL: Tensor, chunk_bytes: int
    ) -> Tensor:
        weight_PK, table_VD = weight_PK.contiguous(), table_VD.contiguous()
        token_PM = tokens(index_PK, bank_NL)
        ctx.save_for_backward(weight_PK, table_VD, token_PM)
        ctx.chunk_bytes = chunk_bytes
        return pool(weight_PK, table_VD, token_PM)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_PD: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight_PK, table_VD, token_PM = ctx.saved_tensors
        slope_PD = slope_PD.contiguous()
        slope_PK = slope_VD = None
        if ctx.needs_input_grad[0]:
            slope_PK = weight_slope(slope_PD, token_PM, table_VD, K=weight_PK.shape[1])
        if ctx.needs_input_grad[1]:
            slope_VD = table_slope(slope_PD, weight_PK, token_PM, V=len(table_VD), chunk_bytes=ctx.chunk_bytes)
        return slope_PK, slope_VD, None, None, None


def tokens(index_PK: Tensor, bank_NL: Tensor) -> Tensor:
    """The tokens of the selected entries: [P, M]."""
    return bank_NL.index_select(0, index_PK.flatten()).view(len(index_PK), -1)


def pool(weight_PK: Tensor, table_VD: Tensor, token_PM: Tensor) -> Tensor:
    """m: [P, D]."""
    (P, K), D = weight_PK.shape, table_VD.shape[1]
    read_PD = torch.empty((P, D), dtype=torch.float32, device=table_VD.device)
    tile = _tile(POOL, K, D)
    grid = P, triton.cdiv(D, tile["COLUMNS"])
    _pool[grid](read_PD, weight_PK, table_VD, token_PM, K=K, L=token_PM.shape[1] // K, D=D, **tile)
    return read_PD


def weight_slope(slope_PD: Tensor, token_PM: Tensor, table_VD: Tensor, *, K: int) -> Tensor:
    """dw: [P, K]."""
    P, D = slope_PD.shape
    slope_PK = torch.empty((P, K), dtype=torch.float32, device=slope_PD.device)
    tile = _tile(WEIGHTS, K, D)
    _weight_slope[P,](slope_PK, slope_PD, table_VD, token_PM, K=K, L=token_PM.shape[1] // K, D=D, **tile)
    return slope_PK


def table_slope(
    slope_PD: Tensor, weight_PK: Tensor, token_PM: Tensor, *, V: int, chunk_bytes: int, longest: int = LONGEST
) -> Tensor:
    """dE: [V, D], over chunks of positions."""
    positions = max(1, chunk_bytes // (SLOT_BYTES * token_PM.shape[1]))
    chunks = zip(slope_PD.split(positions), weight_PK.split(positions), token_PM.split(positions), strict=True)
    return reduce(Tensor.add_, (_chunk_slope(*chunk, V=V, longest=longest) for chunk in chunks))


def _chunk_slope(slope_PD: Tensor, weight_PK: Tensor, token_PM: Tensor, *, V: int, longest: int) -> Tensor:
    """dE of a chunk: [V, D]. A bag begins at a token's first slot and after every `longest` slots; it may be empty."""
    (K, M), D, device = (weight_PK.shape[1], token_PM.shape[1]), slope_PD.shape[1], slope_PD.device
    key = torch.int16 if V < 2**15 else torch.int32  # the fewer bytes, the fewer passes of a radix sort
    token_S, order_S = token_PM.flatten().to(key).sort(stable=True)
    start_V1 = torch.searchsorted(token_S, torch.arange(V + 1, dtype=key, device=device))
    cut_C1 = torch.cat([start_V1, torch.arange(0, len(token_S), longest, device=device)]).sort().values
    bag_V1 = torch.searchsorted(cut_C1, start_V1)
    C = len(cut_C1) - 1
    part_CD = torch.empty((C, D), dtype=torch.float32, device=device)
    slope_VD = torch.empty((V, D), dtype=torch.float32, device=device)
    tile = _tile(TABLE, longest, D)
    blocks = triton.cdiv(D, tile["COLUMNS"])
    _sum_bags[C, blocks](part_CD, slope_PD, weight_PK, order_S, cut_C1, K=K, L=M // K, D=D, **tile)
    _join_bags[V, blocks](slope_VD, part_CD, bag_V1, D=D, **tile)
    return slope_VD


def _tile(launch: Launch, rows: int, D: int) -> dict[str, int]:
    """What a kernel is told of its launch; its tile is no larger than what there is."""
    return {
        "ROWS": min(launch.rows, triton.next_power_of_2(rows)),
        "COLUMNS": min(launch.columns, triton.next_power_of_2(D)),
        "STAGES": launch.stages,
        "UNROLL": launch.unroll,
        "num_warps": launch.warps,
    }


@triton.jit
def _pool(
    read_PD,
    weight_PK,
    table_VD,
    token_PM,
    K: constexpr,
    L: constexpr,
    D: constexpr,
    ROWS: constexpr,
    COLUMNS: constexpr,
    STAGES: constexpr,
    UNROLL: constexpr,
):
    """Program (p, block of columns): a position."""
    p = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, K, ROWS):
        entry = first + tl.arange(0, ROWS)
        weight = tl.load(weight_PK + p * K + entry, mask=entry < K, other=0.0)
        rows = _entry_rows(table_VD, token_PM, p, entry, column, K, L, D, ROWS, COLUMNS, STAGES, UNROLL)
        total += weight[:, None] * rows
    tl.store(read_PD + p * D + column, tl.sum(total, axis=0) / L, mask=column < D)


@triton.jit
def _weight_slope(
    slope_PK,
    slope_PD,
    table_VD,
    token_PM,
    K: constexpr,
    L: constexpr,
    D: constexpr,
    ROWS: constexpr,
    COLUMNS: constexpr,
    STAGES: constexpr,
    UNROLL: constexpr,
):
    """Program p: a position."""
    p = tl.program_id(0).to(tl.int64)
    for first in range(0, K, ROWS):
        entry = first + tl.arange(0, ROWS)
        dot = tl.zeros((ROWS,), tl.float32)
        for first_column in range(0, D, COLUMNS):
            column = first_column + tl.arange(0, COLUMNS)
            slope = tl.load(slope_PD + p * D + column, mask=column < D, other=0.0)
            rows = _entry_rows(table_VD, token_PM, p, entry, column, K, L, D, ROWS, COLUMNS, STAGES, UNROLL)
            dot += tl.sum(slope[None, :] * rows, axis=1)
        tl.store(slope_PK + p * K + entry, dot / L, mask=entry < K)


@triton.jit
def _entry_rows(
    table_VD,
    token_PM,
    p,
    entry,
    column,
    K: constexpr,
    L: constexpr,
    D: constexpr,
    ROWS: constexpr,
    COLUMNS: constexpr,
    STAGES: constexpr,
    UNROLL: constexpr,
):
    """sum_l E[token] of entries of a position: [ROWS, COLUMNS]."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    here = (entry < K)[:, None] & (column < D)[None, :]
    for place in tl.range(0, L, num_stages=STAGES, loop_unroll_factor=UNROLL):
        token = tl.load(token_PM + p * (K * L) + entry * L + place, mask=entry < K, other=0).to(tl.int64)
        total += tl.load(table_VD + token[:, None] * D + column[None, :], mask=here, other=0.0)
    return total


@triton.jit
def _sum_bags(
    part_CD,
    slope_PD,
    weight_PK,
    order_S,
    cut_C1,
    K: constexpr,
    L: constexpr,
    D: constexpr,
    ROWS: constexpr,
    COLUMNS: constexpr,
    STAGES: constexpr,
    UNROLL: constexpr,
):
    """Program (c, block of columns): a bag. A slot's number is (p*K + k)*L + l."""
    c = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin, end = tl.load(cut_C1 + c), tl.load(cut_C1 + c + 1)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in tl.range(begin, end, ROWS, num_stages=STAGES, loop_unroll_factor=UNROLL):
        place = first + tl.arange(0, ROWS)
        slot = tl.load(order_S + place, mask=place < end, other=0)
        weight = tl.load(weight_PK + slot // L, mask=place < end, other=0.0)
        rows = slope_PD + (slot // (K * L))[:, None] * D + column[None, :]
        total += weight[:, None] * tl.load(rows, mask=(place < end)[:, None] & (column < D)[None, :], other=0.0)
    tl.store(part_CD + c * D + column, tl.sum(total, axis=0) / L, mask=column < D)


@triton.jit
def _join_bags(
    slope_VD, part_CD, bag_V1, D: constexpr, ROWS: constexpr, COLUMNS: constexpr, STAGES: constexpr, UNROLL: constexpr
):
    """Program (v, block of columns): the bags of a token."""
    v = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin, end = tl.load(bag_V1 + v), tl.load(bag_V1 + v + 1)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in tl.range(begin, end, ROWS, num_stages=STAGES, loop_unroll_factor=UNROLL):
        bag = first + tl.arange(0, ROWS)
        parts = part_CD + bag[:, None] * D + column[None, :]
        total += tl.load(parts, mask=(bag < end)[:, None] & (column < D)[None, :], other=0.0)
    tl.store(slope_VD + v * D + column, tl.sum(total, axis=0), mask=column < D)
