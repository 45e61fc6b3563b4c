"""Add-one unigram and interpolated Witten-Bell bigram, token by token, as the formulas read."""

from __future__ import annotations

import math
from collections import Counter, defaultdict


def floors(train: list[list[int]], val: list[list[int]], *, vocab_size: int, eos_id: int) -> tuple[float, float]:
    """(unigram, bigram) cross-entropy of `val`, nats a token."""
    unigram: Counter[int] = Counter()
    after: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for document in train:
        for u, v in zip([eos_id, *document], [*document, eos_id], strict=True):
            unigram[v] += 1
            after[u][v] += 1

    def p(v: int) -> float:
        return (unigram[v] + 1) / (unigram.total() + vocab_size)

    def p_after(u: int, v: int) -> float:
        c_u, t_u = after[u].total(), len(after[u])
        return (after[u][v] + t_u * p(v)) / (c_u + t_u) if c_u else p(v)

    costs = []
    for document in val:
        for u, v in zip([eos_id, *document], [*document, eos_id], strict=True):
            assert abs(sum(p_after(u, w) for w in range(vocab_size)) - 1) < 1e-9
            costs.append((-math.log(p(v)), -math.log(p_after(u, v))))
    return sum(a for a, _ in costs) / len(costs), sum(b for _, b in costs) / len(costs)
