"""What the ranks of a run share: sums, unions, rank 0's values. With one rank each returns what it was given."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all ranks of a tensor without a gradient."""
    if _several():
        tensor = tensor.contiguous()
        dist.all_reduce(tensor)
    return tensor


def union_over_ranks(entry_S: Tensor) -> Tensor:
    """The ascending union of every rank's entries. Ranks differ in how many they have: they exchange lengths first, and
    pad to the longest."""
    if not _several():
        return entry_S
    lengths = [torch.zeros(1, dtype=torch.int64, device=entry_S.device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(entry_S)], device=entry_S.device))
    longest = max(int(length) for length in lengths)
    padded = torch.cat([entry_S, entry_S[:1].expand(longest - len(entry_S))])
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    return torch.cat(gathered).unique()


def from_first_rank(tensor: Tensor) -> Tensor:
    """Rank 0's tensor, on every rank; the tensor is contiguous and changed in place."""
    if _several():
        dist.broadcast(tensor, src=0)
    return tensor


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
