"""The bank's update: an exponential moving average in feature space, encoded back into tokens by the output head.

    a_s      = sum(w u) / sum(w)                          over the selections of entry s, all layers, all ranks
    F'_l     = ema_decay * E[bank[s, l]] + (1 - ema_decay) * a_s
    bank[s,l]= argmax_v F'_l . W[v]                       W = E

Letters: S updated entries, L tokens an entry, D dim, V vocabulary, M selections, K selected a position, U distinct
tokens among the updated entries, R distinct pairs (entry, token).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from model.memory import Read, sum_over_ranks

CHUNK_BYTES = 2**28
"""Bound on each temporary of an update; the sums themselves ([S, D] fp32) come on top."""


@dataclass(frozen=True)
class EntrySums:
    """`entry_S` (int64, ascending, unique), `sum_SD` = sum(w u), `weight_S` = sum(w)."""

    entry_S: Tensor
    sum_SD: Tensor
    weight_S: Tensor

    @property
    def mean_SD(self) -> Tensor:
        """a_s. A weight can underflow to 0; such an entry keeps a mean of 0 and not NaN."""
        return self.sum_SD / self.weight_S.clamp_min(torch.finfo(torch.float32).tiny)[:, None]


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
    """
    sums = collect(reads, frozen=frozen, chunk_bytes=chunk_bytes)
    old_SL = bank_NL[sums.entry_S].long()
    mean_SD = sums.mean_SD
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
    dtype = torch.promote_types(reads[0].features_BTD.dtype, torch.float32)
    # One row more than there are entries: the selections of frozen entries fall into it and are dropped.
    sum_SD = torch.zeros(len(entry_S) + 1, D, device=device, dtype=dtype)
    weight_S = torch.zeros(len(entry_S) + 1, device=device, dtype=dtype)
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
            sum_SD.index_add_(0, row_P, (w_PK.to(dtype)[..., None] * u_PD.to(dtype)[:, None, :]).flatten(0, 1))
            weight_S.index_add_(0, row_P, w_PK.to(dtype).flatten())
    return EntrySums(entry_S, sum_over_ranks(sum_SD)[:-1], sum_over_ranks(weight_S)[:-1])


def encode(
    old_SL: Tensor, mean_SD: Tensor, *, table_VD: Tensor, decay: float, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """argmax_v (decay * E[old] + (1-decay) * a) . W[v], as int64 [S, L], for S entries.

    Logits are linear in F': the product of W with E[old] is needed once a distinct token and the one with a once an
    entry, so U + S rows of the head are multiplied instead of S*L. Slots of an entry that hold the same token get the
    same new one, so the sums are formed once a pair (entry, token): R of them. Blocks over the vocabulary keep U x V
    bounded, and a running best, strict so that ties go to the lower token, joins them.
    """
    S, V = old_SL.shape[0], table_VD.shape[0]
    pair_R, place_SL = (torch.arange(S, device=old_SL.device)[:, None] * V + old_SL).unique(return_inverse=True)
    entry_R = pair_R // V
    token_U, old_R = (pair_R % V).unique(return_inverse=True)
    kept_UD, fed_SD = decay * table_VD[token_U], (1 - decay) * mean_SD
    best_R = torch.full((len(pair_R),), -torch.inf, device=old_SL.device, dtype=table_VD.dtype)
    choice_R = pair_R % V
    block = max(1, chunk_bytes // (4 * max(1, len(token_U))))
    for first in range(0, V, block):
        head_vD = table_VD[first : first + block]
        kept_Uv = kept_UD @ head_vD.T
        pairs = max(1, chunk_bytes // (12 * len(head_vD)))  # three [pairs, v] exist at once
        for start in range(0, len(pair_R), pairs):
            part = slice(start, start + pairs)
            low, high = int(entry_R[part][0]), int(entry_R[part][-1]) + 1  # pairs ascend by entry
            fed_sv = fed_SD[low:high] @ head_vD.T
            logits_rv = kept_Uv[old_R[part]].add_(fed_sv[entry_R[part] - low])
            value_r, token_r = logits_rv.max(dim=-1)
            better_r = value_r > best_R[part]
            choice_R[part] = torch.where(better_r, token_r + first, choice_R[part])
            best_R[part] = torch.where(better_r, value_r, best_R[part])
    return choice_R[place_SL]


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
