"""`values`: trained rows behind product keys (Memory Layers at Scale, Berges et al. 2024, arXiv 2412.09764;
the gate is Memory+'s).

A positive control: its rows get a gradient, where a bank's entries are averages.

Letters: B batch, T tokens, P positions (B*T), H heads, R = H*P, Q query width, h = Q/2, N rows, n = sqrt(N) sub-keys a
half, K rows that a head selects, D dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.bank.bank_read import pool
from model.bank.layer_inputs import LayerInputs
from model.bank.primitives.top_k import top_k
from model.bank.product_key import Selection, best_pairs, normalise_halves
from model.config import ModelConfig, row_memory
from model.layers import SwiGLU


class ValueMemory(nn.Module):
    """SwiGLU(u) + W_2(silu(W_1 u) * y), with y = sum over heads and selected rows of w * V[i]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes, D, Q, H = row_memory(config), config.dim, config.knowledge_dim, config.values_heads
        self.heads, self.num_selected = H, config.values_selected
        self.cosine = config.query_norm == "cosine"
        self.query = nn.Linear(D, H * Q, bias=False)
        self.query_norm = nn.LayerNorm(Q) if config.query_norm == "layer" else nn.Identity()
        if self.cosine:
            self.temperature_1 = nn.Parameter(torch.empty(1))
        self.keys_2Hnh = nn.Parameter(torch.empty(2, H, math.isqrt(sizes.rows), Q // 2))
        self.rows_ND = nn.Parameter(torch.empty(sizes.rows, D), requires_grad=config.memory_rows == "trained")
        self.gate = nn.Linear(D, D, bias=False)
        self.out = nn.Linear(D, D, bias=False)
        self.net = SwiGLU(dim_in=D, hidden=sizes.hidden, dim_out=D)

    def forward(self, u_BTD: Tensor, inputs: LayerInputs) -> tuple[Tensor, None]:
        """Scores are in fp32 under every autocast, and the read sums a few rows a position, as in a bank's read."""
        del inputs
        with torch.autocast(u_BTD.device.type, enabled=False):
            y_BTD = pool(self.select(u_BTD), self.rows_ND)
        return self.net(u_BTD) + self.out(F.silu(self.gate(u_BTD)) * y_BTD), None

    def select(self, u_BTD: Tensor) -> Selection:
        """The rows that a position reads, head after head: H*K of them. The weights of each head sum to 1."""
        query_BTHQ = F.linear(u_BTD.to(self.query.weight.dtype), self.query.weight).unflatten(-1, (self.heads, -1))
        query_BTHQ, keys_2Hnh = self.query_norm(query_BTHQ), self.keys_2Hnh
        if self.cosine:
            query_BTHQ, keys_2Hnh = normalise_halves(query_BTHQ), F.normalize(keys_2Hnh, dim=-1)
            query_BTHQ = query_BTHQ * (self.temperature_1 * math.sqrt(keys_2Hnh.shape[-1]))
        weight_PHK, index_PHK = best_rows(query_BTHQ.flatten(0, 1), keys_2Hnh, K=self.num_selected)
        batch = u_BTD.shape[:-1]
        return Selection(weight_PHK.reshape(*batch, -1), index_PHK.reshape(*batch, -1))


def best_rows(query_PHQ: Tensor, keys_2Hnh: Tensor, *, K: int) -> tuple[Tensor, Tensor]:
    """Weights and numbers of the exact K best of all n*n sums of scores of each head, [P, H, K], best first. The
    weights are differentiable in both factors.

    All heads are one product: with a few dozen sub-keys, more operators would cost more than scores with a gradient.
    """
    n, H, P = keys_2Hnh.shape[2], query_PHQ.shape[1], len(query_PHQ)
    scores_2HPn = query_PHQ.unflatten(-1, (2, -1)).permute(2, 1, 0, 3) @ keys_2Hnh.mT
    scores_2Rn = scores_2HPn.flatten(1, 2)
    with torch.no_grad():
        best_2RK, column_2RK = top_k(scores_2Rn, K)
        subkey_2RK = column_2RK.gather(-1, best_pairs(best_2RK)[1])
    weight_RK = scores_2Rn.gather(-1, subkey_2RK).sum(dim=0).softmax(dim=-1)
    index_RK = subkey_2RK[0] * n + subkey_2RK[1]
    return weight_RK.view(H, P, K).transpose(0, 1), index_RK.view(H, P, K).transpose(0, 1)
