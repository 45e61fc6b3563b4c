"""Encodes features as tokens through the output head: argmax_v of F'.W[v] (`dot`, the source) or of F'.W[v]/|W[v]|
(`cosine`), which is `dot` with a head of unit rows.

Letters: S entries, L tokens an entry, D dim, V vocabulary, U distinct tokens among the entries, R distinct pairs
(entry, token), M features.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from model.bank.primitives.segment_sum import cache_bytes, device_type
from model.config import ModelConfig
from model.config.work_sizes import UPDATE_BYTES

GROUP = 64
"""Columns of a group, whose maximum is taken first on CPU."""

HEADS = 6
"""The products of the tokens take at most the memory of so many heads; else they would be the peak of a small run."""


def output_head(table_VD: Tensor, config: ModelConfig) -> Tensor:
    """The rows that features are multiplied with, [V, D]: W = E, with norm 1 for `encode: cosine`."""
    return F.normalize(table_VD, dim=-1) if config.encode == "cosine" else table_VD


def encode(
    old_SL: Tensor, mean_SD: Tensor, *, table_VD: Tensor, head_VD: Tensor, decay: float, chunk_bytes: int = UPDATE_BYTES
) -> Tensor:
    """argmax_v (decay * E[old] + (1-decay) * a) . head[v], as int64 [S, L], for S entries.

    Logits are linear in F'. So the head is multiplied with E[old] once for each distinct token and with a once for each
    entry: U + S rows instead of S*L. Slots of an entry that hold the same token get the same new token, so there is one
    sum for each of the R pairs (entry, token). The sums are computed in tiles of entries by vocabulary that stay in a
    core's cache. A running best joins the tiles; it is strict, so that ties go to the lower token.

    It waits for the device three times at any size: for R, for U, and for where the pairs of each tile begin.
    """
    S, L, V = *old_SL.shape, table_VD.shape[0]
    pair_R, place_SL = (torch.arange(S, device=old_SL.device)[:, None] * V + old_SL).unique(return_inverse=True)
    entry_R, choice_R = pair_R // V, pair_R % V
    token_U, old_R = choice_R.unique(return_inverse=True)
    kept_UD, U = decay * table_VD[token_U], len(token_U)
    tiling = _tiling(old_SL.device, U=U, L=L, head_VD=head_VD, chunk_bytes=chunk_bytes)
    pairs = torch.searchsorted(entry_R, torch.arange(0, S + tiling.entries, tiling.entries, device=entry_R.device))
    tiles = [slice(*bounds) for bounds in pairwise(pairs.tolist())]  # pairs ascend by entry
    rows = min(S, tiling.entries * tiling.tiles)
    summand_R2 = torch.stack([old_R, U + entry_R % rows], dim=1)
    best_R = torch.full((len(pair_R),), -torch.inf, dtype=kept_UD.dtype, device=old_SL.device)
    room = kept_UD.new_empty((U + rows) * tiling.columns)  # for the products of each tile of columns in turn
    for first in range(0, V, tiling.columns):
        head_Dv = head_VD[first : first + tiling.columns].T
        product_Xv = room[: (U + rows) * head_Dv.shape[1]].view(U + rows, -1)  # the U tokens, then some entries
        torch.mm(kept_UD, head_Dv, out=product_Xv[:U])
        for number, part in enumerate(tiles):
            if number % tiling.tiles == 0:
                fed_sD = (1 - decay) * mean_SD[number * tiling.entries :][:rows]
                torch.mm(fed_sD, head_Dv, out=product_Xv[U : U + len(fed_sD)])
            value_r, token_r = _first_maximum(F.embedding_bag(summand_R2[part], product_Xv, mode="sum"))
            better_r = value_r > best_R[part]
            choice_R[part] = torch.where(better_r, token_r + first, choice_R[part])
            best_R[part] = torch.where(better_r, value_r, best_R[part])
    return choice_R[place_SL]


@dataclass(frozen=True)
class _Tiling:
    """`columns` of the head at a time, `entries` of a tile, `tiles` that share one product with the head."""

    columns: int
    entries: int
    tiles: int = 8


def _tiling(device: torch.device, *, U: int, L: int, head_VD: Tensor, chunk_bytes: int) -> _Tiling:
    """The largest tiles whose products and sums stay within `chunk_bytes` and, on CPU, whose sums stay in the cache."""
    V, D = head_VD.shape
    widest = 2048 if device_type(device) == "cpu" else V
    widest = max(1, min(widest, V, chunk_bytes // (8 * max(1, U)), HEADS * V * D // max(1, U)))
    even = -(-V // -(-V // widest))  # a narrow last tile multiplies slowly
    columns = min(widest, -(-even // GROUP) * GROUP)
    sums_bytes = min(chunk_bytes, 2 * cache_bytes(device))
    return _Tiling(columns, max(1, sums_bytes // (4 * columns * max(L, _Tiling.tiles))))


def _first_maximum(logits_rv: Tensor, *, group: int = GROUP) -> tuple[Tensor, Tensor]:
    """(value, column) of each row's maximum, the first on ties. On CPU `max` with its index takes about three times as
    long as the maximum of every group of columns and then of the best group."""
    r, v = logits_rv.shape
    if device_type(logits_rv.device) != "cpu" or v % group:
        value_r, column_r = logits_rv.max(dim=-1)
        return value_r, column_r
    grouped_rgc = logits_rv.view(r, v // group, group)
    value_r, at_r = grouped_rgc.amax(dim=-1).max(dim=-1)
    column_r = grouped_rgc[torch.arange(r), at_r].argmax(dim=-1)
    return value_r, at_r * group + column_r


def nearest_tokens(features_MD: Tensor, *, head_VD: Tensor, chunk_bytes: int = UPDATE_BYTES) -> Tensor:
    """argmax_v f . head[v] of every feature, int64 [M]: the plain encode, as many rows at a time as a cache holds."""
    rows = max(1, min(chunk_bytes, 2 * cache_bytes(features_MD.device)) // (4 * head_VD.shape[0]))
    return torch.cat([(part_mD @ head_VD.T).argmax(dim=-1) for part_mD in features_MD.split(rows)])


@torch.no_grad()
def self_encode_rate(table_VD: Tensor, *, head_VD: Tensor, chunk_bytes: int = UPDATE_BYTES) -> Tensor:
    """Share of the tokens t with argmax_v E[t].head[v] = t: how far encoding inverts embedding. `table_VD` may be the
    first rows only; the head is whole."""
    kept_V = nearest_tokens(table_VD, head_VD=head_VD, chunk_bytes=chunk_bytes)
    return (kept_V == torch.arange(len(kept_V), device=kept_V.device)).float().mean()
