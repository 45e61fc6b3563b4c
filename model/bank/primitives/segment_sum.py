"""Weighted sums of rows by group: `index_add_` without a copy of the weighted rows, and in a fixed order.

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
"""Summands of a group that one CUDA thread block adds up; several blocks share a longer group."""

_pretended: ContextVar[tuple[str, int] | None] = ContextVar("pretended", default=None)


@contextmanager
def pretending(kind: str, *, cache: int) -> Iterator[None]:
    """Within the `with` block, work in pieces of `cache` bytes as on a device of that kind, wherever the tensors are.
    So fake tensors on the CPU can represent a GPU's."""
    token = _pretended.set((kind, cache))
    try:
        yield
    finally:
        _pretended.reset(token)


def _pretends() -> tuple[str, int] | None:
    """The pretended (kind, cache); None under a compiler, which is to compile for the real device."""
    return None if torch.compiler.is_compiling() else _pretended.get()


def device_type(device: torch.device) -> str:
    """The kind of the device, which may be pretended."""
    pretended = _pretends()
    return device.type if pretended is None else pretended[0]


def cache_bytes(device: torch.device) -> int:
    """How much a loop should work on at once: what a core's cache holds; on a GPU, enough to fill it."""
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

    It is one weighted embedding bag whose bags are the groups. Its shape depends on no value, so it does not wait for
    the device. `longest` cuts groups into bags of at most so many summands and sums those in a second bag: otherwise a
    GPU would add up a frequent token (a pad) in one thread block (default: LONGEST_ON_CUDA there, no bound on CPU).
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
