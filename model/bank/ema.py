"""The bank's update: an exponential moving average in feature space, which the output head encodes back into tokens.

    a_s       = sum(w f) / sum(w)                         over the selections of entry s, all layers, all ranks
    F'_l      = ema_decay * F_l + (1 - ema_decay) * a_s   F_l = E[bank[s, l]], or the cached feature
    bank[s,l] = argmax_v F'_l . W[v]                      W = E; see encode.py

f is u. In a bank of vectors f is the query, F' is the new entry, and nothing is encoded. `ema_rescale: match_norm`
first multiplies a_s by |mean_l F_l| / |a_s| (0 stays 0): a_s gets the norm of the entry as it is read, or of the
vector. A hybrid entry also learns what its new tokens leave out:

    residual_s = ema_decay * residual_s + (1 - ema_decay) * S (a_s - mean_l E[new tokens of s])

Letters: S updated entries, L tokens an entry, D dim (Q for vectors), R residual width, V vocabulary, M selections, K
selected a position. Lower case: a part of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.bank import feature_cache
from model.bank.encode import encode, nearest_tokens, output_head
from model.bank.memory import Read
from model.bank.memory_bank import MemoryBank
from model.bank.primitives.ranks import sum_over_ranks, union_over_ranks
from model.bank.primitives.segment_sum import cache_bytes
from model.config import ModelConfig
from model.config.work_sizes import UPDATE_BYTES


@dataclass(frozen=True)
class EntryMeans:
    """`entry_S` (int64, ascending, unique), `mean_SD` = a_s, `weight_S` = sum(w)."""

    entry_S: Tensor
    mean_SD: Tensor
    weight_S: Tensor


@dataclass(frozen=True)
class UpdateStats:
    """What an update did. Its tensors stay on the device, so that nothing waits for it before the next report.

    `scale_ratio`: |(1-decay) a| / |decay F|, summed over the `slots` (a vector is one slot); infinite at a decay of 0.
    `flipped`: slots whose token changed; None where there are no tokens.
    """

    entries: int
    slots: int
    scale_ratio: Tensor
    flipped: Tensor | None


def update_bank(
    bank: MemoryBank,
    reads: list[Read],
    *,
    table_VD: Tensor,
    config: ModelConfig,
    chunk_bytes: int = UPDATE_BYTES,
) -> UpdateStats:
    """Update, in place, every unfrozen entry that the reads selected.

    Every rank must call it: it sums over ranks, and every rank ends with the same bank, bit for bit. It waits for the
    device twice to learn which entries they are (with several ranks once more for each), then a bounded number of times
    for each part of the entries. The number of parts depends on `chunk_bytes` alone.
    """
    means = collect(reads, frozen=config.frozen_entries, chunk_bytes=chunk_bytes)
    return _UPDATES[config.memory](bank, means, table_VD, config, chunk_bytes)


def collect(reads: list[Read], *, frozen: int, chunk_bytes: int = UPDATE_BYTES) -> EntryMeans:
    """Means over the selections of each entry, in all layers and on all ranks.

    A weight can underflow to 0; such an entry has a mean of 0 and not NaN.
    """
    entry_S = union_over_ranks(torch.cat([read.selection.index_BTK.flatten() for read in reads]).unique())
    entry_S = entry_S[entry_S >= frozen]
    D, device, dtype = reads[0].features_BTD.shape[-1], entry_S.device, reads[0].selection.weight_BTK.dtype
    # An extra row takes the selections of frozen entries, and is dropped.
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
            sum_SD.index_add_(0, row_P, (w_PK[..., None] * u_PD.to(dtype)[:, None, :]).flatten(0, 1))
            weight_S.index_add_(0, row_P, w_PK.flatten())
    sum_SD, weight_S = sum_over_ranks(sum_SD)[:-1], sum_over_ranks(weight_S)[:-1]
    # In place: at full size the sums are 2 GiB.
    return EntryMeans(entry_S, sum_SD.div_(weight_S.clamp_min(torch.finfo(dtype).tiny)[:, None]), weight_S)


def update_metrics(updates: Sequence[UpdateStats]) -> dict[str, float]:
    """Metrics of the updates since the last report; empty where there were none. One transfer."""
    if not updates:
        return {}
    metrics = {"entries_updated": sum(stats.entries for stats in updates) / len(updates)}
    slots = sum(stats.slots for stats in updates)
    if slots:
        zero = torch.zeros_like(updates[0].scale_ratio)
        sums = [torch.stack([s.scale_ratio, zero if s.flipped is None else s.flipped.to(zero.dtype)]) for s in updates]
        ratio, flipped = torch.stack(sums).sum(dim=0).tolist()
        if math.isfinite(ratio):
            metrics["ema_scale_ratio"] = ratio / slots
        if updates[0].flipped is not None:
            metrics["token_flip_rate"] = flipped / slots
    return metrics


def _update_tokens(
    bank: MemoryBank, means: EntryMeans, table_VD: Tensor, config: ModelConfig, chunk_bytes: int
) -> UpdateStats:
    decay, L, D = config.ema_decay, config.knowledge_length, config.dim
    head_VD, norm_V = output_head(table_VD, config), table_VD.norm(dim=-1)
    rescaled, hybrid = config.ema_rescale == "match_norm", config.memory == "hybrid"
    places = feature_cache.assign(bank, means.entry_S, means.weight_S) if bank.has_cache else None
    # Bytes of an entry: some int64 for each slot; two or three [D] for what is pooled; a few [L, D] for kept features.
    # The latter get a smaller bound, so that they are not the peak of a small run.
    width = 64 * L + (12 * D if rescaled or hybrid else 0) + (16 * L * D if places else 0)
    if places is not None:
        chunk_bytes = min(chunk_bytes, 8 * cache_bytes(norm_V.device))
    ratio, flipped = torch.zeros_like(norm_V[0]), torch.zeros((), dtype=torch.int64, device=norm_V.device)
    for part in _parts(len(means.entry_S), max(1, chunk_bytes // width)):
        entry_s, mean_sD = means.entry_S[part], means.mean_SD[part]
        old_sL = bank.tokens_NL[entry_s].long()
        if places is None:
            size_sL = norm_V[old_sL]
            if rescaled:
                match_norm(mean_sD, F.embedding_bag(old_sL, table_VD, mode="mean"))
            new_sL = encode(old_sL, mean_sD, table_VD=table_VD, head_VD=head_VD, decay=decay, chunk_bytes=chunk_bytes)
        else:
            there = feature_cache.Places(places.slot_S[part], places.known_S[part])
            kept_sLD = feature_cache.features(bank, there, old_SL=old_sL, table_VD=table_VD)
            size_sL = kept_sLD.norm(dim=-1)
            if rescaled:
                match_norm(mean_sD, kept_sLD.mean(dim=1))
            kept_sLD = kept_sLD.mul_(decay).add_(((1 - decay) * mean_sD)[:, None])
            feature_cache.store(bank, there.slot_S, kept_sLD)
            new_sL = nearest_tokens(kept_sLD.flatten(0, 1), head_VD=head_VD, chunk_bytes=chunk_bytes).view_as(old_sL)
        bank.tokens_NL[entry_s] = new_sL.to(bank.tokens_NL.dtype)
        if hybrid:
            left_sD = mean_sD - F.embedding_bag(new_sL, table_VD, mode="mean")
            bank.residual_NR[entry_s] = bank.residual_NR[entry_s].lerp_(left_sD @ bank.sketch_RD.T, 1 - decay)
        flipped += (new_sL != old_sL).sum()
        ratio += scale_ratio(mean_sD, size_sL, decay=decay)
    return UpdateStats(len(means.entry_S), len(means.entry_S) * L, ratio, flipped)


def _update_vectors(
    bank: MemoryBank, means: EntryMeans, table_VD: Tensor, config: ModelConfig, chunk_bytes: int
) -> UpdateStats:
    del table_VD
    ratio = torch.zeros((), dtype=bank.vectors_NQ.dtype, device=bank.vectors_NQ.device)
    for part in _parts(len(means.entry_S), max(1, chunk_bytes // (12 * config.knowledge_dim))):
        entry_s, mean_sQ = means.entry_S[part], means.mean_SD[part]
        old_sQ = bank.vectors_NQ[entry_s]
        if config.ema_rescale == "match_norm":
            match_norm(mean_sQ, old_sQ)
        ratio += scale_ratio(mean_sQ, old_sQ.norm(dim=-1, keepdim=True), decay=config.ema_decay)
        bank.vectors_NQ[entry_s] = old_sQ.lerp_(mean_sQ, 1 - config.ema_decay)
    return UpdateStats(len(means.entry_S), len(means.entry_S), ratio, None)


_UPDATES: dict[str, Callable[[MemoryBank, EntryMeans, Tensor, ModelConfig, int], UpdateStats]] = {
    "token": _update_tokens,
    "hybrid": _update_tokens,
    "vector": _update_vectors,
}


def match_norm(mean_SD: Tensor, read_SD: Tensor) -> None:
    """Give every a_s the norm of its entry as it is read, in place; an a_s of 0 stays 0."""
    mean_SD.mul_((read_SD.norm(dim=-1) / mean_SD.norm(dim=-1).clamp_min(1e-20))[:, None])


def scale_ratio(mean_SD: Tensor, size_SL: Tensor, *, decay: float) -> Tensor:
    """|(1-decay) a| / |decay F|, summed over the slots."""
    fed_S = (1 - decay) * mean_SD.norm(dim=-1)
    return (fed_S[:, None] / (decay * size_SL)).sum()


def _parts(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
