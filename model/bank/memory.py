"""The layers that can replace the feed-forward net: one table, one interface, `layer(u, inputs) -> (fused, Read)`.

Letters: B batch, T tokens, D dim, H heads of retrieval, Q query width of a head, N entries, L tokens an entry, K
selected by all heads, V vocabulary, n = sqrt(N).
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
from model.bank.primitives.ranks import sum_over_ranks
from model.bank.product_key import (
    Factors,
    Selection,
    balance_loss,
    cosine_factors,
    normalise_halves,
    retrieve,
    selection_counts,
)
from model.bank.value_memory import ValueMemory
from model.config import Memory, ModelConfig
from model.layers import NORM_EPS, SwiGLU


@dataclass(frozen=True)
class Read:
    """What one layer read in one forward: for the EMA (features, selection), the loss (balance), the refresh (query,
    counts) and the diagnostics. Only `balance` has a gradient.

    `features_BTD` is what the EMA averages into the selected entries: u, or with a bank of vectors the query, of width
    Q. `query_BTQ` is the normalised query that the scores used, the heads' after one another. `read_BTD` is what the
    fusion used. `counts_2n` is how often each sub-key was selected, over all ranks, with a row for each half.
    """

    features_BTD: Tensor
    query_BTQ: Tensor
    selection: Selection
    read_BTD: Tensor
    counts_2n: Tensor
    balance: Tensor


class TokenMemory(nn.Module):
    """Product-key retrieval from a bank of token ids, read through the embedding table and fused with the input.

    Each head has its own queries and sub-keys (those of head i are rows i*n to (i+1)*n of `keys_2nh`), and its K/H
    entries weigh 1/H together. The other memories that read a bank differ in `read` and in `features`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, H, Q, n = config.dim, config.memory_heads, config.knowledge_dim, math.isqrt(config.knowledge_num)
        self.num_selected, self.heads = config.num_selected, H
        self.is_told = config.stores_tokens and config.read == "oracle"
        self.cosine = config.query_norm == "cosine"
        self.query = nn.Linear(D, H * Q, bias=False)
        self.query_norm = nn.LayerNorm(Q) if config.query_norm == "layer" else nn.Identity()
        if self.cosine or config.query_temperature == "learned":
            self.temperature_1 = nn.Parameter(torch.empty(1))
        self.keys_2nh = nn.Parameter(torch.empty(2, H * n, Q // 2))
        self.read_norm = nn.RMSNorm(D, eps=NORM_EPS) if config.read_norm == "rms" else nn.Identity()
        self.fuse = SwiGLU(dim_in=2 * D, hidden=D, dim_out=D)

    def forward(self, u_BTD: Tensor, inputs: LayerInputs) -> tuple[Tensor, Read]:
        """The fused read, and what it read."""
        # Scores are in fp32 under every autocast: bf16 has 8 bits, and ties among a thousand keys would be common. The
        # read sums a few rows a position: autocast would save nothing there and lose bits.
        with torch.autocast(u_BTD.device.type, enabled=False):
            query_BTQ, factors = self.factors(u_BTD)
            selection, counts_2n, balance = self.select(factors)
            if self.is_told and inputs.right_BT is not None:
                selection = hand_over(selection, inputs.right_BT)
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

    def factors(self, u_BTD: Tensor) -> tuple[Tensor, list[Factors]]:
        """The normalised query of all heads, and for each head the factors whose product is its scores."""
        query_BTQ = torch.nn.functional.linear(u_BTD.to(self.query.weight.dtype), self.query.weight)
        queries, of_head = (query_BTQ,), (self.keys_2nh,)
        if self.heads > 1:  # the gradient of a chunk is a copy, of one chunk too
            queries, of_head = query_BTQ.chunk(self.heads, dim=-1), self.keys_2nh.chunk(self.heads, dim=1)
        queries = [self.query_norm(query_BTQ) for query_BTQ in queries]
        if self.cosine:
            queries = [normalise_halves(query_BTQ) for query_BTQ in queries]
            factors = [cosine_factors(q, k, self.temperature_1) for q, k in zip(queries, of_head, strict=True)]
        elif hasattr(self, "temperature_1"):
            factors = [Factors(q * self.temperature_1, k) for q, k in zip(queries, of_head, strict=True)]
        else:
            factors = [Factors(q, k) for q, k in zip(queries, of_head, strict=True)]
        return queries[0] if self.heads == 1 else torch.cat(queries, dim=-1), factors

    def select(self, factors: list[Factors]) -> tuple[Selection, Tensor, Tensor]:
        """The entries of all heads, how often each sub-key was selected [2, H*n], and the mean balance loss."""
        found = []
        for of_head in factors:
            selection, scores = retrieve(of_head, num_selected=self.num_selected)
            counts_2n = sum_over_ranks(selection_counts(selection, n=of_head.keys_2nh.shape[1]))
            found.append((selection, counts_2n, balance_loss(of_head, scores, counts_2n)))
        if self.heads == 1:
            return found[0]
        selections, counts, balances = zip(*found, strict=True)
        weight_BTK = torch.cat([selection.weight_BTK for selection in selections], dim=-1) / self.heads
        index_BTK = torch.cat([selection.index_BTK for selection in selections], dim=-1)
        return Selection(weight_BTK, index_BTK), torch.cat(counts, dim=1), torch.stack(balances).mean()


def hand_over(selection: Selection, right_BT: Tensor) -> Selection:
    """The selection with weight 1 on entry `right_BT` wherever that is an entry, and not -1."""
    told_BT1 = right_BT[..., None] >= 0
    alone_K = torch.zeros_like(selection.weight_BTK[0, 0])
    alone_K[0] = 1.0
    return Selection(
        torch.where(told_BT1, alone_K, selection.weight_BTK),
        torch.where(told_BT1, right_BT[..., None], selection.index_BTK),
    )


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
    """The token memory's layer without a memory: what the gate gets beside u is computed from u, by a bottleneck of as
    many parameters as queries and sub-keys have. The difference of `token` to it is what the memory is worth."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.dim
        self.narrow = nn.Linear(D, config.bottleneck, bias=False)
        self.widen = nn.Linear(config.bottleneck, D, bias=False)
        self.read_norm = nn.RMSNorm(D, eps=NORM_EPS) if config.read_norm == "rms" else nn.Identity()
        self.fuse = SwiGLU(dim_in=2 * D, hidden=D, dim_out=D)

    def forward(self, u_BTD: Tensor, inputs: LayerInputs) -> tuple[Tensor, None]:
        del inputs
        made_BTD = self.widen(self.narrow(u_BTD)).to(u_BTD.dtype)
        return self.fuse(torch.cat([u_BTD, self.read_norm(made_BTD)], dim=-1)), None


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
