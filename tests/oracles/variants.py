"""The variants of the token memory, literally: entry by entry, slot by slot, row by row."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

Layers = list[tuple[Tensor, Tensor, Tensor]]
"""(f [P, D], w [P, K], I [P, K]) of each layer."""


def cosine_retrieve(query_Q: Tensor, keys_2nh: Tensor, temperature: float, K: int) -> tuple[Tensor, Tensor]:
    """Top-K over all N sums of temperature * sqrt(h) * (cosine of the halves): (weights, indices), best first."""
    n, h = keys_2nh.shape[1:]
    q1, q2 = query_Q[:h], query_Q[h:]

    def score(q_h: Tensor, k_h: Tensor) -> Tensor:
        return temperature * h**0.5 * (q_h @ k_h) / (q_h.norm() * k_h.norm())

    sums = torch.stack([score(q1, keys_2nh[0, i]) + score(q2, keys_2nh[1, j]) for i in range(n) for j in range(n)])
    best = torch.topk(sums, K)
    return torch.softmax(best.values, dim=0), best.indices


def pool(weights_PK: Tensor, indices_PK: Tensor, rows_NF: Tensor) -> Tensor:
    """sum_k w_k * rows[I_k], one position after the other."""
    pooled = []
    for weights_K, indices_K in zip(weights_PK, indices_PK, strict=True):
        pooled.append(torch.stack([w * rows_NF[i] for w, i in zip(weights_K, indices_K, strict=True)]).sum(dim=0))
    return torch.stack(pooled)


def means(layers: Layers, *, frozen: int) -> dict[int, tuple[Tensor, float]]:
    """Entry -> (a_s, sum of w), the entries ascending."""
    seen: dict[int, list[tuple[float, Tensor]]] = {}
    for f_PD, w_PK, index_PK in layers:
        for f_D, w_K, index_K in zip(f_PD, w_PK, index_PK, strict=True):
            for w, s in zip(w_K, index_K, strict=True):
                if int(s) >= frozen:
                    seen.setdefault(int(s), []).append((float(w), f_D))
    found = {}
    for s in sorted(seen):
        weight = sum(w for w, _ in seen[s])
        found[s] = torch.stack([w * f_D for w, f_D in seen[s]]).sum(0) / weight, weight
    return found


def vector_update(vectors_NQ: Tensor, layers: Layers, *, decay: float, frozen: int, match_norm: bool) -> Tensor:
    """The new bank of vectors."""
    new = vectors_NQ.clone()
    for s, (a, _) in means(layers, frozen=frozen).items():
        fed = a * vectors_NQ[s].norm() / a.norm() if match_norm else a
        new[s] = decay * vectors_NQ[s] + (1 - decay) * fed
    return new


@dataclass
class Place:
    """Of one entry's features; empty while `entry` is None."""

    entry: int | None = None
    used: int = 0
    features_LD: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass
class TokenBank:
    """A bank of tokens with, where asked for, a residual an entry and a bounded cache of continuous features."""

    tokens_NL: Tensor
    table_VD: Tensor
    decay: float
    frozen: int = 0
    cosine: bool = False
    match_norm: bool = False
    cache: list[Place] | None = None
    residual_NR: Tensor | None = None
    sketch_RD: Tensor | None = None
    clock: int = 0

    def update(self, layers: Layers) -> None:
        """One EMA update."""
        self.clock += 1
        new_features: dict[int, Tensor] = {}
        weights: dict[int, float] = {}
        for s, (a, weight) in means(layers, frozen=self.frozen).items():
            features = [self._feature(s, slot) for slot in range(self.tokens_NL.shape[1])]
            if self.match_norm:
                a = a * torch.stack(features).mean(dim=0).norm() / a.norm()
            new_features[s] = torch.stack([self.decay * f + (1 - self.decay) * a for f in features])
            weights[s] = weight
            for slot, feature in enumerate(new_features[s]):
                self.tokens_NL[s, slot] = self._encode(feature)
            if self.residual_NR is not None:
                assert self.sketch_RD is not None
                decoded = torch.stack([self.table_VD[int(token)] for token in self.tokens_NL[s]]).mean(dim=0)
                left = self.sketch_RD @ (a - decoded)
                self.residual_NR[s] = self.decay * self.residual_NR[s] + (1 - self.decay) * left
        if self.cache is not None:
            self._keep(self.cache, new_features, weights)

    def _feature(self, s: int, slot: int) -> Tensor:
        for place in self.cache or []:
            if place.entry == s:
                return place.features_LD[slot]
        return self.table_VD[int(self.tokens_NL[s, slot])]

    def _encode(self, feature: Tensor) -> int:
        logits_V = self.table_VD @ feature
        return int(torch.argmax(logits_V / self.table_VD.norm(dim=1) if self.cosine else logits_V))

    def _keep(self, cache: list[Place], features: dict[int, Tensor], weights: dict[int, float]) -> None:
        for place in cache:
            if place.entry in features:
                place.used, place.features_LD = self.clock, features[place.entry]
        known = {place.entry for place in cache}
        by_weight = sorted((s for s in features if s not in known), key=lambda s: (-weights[s], s))
        oldest = sorted((place for place in cache if place.used < self.clock), key=lambda place: place.used)
        for s, place in zip(by_weight, oldest, strict=False):
            place.entry, place.used, place.features_LD = s, self.clock, features[s]


def unreachable(dead_X2n: Tensor) -> list[int]:
    """Entries whose row or column is dead in every layer."""
    n = dead_X2n.shape[-1]
    return [
        i * n + j for i in range(n) for j in range(n) if all(bool(layer[0, i] or layer[1, j]) for layer in dead_X2n)
    ]
