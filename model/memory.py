"""What can stand in the feed-forward net's place. One table, one interface: `layer(u, bank, table) -> Output`.

Letters: B batch, T tokens, D dim, Q query width, N entries, L tokens an entry, K selected, V vocabulary, n = sqrt(N).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from model.config import Memory, ModelConfig
from model.decode import decode
from model.estimate import swiglu_hidden
from model.layers import SwiGLU, at_least_fp32
from model.product_key import HalfScores, Selection, balance_loss, half_scores, select, selection_shares

NORM_EPS = 1e-6


@dataclass(frozen=True)
class Read:
    """What one layer read in one forward: for the EMA (features, selection), the loss (balance) and the diagnostics.

    `features_BTD` and `read_BTD` carry no gradient; `read_BTD` is what entered the fusion.
    """

    features_BTD: Tensor
    selection: Selection
    read_BTD: Tensor
    balance: Tensor


class TokenMemory(nn.Module):
    """Product-key retrieval from a bank of token ids, decoded through the embedding table and fused with the query."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, Q, n = config.dim, config.knowledge_dim, math.isqrt(config.knowledge_num)
        self.num_selected = config.num_selected
        self.query = nn.Linear(D, Q, bias=False)
        self.query_norm = nn.LayerNorm(Q) if config.query_norm == "layer" else nn.Identity()
        self.keys_2nh = nn.Parameter(torch.empty(2, n, Q // 2))
        self.read_norm = nn.RMSNorm(D, eps=NORM_EPS) if config.read_norm == "rms" else nn.Identity()
        self.fuse = SwiGLU(dim_in=2 * D, hidden=D, dim_out=D)

    def forward(
        self, u_BTD: Tensor, bank_NL: Tensor, table_VD: Tensor, replace_read_D: Tensor | None = None
    ) -> tuple[Tensor, Read]:
        """`replace_read_D` puts a constant in the read's place: an intervention that measures what reading is worth."""
        scores = self.scores(u_BTD)
        selection = select(scores, num_selected=self.num_selected)
        counts_2n = sum_over_ranks(selection_shares(selection, n=self.keys_2nh.shape[1]))
        # A handful of rows a position is summed in fp32: autocast would save nothing here and lose bits.
        with torch.autocast(u_BTD.device.type, enabled=False):
            read_BTD = self.read_norm(decode(selection, bank_NL, table_VD))
        if replace_read_D is not None:
            read_BTD = replace_read_D.expand_as(read_BTD)
        fused_BTD = self.fuse(torch.cat([u_BTD, read_BTD.to(u_BTD.dtype)], dim=-1))
        return fused_BTD, Read(
            features_BTD=u_BTD.detach(),
            selection=Selection(selection.weight_BTK.detach(), selection.index_BTK),
            read_BTD=read_BTD.detach(),
            balance=balance_loss(scores, counts_2n),
        )

    def scores(self, u_BTD: Tensor) -> HalfScores:
        """Scores in fp32 whatever the autocast: bf16 has 8 bits, and ties among a thousand keys would be common."""
        with torch.autocast(u_BTD.device.type, enabled=False):
            query_BTQ = self.query_norm(torch.nn.functional.linear(at_least_fp32(u_BTD), self.query.weight))
            return half_scores(query_BTQ, self.keys_2nh)


class BlindMemory(nn.Module):
    """fuse(u, 0): the same gated layer without a memory; what is left is what the memory itself adds."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fuse = SwiGLU(dim_in=2 * config.dim, hidden=config.dim, dim_out=config.dim)

    def forward(
        self, u_BTD: Tensor, bank_NL: Tensor, table_VD: Tensor, replace_read_D: Tensor | None = None
    ) -> tuple[Tensor, None]:
        del bank_NL, table_VD, replace_read_D
        return self.fuse(torch.cat([u_BTD, torch.zeros_like(u_BTD)], dim=-1)), None


class MatchedFeedForward(nn.Module):
    """The control: a SwiGLU of as many active parameters as the token memory's layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.net = SwiGLU(dim_in=config.dim, hidden=swiglu_hidden(config), dim_out=config.dim)

    def forward(
        self, u_BTD: Tensor, bank_NL: Tensor, table_VD: Tensor, replace_read_D: Tensor | None = None
    ) -> tuple[Tensor, None]:
        del bank_NL, table_VD, replace_read_D
        return self.net(u_BTD), None


MEMORIES: dict[Memory, type[nn.Module]] = {
    "token": TokenMemory,
    "none": MatchedFeedForward,
    "blind": BlindMemory,
}


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of a tensor without gradient over all ranks; itself where there is one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        tensor = tensor.contiguous()
        dist.all_reduce(tensor)
    return tensor
