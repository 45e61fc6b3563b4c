"""The parts of a block that are not memory: attention with rotary positions, and SwiGLU.

Letters: B batch, T tokens, D dim, H heads, d = D/H, F hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Causal self-attention (scaled dot product) with rotary positions; no bias."""

    def __init__(self, *, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BTD: Tensor, rotation_2Td: Tensor) -> Tensor:
        def heads(y_BTD: Tensor) -> Tensor:
            return y_BTD.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # [B, H, T, d]

        query_BHTd = rotate(heads(self.query(x_BTD)), rotation_2Td)
        key_BHTd = rotate(heads(self.key(x_BTD)), rotation_2Td)
        value_BHTd = heads(self.value(x_BTD))
        mixed_BHTd = F.scaled_dot_product_attention(query_BHTd, key_BHTd, value_BHTd, is_causal=True)
        return self.out(mixed_BHTd.transpose(1, 2).flatten(2))


def rotary_table(*, max_seq_len: int, head_dim: int, theta: float) -> Tensor:
    """[2, T, d]: cosine and sine of the angle of every position and channel (Su et al. 2021, arXiv 2104.09864)."""
    frequency_d = theta ** (-torch.arange(0, head_dim, 2).double() / head_dim)
    angle_Td = torch.outer(torch.arange(max_seq_len).double(), frequency_d).repeat(1, 2)
    return torch.stack([angle_Td.cos(), angle_Td.sin()]).float()


def rotate(x_BHTd: Tensor, rotation_2Td: Tensor) -> Tensor:
    """Turn each pair (channel c, channel c + d/2) by its position's angle."""
    cos_Td, sin_Td = rotation_2Td[:, : x_BHTd.shape[-2]].to(x_BHTd.dtype)
    low, high = x_BHTd.chunk(2, dim=-1)
    return x_BHTd * cos_Td + torch.cat([-high, low], dim=-1) * sin_Td


class SwiGLU(nn.Module):
    """W_d(silu(W_g x) * (W_v x)) (Shazeer 2020, arXiv 2002.05202); no bias."""

    def __init__(self, *, dim_in: int, hidden: int, dim_out: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim_in, hidden, bias=False)
        self.value = nn.Linear(dim_in, hidden, bias=False)
        self.down = nn.Linear(hidden, dim_out, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.value(x_BTD))
