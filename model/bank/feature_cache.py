"""`ema_state: sparse_cache`: keeps the continuous features of the entries updated last, within a budget of bytes.

Without kept features an entry is its tokens: F = E[token]. The cache is buffers of the bank, so checkpoints save it. It
is a pure function of what all ranks share, so the ranks agree on it.

Letters: N entries, C places for an entry's features, S updated entries, M of them without a place, L tokens an entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.bank.memory_bank import MemoryBank


@dataclass(frozen=True)
class Places:
    """The places of the S entries of an update: `slot_S` (-1: none), and whether an entry had its place before."""

    slot_S: Tensor
    known_S: Tensor


def assign(bank: MemoryBank, entry_S: Tensor, weight_S: Tensor) -> Places:
    """Give updated entries a place while there are any. Waits for the device once.

    Entries that have a place keep it. The others take empty places, then those of the entries updated longest ago. No
    entry of this update loses its place. Where places are too few, the entries with most weight of selection get them
    (`weight_S`; ties by index).
    """
    bank.cache_clock += 1
    slot_S = bank.cache_slot_N[entry_S].long()
    known_S = slot_S >= 0
    miss_M = (~known_S).nonzero().flatten()
    kept = len(entry_S) - len(miss_M)
    bank.cache_used_C[slot_S[known_S]] = bank.cache_clock
    free = len(bank.cache_entry_C) - kept
    miss_M = miss_M[weight_S[miss_M].argsort(descending=True, stable=True)[:free]]
    taken_M = bank.cache_used_C.argsort(stable=True)[: len(miss_M)]
    forget(bank, bank.cache_entry_C[taken_M])
    slot_S[miss_M] = taken_M
    bank.cache_slot_N[entry_S[miss_M]] = taken_M.int()
    bank.cache_entry_C[taken_M] = entry_S[miss_M]
    bank.cache_used_C[taken_M] = bank.cache_clock
    return Places(slot_S, known_S)


def forget(bank: MemoryBank, entries: Tensor) -> None:
    """Free the places of the entries; -1 is no entry."""
    entries = entries[entries >= 0]
    slots = bank.cache_slot_N[entries].long()
    slots = slots[slots >= 0]
    bank.cache_entry_C[slots] = -1
    bank.cache_used_C[slots] = 0
    bank.cache_slot_N[entries] = -1


ALL = slice(None)


def features(bank: MemoryBank, places: Places, *, old_SL: Tensor, table_VD: Tensor, slots: slice = ALL) -> Tensor:
    """F [S, L, D] of the `slots` whose tokens are `old_SL`: the kept features, or the embeddings of the tokens."""
    kept_SLD = bank.cache_features_CLD[:, slots][places.slot_S.clamp_min(0)]
    return torch.where(places.known_S[:, None, None], kept_SLD, table_VD[old_SL])


def store(bank: MemoryBank, slot_S: Tensor, features_SLD: Tensor, *, slots: slice = ALL) -> None:
    """Store the new features of the entries that have a place. Waits for the device once."""
    has_place_S = slot_S >= 0
    bank.cache_features_CLD[:, slots][slot_S[has_place_S]] = features_SLD[has_place_S]
