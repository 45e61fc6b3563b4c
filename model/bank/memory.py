"""The layers that can replace the feed-forward net: one table, one interface, `layer(u, inputs) -> (fused, Read)`.

Letters: B batch, T tokens, D dim, Q query width, N entries, L tokens an entry, K selected, V vocabulary, n = sqrt(N).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.bank.bank_read import pool, read_tokens
from model.bank.layer_inputs import LayerInputs
from model.bank.memory_bank import MemoryBank
from model.bank.ngram_memory import NgramMemory
from model.bank.product_key import (
    Factors,
    Selection,
    balance_loss,
    cosine_factors,
    normalise_halves,
    retrieve,
    selection_counts,
)
from model.bank.ranks import sum_over_ranks
from model.bank.value_memory import ValueMemory
from model.config import Memory, ModelConfig
from model.layers import NORM_EPS, SwiGLU


@dataclass(frozen=True)
class Read:
    """What one layer read in one forward: for the EMA (features, selection), the loss (balance), the refresh (query,
    counts) and the diagnostics. Only `balance` has a gradient.

    `features_BTD` is what the EMA averages into the selected entries: u, or with a bank of vectors the query, of width
    Q. `query_BTQ` is the normalised query that the scores used. `read_BTD` is what the fusion used. `counts_2n` is how
    often each sub-key was selected, over all ranks, with a row for each half.
    """

    features_BTD: Tensor
    query_BTQ: Tensor
    selection: Selection
    read_BTD: Tensor
    counts_2n: Tensor
    balance: Tensor


class TokenMemory(nn.Module):
    """Product-key retrieval from a bank of token ids, read through the embedding table and fused with the input.

    The other memories that read a bank differ in `read` and in `features`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, Q, n = config.dim, config.knowledge_dim, math.isqrt(config.knowledge_num)
        self.num_selected = config.num_selected
        self.cosine = config.query_norm == "cosine"
        self.query = nn.Linear(D, Q, bias=False)
        self.query_norm = nn.LayerNorm(Q) if config.query_norm == "layer" else nn.Identity()
        if self.cosine:
            self.temperature_1 = nn.Parameter(torch.empty(1))
        self.keys_2nh = nn.Parameter(torch.empty(2, n, Q // 2))
        self.read_norm = nn.RMSNorm(D, eps=NORM_EPS) if config.read_norm == "rms" else nn.Identity()
        self.fuse = SwiGLU(dim_in=2 * D, hidden=D, dim_out=D)

    def forward(self, u_BTD: Tensor, inputs: LayerInputs) -> tuple[Tensor, Read]:
        """The fused read, and what it read."""
        # Scores are in fp32 under every autocast: bf16 has 8 bits, and ties among a thousand keys would be common. The
        # read sums a few rows a position: autocast would save nothing there and lose bits.
        with torch.autocast(u_BTD.device.type, enabled=False):
            query_BTQ, factors = self.factors(u_BTD)
            selection, scores = retrieve(factors, num_selected=self.num_selected)
            counts_2n = sum_over_ranks(selection_counts(selection, n=self.keys_2nh.shape[1]))
            balance = balance_loss(factors, scores, counts_2n)
            read_BTD = self.read_norm(self.read(selection, inputs.bank, inputs.table_VD))
        if inputs.replace_read_D is not None:
            read_BTD = inputs.replace_read_D.expand_as(read_BTD)
        fused_BTD = self.fuse(torch.cat([u_BTD, read_BTD.to(u_BTD.dtype)], dim=-1))
        return fused_BTD, Read(
            features_BTD=self.features(u_BTD, query_BTQ).detach(),
            query_BTQ=query_BTQ.detach(),
            selection=Selection(selection.weight_BTK.detach(), selection.index_BTK),
            read_BTD=read_BTD.detach(),
            counts_2n=counts_2n,
            balance=balance,
        )

    def read(self, selection: Selection, bank: MemoryBank, table_VD: Tensor) -> Tensor:
        """m = sum_k w_k * mean_l E[bank[I_k, l]]."""
        return read_tokens(selection, bank.tokens_NL, table_VD)

    def features(self, u_BTD: Tensor, query_BTQ: Tensor) -> Tensor:
        """What the EMA averages into the selected entries."""
        del query_BTQ
        return u_BTD

    def factors(self, u_BTD: Tensor) -> tuple[Tensor, Factors]:
        """The normalised query, and the factors whose product is its scores."""
        query_BTQ = self.query_norm(torch.nn.functional.linear(u_BTD.to(self.query.weight.dtype), self.query.weight))
        if self.cosine:
            query_BTQ = normalise_halves(query_BTQ)
            return query_BTQ, cosine_factors(query_BTQ, self.keys_2nh, self.temperature_1)
        return query_BTQ, Factors(query_BTQ, self.keys_2nh)


class VectorMemory(TokenMemory):
    """1.4.5: the bank holds vectors of the query's width, which a read projects to D; the EMA averages queries."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.project = nn.Linear(config.knowledge_dim, config.dim, bias=False)

    def read(self, selection: Selection, bank: MemoryBank, table_VD: Tensor) -> Tensor:
        """m = P(sum_k w_k * bank[I_k])."""
        del table_VD
        return self.project(pool(selection, bank.vectors_NQ))

    def features(self, u_BTD: Tensor, query_BTQ: Tensor) -> Tensor:
        """The query, after its norm."""
        del u_BTD
        return query_BTQ


class HybridMemory(TokenMemory):
    """A bank of tokens, with a continuous residual for each entry that holds what the tokens leave out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.residual = nn.Linear(config.residual_dim, config.dim, bias=False)

    def read(self, selection: Selection, bank: MemoryBank, table_VD: Tensor) -> Tensor:
        """m = sum_k w_k * mean_l E[bank[I_k, l]] + R(sum_k w_k * residual[I_k])."""
        return super().read(selection, bank, table_VD) + self.residual(pool(selection, bank.residual_NR))


class BlindMemory(nn.Module):
    """fuse(u, 0): the same gated layer without a memory. The difference to `token` is what the memory adds."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fuse = SwiGLU(dim_in=2 * config.dim, hidden=config.dim, dim_out=config.dim)

    def forward(self, u_BTD: Tensor, inputs: LayerInputs) -> tuple[Tensor, None]:
        del inputs
        return self.fuse(torch.cat([u_BTD, torch.zeros_like(u_BTD)], dim=-1)), None


class MatchedFeedForward(nn.Module):
    """The control: a SwiGLU with as many active parameters as the token memory's layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.net = SwiGLU(dim_in=config.dim, hidden=config.swiglu_hidden, dim_out=config.dim)

    def forward(self, u_BTD: Tensor, inputs: LayerInputs) -> tuple[Tensor, None]:
        del inputs
        return self.net(u_BTD), None


MEMORIES: dict[Memory, type[nn.Module]] = {
    "token": TokenMemory,
    "vector": VectorMemory,
    "hybrid": HybridMemory,
    "none": MatchedFeedForward,
    "blind": BlindMemory,
    "ngram": NgramMemory,
    "values": ValueMemory,
}
