"""The read of the bank in Triton: `model.bank.bank_read` on CUDA, for a table in fp32, with the same gradients.

    m[p]   = 1/L * sum over the slots (k, l) of w_pk * E[token]       rows of E, gathered and summed in one pass
    dw_pk  = 1/L * sum_l E[token] . G[p]                              the same rows, times G in the same pass
    dE[v]  = 1/L * sum over the slots (p, k, l) that hold v of w_pk * G[p]

For dE, slots are sorted by token. The slots of a token are cut into bags, one program sums a bag, and a second kernel
the bags of a token, in order. There are no atomics, so gradients repeat bit for bit, and no shape depends on a value,
so nothing waits for the device and a CUDA graph can hold it all.

A program has a tile of slots and columns in registers, whose sums are added up at its end. It handles a block of
columns, and all programs of a block run before those of the next: so the rows in use at a time fit the second-level
cache, though all columns of G may not.

Letters: P positions, K entries selected, L tokens an entry, M = K*L, D dim, V vocabulary, N entries, S = P*M slots, C
bags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:  # Triton comes with torch's CUDA builds alone
    triton: Any
    tl: Any
    constexpr = int
else:
    import triton
    import triton.language as tl
    from triton.language import constexpr

LONGEST = 512
"""Slots of a bag: the most that one program sums for a token's gradient."""

SLOT_BYTES = 32
"""What the table's gradient holds for each slot: keys and their order, sorted and not, and its share of a bag's sum."""


class Launch(NamedTuple):
    """How a kernel runs: the tile of a program, its warps, and how many tiles are on their way at a time."""

    slots: int = 16
    columns: int = 128
    warps: int = 4
    stages: int = 1


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
    columns = _columns(POOL, D)
    read_PD = torch.empty((P, D), dtype=torch.float32, device=table_VD.device)
    _pool[P, triton.cdiv(D, columns)](
        read_PD,
        weight_PK,
        table_VD,
        token_PM,
        K=K,
        L=token_PM.shape[1] // K,
        D=D,
        SLOTS=POOL.slots,
        COLUMNS=columns,
        STAGES=POOL.stages,
        num_warps=POOL.warps,
    )
    return read_PD


def weight_slope(slope_PD: Tensor, token_PM: Tensor, table_VD: Tensor, *, K: int) -> Tensor:
    """dw: [P, K]."""
    (P, D), L = slope_PD.shape, token_PM.shape[1] // K
    at_once = min(triton.next_power_of_2(L), WEIGHTS.slots)  # tokens of an entry
    slope_PK = torch.empty((P, K), dtype=torch.float32, device=slope_PD.device)
    _weight_slope[P,](
        slope_PK,
        slope_PD,
        table_VD,
        token_PM,
        K=K,
        L=L,
        D=D,
        ENTRIES=WEIGHTS.slots // at_once,
        TOKENS=at_once,
        COLUMNS=_columns(WEIGHTS, D),
        STAGES=WEIGHTS.stages,
        num_warps=WEIGHTS.warps,
    )
    return slope_PK


