"""Weighted sums of rows by group: `index_add_` of weighted rows, without the weighted rows, and in a fixed order.

Letters: S summands in ascending order of their group, G groups, P rows, D dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config.work_sizes import CPU_CACHE_BYTES, CUDA_CACHE_BYTES

LONGEST_ON_CUDA = 256
"""Summands that one thread block of CUDA adds up, one after the other, before others share the group's work."""

_pretended: ContextVar[tuple[str, int] | None] = ContextVar("pretended", default=None)


@contextmanager
def pretending(kind: str, *, cache: int) -> Iterator[None]:
    """Work in pieces of `cache` bytes, as on a device of that kind, wherever the tensors are: fake ones on the CPU can
    then stand for a card's."""
    token = _pretended.set((kind, cache))
    try:
        yield
    finally:
        _pretended.reset(token)


def _pretends() -> tuple[str, int] | None:
    """What is pretended. A compiler works for the real device, and would break its graph at the variable."""
    return None if torch.compiler.is_compiling() else _pretended.get()


def device_type(device: torch.device) -> str:
    """Of the device worked for, which may be pretended."""
    pretended = _pretends()
    return device.type if pretended is None else pretended[0]


def cache_bytes(device: torch.device) -> int:
    """How much a loop should work on at once: what a core's cache holds; on a card, enough to fill it."""
    pretended = _pretends()
    if pretended is not None:
        return pretended[1]
    return CPU_CACHE_BYTES if device.type == "cpu" else CUDA_CACHE_BYTES


def grouped_sum(
    row_PD: Tensor,
    position_S: Tensor,
    *,
    weight_S: Tensor,
    group_S: Tensor,
    groups: int,
    longest: int | None = None,
) -> Tensor:
    """sum over s with group_S[s] = g of weight_S[s] * row_PD[position_S[s]], [groups, D]; `group_S` ascends.

    One weighted embedding bag whose bags are the groups; its shape depends on no value, so nothing waits for the
    device. `longest` cuts groups into bags of so many summands at most and sums those in a second bag: a card would
    otherwise add up a frequent token (a pad) in one thread block (default: LONGEST_ON_CUDA there, no bound on CPU).
    """
    if longest is None and device_type(row_PD.device) == "cuda":
        longest = LONGEST_ON_CUDA
    start_G = torch.searchsorted(group_S, torch.arange(groups, dtype=group_S.dtype, device=group_S.device))
    if longest is None:
        return F.embedding_bag(position_S, row_PD, start_G, per_sample_weights=weight_S, mode="sum")
    cut_C = torch.cat([start_G, torch.arange(0, len(group_S), longest, device=group_S.device)]).sort().values
    part_CD = F.embedding_bag(position_S, row_PD, cut_C, per_sample_weights=weight_S, mode="sum")
    every_C = torch.arange(len(cut_C), device=group_S.device)
    return F.embedding_bag(every_C, part_CD, torch.searchsorted(cut_C, start_G), mode="sum")
