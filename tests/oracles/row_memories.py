"""The positive controls, literally: position by position, table by table, row by row."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def is_prime(number: int) -> bool:
    """Whether no smaller number but 1 divides it."""
    return number > 1 and not any(number % divisor == 0 for divisor in range(2, number))


def primes_below(largest: int, *, count: int) -> list[int]:
    """The largest primes up to `largest`, the largest first."""
    return [number for number in range(largest, 1, -1) if is_prime(number)][:count]


def ngram_row(ids: list[int], t: int, *, factors: list[int], prime: int, before: int) -> int:
    """(a_0 id_t xor a_1 id_(t-1) xor ...) mod p, with `before` where t - i is before the first token."""
    mixed = 0
    for i, factor in enumerate(factors):
        mixed ^= factor * (ids[t - i] if t >= i else before)
    return mixed % prime


def ngram_layer(
    u_TD: Tensor,
    ids: list[int],
    *,
    tables: list[Tensor],
    factors: list[list[int]],
    before: int,
    W_k: Tensor,
    W_v: Tensor,
    swiglu_TD: Tensor,
) -> Tensor:
    """SwiGLU(u) + sigmoid(rms(u) . rms(W_k e) / sqrt(D)) * W_v e; one table a hash."""
    out = []
    for t, u in enumerate(u_TD):
        rows = [
            table[ngram_row(ids, t, factors=own, prime=len(table), before=before)]
            for table, own in zip(tables, factors, strict=True)
        ]
        e = torch.cat(rows)
        g = torch.sigmoid(rms(u) @ rms(W_k @ e) / math.sqrt(len(u)))
        out.append(swiglu_TD[t] + g * (W_v @ e))
    return torch.stack(out)


def rms(x_D: Tensor) -> Tensor:
    """x over the root of its mean square."""
    return x_D / torch.sqrt(x_D.pow(2).mean() + 1e-6)


def values_read(queries_HQ: Tensor, keys_2Hnh: Tensor, V_ND: Tensor, K: int) -> Tensor:
    """y of one position: for each head the K best of all N rows by the sum of their two scores, by their softmax."""
    _, H, n, h = keys_2Hnh.shape
    y = torch.zeros_like(V_ND[0])
    for head in range(H):
        q1, q2 = queries_HQ[head, :h], queries_HQ[head, h:]
        sums = torch.stack(
            [q1 @ keys_2Hnh[0, head, i] + q2 @ keys_2Hnh[1, head, j] for i, j in itertools.product(range(n), repeat=2)]
        )
        best = torch.topk(sums, K)
        for w, row in zip(torch.softmax(best.values, dim=0), best.indices, strict=True):
            y = y + w * V_ND[row]
    return y
