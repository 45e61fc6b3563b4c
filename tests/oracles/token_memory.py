"""The token memory, literally: exhaustive retrieval, naive decode, fusion, balance over all sub-keys."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def retrieve(query_Q: Tensor, keys_2nh: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Top-K over all N sums of one query: (weights, indices), best first."""
    half = query_Q.shape[0] // 2
    s1, s2 = keys_2nh[0] @ query_Q[:half], keys_2nh[1] @ query_Q[half:]
    n = len(s1)
    sums = torch.stack([s1[i] + s2[j] for i in range(n) for j in range(n)])  # index of (i, j) is i*n + j
    best = torch.topk(sums, K)
    return torch.softmax(best.values, dim=0), best.indices


def decode(weights_PK: Tensor, indices_PK: Tensor, bank_NL: Tensor, table_VD: Tensor) -> Tensor:
    """m = sum_k w_k * mean_l E[bank[I_k, l]], one position after the other."""
    reads = []
    for weights_K, indices_K in zip(weights_PK, indices_PK, strict=True):
        m = torch.zeros(table_VD.shape[1], dtype=table_VD.dtype)
        for w, i in zip(weights_K, indices_K, strict=True):
            m = m + w * table_VD[bank_NL[i].long()].mean(dim=0)
        reads.append(m)
    return torch.stack(reads)


def balance(scores_2Pn: Tensor, indices_PK: Tensor) -> Tensor:
    """n * sum_i f_i p_i of each half, then the mean of the halves."""
    n = scores_2Pn.shape[-1]
    halves = []
    for half, scores_Pn in enumerate(scores_2Pn):
        rows = [(int(i) // n, int(i) % n)[half] for i in indices_PK.flatten()]
        f = torch.tensor([rows.count(i) / len(rows) for i in range(n)], dtype=scores_Pn.dtype)
        p = torch.softmax(scores_Pn, dim=-1).mean(dim=0)
        halves.append(n * sum(f[i] * p[i] for i in range(n)))
    return (halves[0] + halves[1]) / 2


def fuse(u_D: Tensor, m_D: Tensor, gate_DC: Tensor, value_DC: Tensor, down_DD: Tensor) -> Tensor:
    """W_d(silu(W_g [u; m]) * (W_v [u; m]))."""
    both_C = torch.cat([u_D, m_D])
    gate_D = gate_DC @ both_C
    return down_DD @ (gate_D * torch.sigmoid(gate_D) * (value_DC @ both_C))


def read_entropy(weights_PK: Tensor) -> float:
    """exp(H(w)) / K, one position after the other, then their mean."""
    shares = []
    for weights_K in weights_PK.tolist():
        H = -sum(w * math.log(w) for w in weights_K if w > 0)
        shares.append(math.exp(H) / len(weights_K))
    return sum(shares) / len(shares)
