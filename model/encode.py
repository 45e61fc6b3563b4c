"""Features into tokens through the output head: argmax_v of F'.W[v] (`dot`, the source), or of F'.W[v]/|W[v]|
(`cosine`).

Both are linear in F' once the head's rows are what they are, so `cosine` is `dot` with a head of unit rows.

Letters: S entries, L tokens an entry, D dim, V vocabulary, U distinct tokens among the entries, R distinct pairs
(entry, token), M features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import ModelConfig
from model.estimate import CHUNK_BYTES


def output_head(table_VD: Tensor, config: ModelConfig) -> Tensor:
    """The rows that features are multiplied with, [V, D]: W = E, of norm 1 for `encode: cosine`."""
    return F.normalize(table_VD, dim=-1) if config.encode == "cosine" else table_VD


def encode(
    old_SL: Tensor, mean_SD: Tensor, *, table_VD: Tensor, head_VD: Tensor, decay: float, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """argmax_v (decay * E[old] + (1-decay) * a) . head[v], as int64 [S, L], for S entries.

    Logits are linear in F': the product of the head with E[old] is needed once a distinct token and the one with a once
    an entry, so U + S rows are multiplied instead of S*L. Slots of an entry that hold the same token get the same new
    one, so the sums are formed once a pair (entry, token): R of them. Blocks over the vocabulary keep U x V bounded,
    and a running best, strict so that ties go to the lower token, joins them. Waits for the device three times.
    """
    S, V = old_SL.shape[0], table_VD.shape[0]
    pair_R, place_SL = (torch.arange(S, device=old_SL.device)[:, None] * V + old_SL).unique(return_inverse=True)
    entry_R = pair_R // V
    token_U, old_R = (pair_R % V).unique(return_inverse=True)
    kept_UD = decay * table_VD[token_U]
    best_R = torch.full((len(pair_R),), -torch.inf, device=old_SL.device, dtype=table_VD.dtype)
    choice_R = pair_R % V
    block = min(V, max(1, chunk_bytes // (4 * max(1, len(token_U)))))
    pairs = max(1, chunk_bytes // (12 * block))  # three [pairs, block] exist at once
    firsts = range(0, len(pair_R), pairs)
    # Pairs ascend by entry, so a chunk of them needs the entries from its first pair's to its last one's.
    lows = entry_R[::pairs].tolist()
    for first in range(0, V, block):
        head_vD = head_VD[first : first + block]
        kept_Uv = kept_UD @ head_vD.T
        for start, low, high in zip(firsts, lows, [*lows[1:], S - 1], strict=True):
            part = slice(start, start + pairs)
            fed_sv = ((1 - decay) * mean_SD[low : high + 1]) @ head_vD.T
            logits_rv = kept_Uv[old_R[part]].add_(fed_sv[entry_R[part] - low])
            value_r, token_r = logits_rv.max(dim=-1)
            better_r = value_r > best_R[part]
            choice_R[part] = torch.where(better_r, token_r + first, choice_R[part])
            best_R[part] = torch.where(better_r, value_r, best_R[part])
    return choice_R[place_SL]


def nearest_tokens(features_MD: Tensor, *, head_VD: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """argmax_v f . head[v] of every feature, int64 [M]; the literal encode, some rows at a time."""
    rows = max(1, chunk_bytes // (4 * head_VD.shape[0]))
    return torch.cat([(part_mD @ head_VD.T).argmax(dim=-1) for part_mD in features_MD.split(rows)])


@torch.no_grad()
def self_encode_rate(table_VD: Tensor, *, head_VD: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """Share of the tokens t with argmax_v E[t].head[v] = t: how far encoding inverts decoding."""
    kept_V = nearest_tokens(table_VD, head_VD=head_VD, chunk_bytes=chunk_bytes)
    return (kept_V == torch.arange(len(kept_V), device=kept_V.device)).float().mean()