def table_slope(
    slope_PD: Tensor, weight_PK: Tensor, token_PM: Tensor, *, V: int, chunk_bytes: int, longest: int = LONGEST
) -> Tensor:
    """dE: [V, D], over chunks of positions."""
    positions = max(1, chunk_bytes // (SLOT_BYTES * token_PM.shape[1]))
    chunks = zip(slope_PD.split(positions), weight_PK.split(positions), token_PM.split(positions), strict=True)
    first_VD, *others = (_chunk_slope(*chunk, V=V, longest=longest) for chunk in chunks)
    for part_VD in others:
        first_VD += part_VD
    return first_VD


def _chunk_slope(slope_PD: Tensor, weight_PK: Tensor, token_PM: Tensor, *, V: int, longest: int) -> Tensor:
    """dE of a chunk: [V, D]. A bag begins at a token's first slot and after every `longest` slots; it may be empty."""
    (K, M), D = (weight_PK.shape[1], token_PM.shape[1]), slope_PD.shape[1]
    columns, device = _columns(TABLE, D), slope_PD.device
    key = torch.int16 if V < 2**15 else torch.int32  # the fewer bytes, the fewer passes of a radix sort
    token_S, order_S = token_PM.flatten().to(key).sort(stable=True)
    start_V1 = torch.searchsorted(token_S, torch.arange(V + 1, dtype=key, device=device))
    cut_C1 = torch.cat([start_V1, torch.arange(0, len(token_S), longest, device=device)]).sort().values
    bag_V1 = torch.searchsorted(cut_C1, start_V1)
    C = len(cut_C1) - 1
    part_CD = torch.empty((C, D), dtype=torch.float32, device=device)
    slope_VD = torch.empty((V, D), dtype=torch.float32, device=device)
    tile = {"SLOTS": TABLE.slots, "COLUMNS": columns, "STAGES": TABLE.stages, "num_warps": TABLE.warps}
    blocks = triton.cdiv(D, columns)
    _sum_bags[C, blocks](part_CD, slope_PD, weight_PK, order_S, cut_C1, K=K, L=M // K, D=D, **tile)
    _join_bags[V, blocks](slope_VD, part_CD, bag_V1, D=D, **tile)
    return slope_VD


def _columns(launch: Launch, D: int) -> int:
    """Columns of a tile."""
    return min(launch.columns, triton.next_power_of_2(D))


@triton.jit
def _pool(
    read_PD,
    weight_PK,
    table_VD,
    token_PM,
    K: constexpr,
    L: constexpr,
    D: constexpr,
    SLOTS: constexpr,
    COLUMNS: constexpr,
    STAGES: constexpr,
):
    """Program (p, block of columns): a position."""
    p = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((SLOTS, COLUMNS), tl.float32)
    for first in tl.range(0, K * L, SLOTS, num_stages=STAGES):
        slot = first + tl.arange(0, SLOTS)
        here = slot < K * L
        token = tl.load(token_PM + p * (K * L) + slot, mask=here, other=0).to(tl.int64)
        weight = tl.load(weight_PK + p * K + slot // L, mask=here, other=0.0)
        rows = table_VD + token[:, None] * D + column[None, :]
        total += weight[:, None] * tl.load(rows, mask=here[:, None] & (column < D)[None, :], other=0.0)
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
    ENTRIES: constexpr,
    TOKENS: constexpr,
    COLUMNS: constexpr,
    STAGES: constexpr,
):
    """Program p: a position. Its tile has TOKENS slots of each of ENTRIES entries."""
    p = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, ENTRIES * TOKENS)
    for first in tl.range(0, K, ENTRIES):
        entry = first + row // TOKENS
        total = tl.zeros((ENTRIES * TOKENS, COLUMNS), tl.float32)
        for first_token in tl.range(0, L, TOKENS, num_stages=STAGES):
            place = first_token + row % TOKENS
            here = (entry < K) & (place < L)
            token = tl.load(token_PM + p * (K * L) + entry * L + place, mask=here, other=0).to(tl.int64)
            for first_column in tl.static_range(0, D, COLUMNS):
                column = first_column + tl.arange(0, COLUMNS)
                slope = tl.load(slope_PD + p * D + column, mask=column < D, other=0.0)
                rows = table_VD + token[:, None] * D + column[None, :]
                total += slope[None, :] * tl.load(rows, mask=here[:, None] & (column < D)[None, :], other=0.0)
        dot = tl.sum(tl.reshape(tl.sum(total, axis=1), (ENTRIES, TOKENS)), axis=1)
        found = first + tl.arange(0, ENTRIES)
        tl.store(slope_PK + p * K + found, dot / L, mask=found < K)


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
    SLOTS: constexpr,
    COLUMNS: constexpr,
    STAGES: constexpr,
):
    """Program (c, block of columns): a bag. A slot's number is (p*K + k)*L + l."""
    c = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin, end = tl.load(cut_C1 + c), tl.load(cut_C1 + c + 1)
    total = tl.zeros((SLOTS, COLUMNS), tl.float32)
    for first in tl.range(begin, end, SLOTS, num_stages=STAGES):
        place = first + tl.arange(0, SLOTS)
        here = place < end
        slot = tl.load(order_S + place, mask=here, other=0)
        weight = tl.load(weight_PK + slot // L, mask=here, other=0.0)
        rows = slope_PD + (slot // (K * L))[:, None] * D + column[None, :]
        total += weight[:, None] * tl.load(rows, mask=here[:, None] & (column < D)[None, :], other=0.0)
    tl.store(part_CD + c * D + column, tl.sum(total, axis=0) / L, mask=column < D)


@triton.jit
def _join_bags(slope_VD, part_CD, bag_V1, D: constexpr, SLOTS: constexpr, COLUMNS: constexpr, STAGES: constexpr):
    """Program (v, block of columns): the bags of a token."""
    v = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin, end = tl.load(bag_V1 + v), tl.load(bag_V1 + v + 1)
    total = tl.zeros((SLOTS, COLUMNS), tl.float32)
    for first in tl.range(begin, end, SLOTS, num_stages=STAGES):
        bag = first + tl.arange(0, SLOTS)
        parts = part_CD + bag[:, None] * D + column[None, :]
        total += tl.load(parts, mask=(bag < end)[:, None] & (column < D)[None, :], other=0.0)
    tl.store(slope_VD + v * D + column, tl.sum(total, axis=0), mask=column < D)
