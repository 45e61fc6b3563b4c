"""The bank's update with `ema_target: continuation`: an entry learns the text that follows where it was selected.

    a_{s,l}   = sum(w E[token l + 1 ahead]) / sum(w)      over the selections of entry s that have such a token
    F'_l      = ema_decay * F_l + (1 - ema_decay) * a_{s,l}
    bank[s,l] = argmax_v F'_l . W[v]

With `ema_target: state` (ema.py) an entry becomes the centroid of the states that selected it: no sign of what was
right to predict ever reaches it. Here it becomes a prediction. A slot without such a token keeps its own: the row of
text ends before. `ema_rescale: match_norm` gives a_{s,l} the norm of F_l.

F_l is E[bank[s, l]], or the feature that `ema_state: sparse_cache` keeps. A mean of many embeddings is shorter than one
of them, so without kept features no token gives way to it unless `ema_decay` is small.

Letters: B batch, T tokens, S updated entries, L tokens an entry, D dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from model.bank import feature_cache
from model.bank.ema import EntryMeans, UpdateStats, collect, match_norm, scale_ratio
from model.bank.encode import nearest_tokens, output_head
from model.bank.memory import Read
from model.bank.memory_bank import MemoryBank
from model.bank.product_key import Selection
from model.config import ModelConfig
from model.config.work_sizes import UPDATE_BYTES
from model.data import IGNORED


def update_continuations(
    bank: MemoryBank,
    reads: Sequence[Read],
    *,
    targets_BT: Tensor,
    table_VD: Tensor,
    config: ModelConfig,
    chunk_bytes: int = UPDATE_BYTES,
) -> UpdateStats:
    """Update, in place, every unfrozen entry that the reads selected, one slot after the other.

    `targets_BT`: the next token of each position; IGNORED where there is none. Every rank must call it.
    """
    head_VD, decay = output_head(table_VD, config), config.ema_decay
    ratio, flipped = torch.zeros_like(table_VD[0, 0]), torch.zeros((), dtype=torch.int64, device=table_VD.device)
    places: feature_cache.Places | None = None
    slots = entries = 0
    for slot in range(config.knowledge_length):
        means = _ahead(reads, slot, targets_BT=targets_BT, table_VD=table_VD, config=config, chunk_bytes=chunk_bytes)
        old_S = bank.tokens_NL[means.entry_S, slot].long()
        if bank.has_cache:
            # The first slot has the most weight: the others have a token less ahead. The entries are the same.
            places = places or feature_cache.assign(bank, means.entry_S, means.weight_S)
            here = slice(slot, slot + 1)
            kept_SD = feature_cache.features(bank, places, old_SL=old_S[:, None], table_VD=table_VD, slots=here)[:, 0]
        else:
            kept_SD = table_VD[old_S]
        if config.ema_rescale == "match_norm":
            match_norm(means.mean_SD, kept_SD)
        ratio += scale_ratio(means.mean_SD, kept_SD.norm(dim=-1, keepdim=True), decay=decay)
        has_any_S1 = means.weight_S[:, None] > 0
        new_SD = torch.where(has_any_S1, decay * kept_SD + (1 - decay) * means.mean_SD, kept_SD)
        new_S = nearest_tokens(new_SD, head_VD=head_VD, chunk_bytes=chunk_bytes)
        new_S = torch.where(has_any_S1[:, 0], new_S, old_S)
        if places is not None:
            feature_cache.store(bank, places.slot_S, new_SD[:, None], slots=slice(slot, slot + 1))
        bank.tokens_NL[means.entry_S, slot] = new_S.to(bank.tokens_NL.dtype)
        flipped += (new_S != old_S).sum()
        entries, slots = len(means.entry_S), slots + len(means.entry_S)
    return UpdateStats(entries, slots, ratio, flipped)


def _ahead(
    reads: Sequence[Read], slot: int, *, targets_BT: Tensor, table_VD: Tensor, config: ModelConfig, chunk_bytes: int
) -> EntryMeans:
    """The means of the embeddings `slot` + 1 positions ahead."""
    ahead_BT = F.pad(targets_BT[:, slot:], (0, min(slot, targets_BT.shape[1])), value=IGNORED)
    there_BT = ahead_BT != IGNORED
    features_BTD = F.embedding(torch.where(there_BT, ahead_BT, 0), table_VD)
    moved = [
        replace(
            read,
            features_BTD=features_BTD,
            selection=Selection(read.selection.weight_BTK * there_BT[..., None], read.selection.index_BTK),
        )
        for read in reads
    ]
    return collect(moved, frozen=config.frozen_entries, chunk_bytes=chunk_bytes)
