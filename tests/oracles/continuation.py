"""The update by continuations, literally: selection by selection, slot by slot."""

from __future__ import annotations

import torch
from torch import Tensor


def update(
    tokens_NL: Tensor,
    kept: dict[tuple[int, int], Tensor] | None,
    selections: list[list[list[tuple[float, int]]]],
    text: list[list[int]],
    *,
    table_VD: Tensor,
    decay: float,
    frozen: int,
    match_norm: bool,
    cosine: bool,
) -> Tensor:
    """The new tokens. `selections[b][t]`: (weight, entry) of every selection, all layers together. `text[b]`: the T + 1
    tokens of a row; position t of the model reads token t. `kept`: (entry, slot) -> F, changed in place."""
    new_NL = tokens_NL.clone()
    N, L = tokens_NL.shape
    for s in range(frozen, N):
        chosen = [(b, t, w) for b, row in enumerate(selections) for t, at in enumerate(row) for w, i in at if i == s]
        for slot in range(L):
            ahead = [(w, text[b][t + slot + 1]) for b, t, w in chosen if t + slot + 1 < len(text[b])]
            if not ahead:
                continue
            a = torch.stack([w * table_VD[token] for w, token in ahead]).sum(0) / sum(w for w, _ in ahead)
            old = table_VD[int(tokens_NL[s, slot])]
            F = old if kept is None else kept.get((s, slot), old)
            if match_norm:
                a = a * F.norm() / a.norm()
            F = decay * F + (1 - decay) * a
            logits = table_VD @ F
            new_NL[s, slot] = int(torch.argmax(logits / table_VD.norm(dim=1) if cosine else logits))
            if kept is not None:
                kept[(s, slot)] = F
    return new_NL
