"""The same results in the way the formulas and the source's code have them: what the model's fast paths are held to.

Letters: P positions, K selected, L tokens an entry, D dim, V vocabulary, S updated entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ENTRIES = 100
"""Entries the source encoded at a time."""


def read(weight_PK: Tensor, index_PK: Tensor, bank_NL: Tensor, table_VD: Tensor) -> Tensor:
    """m = sum_k w_k * mean_l E[bank[I_k, l]], [P, D], by way of every decoded row: [P, K, L, D]."""
    rows_PKLD = table_VD[bank_NL[index_PK].long()]
    return (weight_PK[..., None] * rows_PKLD.mean(dim=2)).sum(dim=1)


@torch.no_grad()
def encode(old_SL: Tensor, mean_SD: Tensor, *, table_VD: Tensor, decay: float) -> Tensor:
    """argmax_v (decay * E[old] + (1-decay) * a) . W[v], int64 [S, L]: L rows times the head for every entry."""
    parts = []
    for old_cL, mean_cD in zip(old_SL.split(CHUNK_ENTRIES), mean_SD.split(CHUNK_ENTRIES), strict=True):
        feature_cLD = decay * table_VD[old_cL] + (1 - decay) * mean_cD[:, None, :]
        parts.append((feature_cLD.flatten(0, 1) @ table_VD.T).argmax(dim=-1).view_as(old_cL))
    return torch.cat(parts)


@torch.no_grad()
def worst_difference(
    ours_SL: Tensor, literal_SL: Tensor, old_SL: Tensor, *, mean_SD: Tensor, table_VD: Tensor
) -> float:
    """How much less, relative to its size, the logit of our token is where the tokens differ (decay 0.9); 0 where they
    are the same. A tie within rounding is not a difference."""
    s, slot = (ours_SL != literal_SL).nonzero(as_tuple=True)
    if not len(s):
        return 0.0
    feature_XD = (0.9 * table_VD[old_SL[s, slot]] + 0.1 * mean_SD[s]).double()
    ours_X = (feature_XD * table_VD[ours_SL[s, slot]]).sum(dim=-1)
    best_X = (feature_XD * table_VD[literal_SL[s, slot]]).sum(dim=-1)
    return ((best_X - ours_X).abs() / best_X.abs().clamp_min(1e-12)).max().item()
