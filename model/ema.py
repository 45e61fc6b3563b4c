"""The bank's update: an exponential moving average in feature space, encoded back into tokens by the output head.

    a_s      = sum(w u) / sum(w)                          over the selections of entry s, all layers, all ranks
    F'_l     = ema_decay * E[bank[s, l]] + (1 - ema_decay) * a_s
    bank[s,l]= argmax_v F'_l . W[v]                       W = E

Letters: S updated entries, L tokens an entry, D dim, V vocabulary, M selections, K selected a position, U distinct
tokens among the updated entries, R distinct pairs (entry, token).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from model.bags import cache_bytes
from model.memory import Read, sum_over_ranks

CHUNK_BYTES = 2**28
"""Bound on each temporary of an update; the sums themselves ([S, D] fp32) come on top."""


@dataclass(frozen=True)
class EntrySums:
    """`entry_S` (int64, ascending, unique), `sum_SD` = sum(w u), `weight_S` = sum(w)."""

    entry_S: Tensor
    sum_SD: Tensor
    weight_S: Tensor

    def take_mean_SD(self) -> Tensor:
        """a_s, in the sums' own memory: at full size another 2 GB otherwise. A weight can underflow to 0; such an entry
        keeps a mean of 0 and not NaN."""
        return self.sum_SD.div_(self.weight_S.clamp_min(torch.finfo(torch.float32).tiny)[:, None])


@dataclass(frozen=True)
class UpdateStats:
    """What an update did, still on the device: nothing is waited for until the next report."""

    entries: int
    slots: int
    flipped: Tensor  # slots whose token changed
    scale_ratio: Tensor  # |(1-decay) a| / |decay F|, summed over slots


def update_bank(
    bank_NL: Tensor,
    reads: list[Read],
    *,
    table_VD: Tensor,
    decay: float,
    frozen: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> UpdateStats:
    """Update every entry at or after row `frozen` that the reads selected; `bank_NL` is changed in place.

    Every rank must call it: the sums are reduced over ranks, and every rank ends with the same bank, bit for bit.
    The device is waited for five times, whatever the sizes: for the distinct entries, those that are not frozen, and
    the three of `encode`; once more where several ranks compare lengths.
    """
    sums = collect(reads, frozen=frozen, chunk_bytes=chunk_bytes)
    old_SL = bank_NL[sums.entry_S].long()
    mean_SD = sums.take_mean_SD()
    new_SL = encode(old_SL, mean_SD, table_VD=table_VD, decay=decay, chunk_bytes=chunk_bytes)
    bank_NL[sums.entry_S] = new_SL.to(bank_NL.dtype)
    fed_S = (1 - decay) * mean_SD.norm(dim=-1)
    kept_SL = decay * table_VD.norm(dim=-1)[old_SL]
    return UpdateStats(
        entries=old_SL.shape[0],
        slots=old_SL.numel(),
        flipped=(new_SL != old_SL).sum(),
        scale_ratio=(fed_S[:, None] / kept_SL.clamp_min(1e-12)).sum(),
    )


def collect(reads: list[Read], *, frozen: int, chunk_bytes: int = CHUNK_BYTES) -> EntrySums:
    """Sums over the selections of each entry, all layers and ranks; duplicates by `index_add_`."""
    index_M = torch.cat([read.selection.index_BTK.flatten() for read in reads])
    entry_S = _union_over_ranks(index_M.unique())
    entry_S = entry_S[entry_S >= frozen]
    D, device = reads[0].features_BTD.shape[-1], index_M.device
    # One row more than there are entries: the selections of frozen entries fall into it and are dropped.
    sum_SD = torch.zeros(len(entry_S) + 1, D, device=device)
    weight_S = torch.zeros(len(entry_S) + 1, device=device)
    for read in reads:
        K = read.selection.index_BTK.shape[-1]
        positions = max(1, chunk_bytes // (4 * D * K))
        chunks = zip(
            read.features_BTD.flatten(0, -2).split(positions),
            read.selection.weight_BTK.flatten(0, -2).split(positions),
            read.selection.index_BTK.flatten(0, -2).split(positions),
            strict=True,
        )
        for u_PD, w_PK, index_PK in chunks:
            row_P = torch.where(index_PK >= frozen, torch.searchsorted(entry_S, index_PK), len(entry_S)).flatten()
            sum_SD.index_add_(0, row_P, (w_PK.float()[..., None] * u_PD.float()[:, None, :]).flatten(0, 1))
            weight_S.index_add_(0, row_P, w_PK.float().flatten())
    return EntrySums(entry_S, sum_over_ranks(sum_SD)[:-1], sum_over_ranks(weight_S)[:-1])


def encode(
    old_SL: Tensor, mean_SD: Tensor, *, table_VD: Tensor, decay: float, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """argmax_v (decay * E[old] + (1-decay) * a) . W[v], as int64 [S, L], for S entries.

    Logits are linear in F': the product of W with E[old] is needed once a distinct token and the one with a once an
    entry, so U + S rows of the head are multiplied instead of S*L. Slots of an entry that hold the same token get the
    same new one, so the sums are formed once a pair (entry, token): R of them, in tiles of entries by vocabulary that
    stay in a core's cache. A running best, strict so that ties go to the lower token, joins the tiles.

    Waits for the device three times, whatever the sizes: R, U, and where each tile's pairs begin.
    """
    S, L, V = *old_SL.shape, table_VD.shape[0]
    pair_R, place_SL = (torch.arange(S, device=old_SL.device)[:, None] * V + old_SL).unique(return_inverse=True)
    entry_R, choice_R = pair_R // V, pair_R % V
    token_U, old_R = choice_R.unique(return_inverse=True)
    kept_UD, U = decay * table_VD[token_U], len(token_U)
    tiling = _tiling(old_SL.device, U=U, L=L, V=V, chunk_bytes=chunk_bytes)
    pairs = torch.searchsorted(entry_R, torch.arange(0, S + tiling.entries, tiling.entries, device=entry_R.device))
    tiles = [slice(*bounds) for bounds in pairwise(pairs.tolist())]  # pairs ascend by entry
    rows = tiling.entries * tiling.tiles
    summand_R2 = torch.stack([old_R, U + entry_R % rows], dim=1)
    best_R = torch.full((len(pair_R),), -torch.inf, dtype=kept_UD.dtype, device=old_SL.device)
    for first in range(0, V, tiling.columns):
        head_Dv = table_VD[first : first + tiling.columns].T
        product_Xv = kept_UD.new_empty(U + rows, head_Dv.shape[1])  # of the U tokens, then of some entries
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
    """`columns` of the head at a time; `entries` a tile; `tiles` that share one product with the head."""

    columns: int
    entries: int
    tiles: int = 8


def _tiling(device: torch.device, *, U: int, L: int, V: int, chunk_bytes: int) -> _Tiling:
    """The largest tiles whose products and sums stay within `chunk_bytes` and, on CPU, whose sums stay in the cache."""
    widest = 2048 if device.type == "cpu" else V
    columns = max(1, min(widest, V, chunk_bytes // (8 * max(1, U))))
    sums_bytes = min(chunk_bytes, 2 * cache_bytes(device))
    return _Tiling(columns, max(1, sums_bytes // (4 * columns * max(L, _Tiling.tiles))))


def _first_maximum(logits_rv: Tensor, *, group: int = 64) -> tuple[Tensor, Tensor]:
    """(value, column) of each row's maximum, the first on ties. `max` with its index takes about three times as long on
    CPU as the maximum of every 64 columns and then of the group that has it."""
    r, v = logits_rv.shape
    if logits_rv.device.type != "cpu" or v % group:
        value_r, column_r = logits_rv.max(dim=-1)
        return value_r, column_r
    grouped_rgc = logits_rv.view(r, v // group, group)
    value_r, at_r = grouped_rgc.amax(dim=-1).max(dim=-1)
    column_r = grouped_rgc[torch.arange(r), at_r].argmax(dim=-1)
    return value_r, at_r * group + column_r


@torch.no_grad()
def self_encode_rate(table_VD: Tensor, *, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """Share of the tokens t with argmax_v E[t].W[v] = t: how far encoding inverts decoding."""
    rows = max(1, chunk_bytes // (4 * table_VD.shape[0]))
    kept = [(part @ table_VD.T).argmax(dim=-1) for part in table_VD.split(rows)]
    return (torch.cat(kept) == torch.arange(table_VD.shape[0], device=table_VD.device)).float().mean()


def _union_over_ranks(entry_S: Tensor) -> Tensor:
    """The ascending union of every rank's entries. Ranks differ in how many they have: lengths first, then padded."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return entry_S
    lengths = [torch.zeros(1, dtype=torch.int64, device=entry_S.device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(entry_S)], device=entry_S.device))
    longest = max(int(length) for length in lengths)
    padded = torch.cat([entry_S, entry_S[:1].expand(longest - len(entry_S))])
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    return torch.cat(gathered).unique()
