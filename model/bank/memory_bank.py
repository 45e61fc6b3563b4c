"""The memory bank: the contents of the entries and statistics of them, as buffers, saved with the model, no gradient.

Letters: N entries, L tokens an entry, Q query width, R residual width, D dim, C cached entries, X layers with a memory,
n = sqrt(N).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.config import ModelConfig, stream_seed

CONTENTS = ("tokens_NL", "vectors_NQ", "residual_NR")
"""The buffers that a read uses, with a row for each entry."""


class MemoryBank(nn.Module):
    """One bank for all layers. It has only the buffers that its variant uses.

    | buffer | of | holds |
    |---|---|---|
    | `tokens_NL` int32 | token, hybrid | the stored tokens |
    | `vectors_NQ` fp32 | vector | the stored vectors |
    | `residual_NR` fp32 | hybrid | what the tokens leave out, in the coordinates of `sketch_RD` |
    | `sketch_RD` fp32 | hybrid | the fixed map D -> R, orthonormal rows |
    | `cache_*` | ema_state sparse_cache | continuous features of entries (feature_cache.py) |
    | `used_N` int32, `used_tokens` int64 | all | times selected in the last validation's tokens |
    | `idle_X2n` int32, `refreshed` int64 | refresh frequency | updates without a sub-key, -1 in use; resets so far |
    """

    tokens_NL: Tensor
    vectors_NQ: Tensor
    residual_NR: Tensor
    sketch_RD: Tensor
    cache_features_CLD: Tensor
    cache_entry_C: Tensor
    cache_used_C: Tensor
    cache_slot_N: Tensor
    cache_clock: Tensor
    used_N: Tensor
    used_tokens: Tensor
    idle_X2n: Tensor
    refreshed: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        N, L, D, R = config.knowledge_num, config.knowledge_length, config.dim, config.residual_dim
        self.has_cache = config.stores_tokens and config.ema == "on" and config.ema_state == "sparse_cache"
        if config.stores_tokens:
            self.register_buffer("tokens_NL", torch.zeros(N, L, dtype=torch.int32))
        if config.memory == "vector":
            self.register_buffer("vectors_NQ", torch.zeros(N, config.knowledge_dim))
        if config.memory == "hybrid":
            self.register_buffer("residual_NR", torch.zeros(N, R))
            self.register_buffer("sketch_RD", torch.eye(R, D))
        if self.has_cache:
            C = config.cached_entries
            self.register_buffer("cache_features_CLD", torch.zeros(C, L, D))
            self.register_buffer("cache_entry_C", torch.full((C,), -1))
            self.register_buffer("cache_used_C", torch.zeros(C, dtype=torch.int64))
            self.register_buffer("cache_slot_N", torch.full((N,), -1, dtype=torch.int32))
            self.register_buffer("cache_clock", torch.zeros((), dtype=torch.int64))
        if config.has_bank:
            self.register_buffer("used_N", torch.zeros(N, dtype=torch.int32))
            self.register_buffer("used_tokens", torch.zeros((), dtype=torch.int64))
        if config.has_bank and config.refresh == "frequency":
            shape = (len(config.layers_with_memory), 2, math.isqrt(N))
            self.register_buffer("idle_X2n", torch.zeros(shape, dtype=torch.int32))
            self.register_buffer("refreshed", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def initialise(self, *, seed: int) -> None:
        """Draw vectors and sketch, each from its own stream, on the CPU.

        Vectors are normal, with the variance of the queries that the EMA averages into them, so that an update neither
        replaces an entry nor is lost in it. A query's channel has variance 1 after a LayerNorm; 1/3 after a linear
        layer uniform in +-1/sqrt(D) on an RMS-normed u; 2/Q where its halves have norm 1. Residuals start at zero: a
        hybrid bank is a token bank until its first update. The sketch is the Q of a normal matrix's QR.
        """
        if self.config.memory == "vector":
            scale = {"layer": 1.0, "none": 3**-0.5, "cosine": (2 / self.config.knowledge_dim) ** 0.5}
            generator = torch.Generator().manual_seed(stream_seed(seed, "bank/vectors"))
            drawn_NQ = torch.empty(self.vectors_NQ.shape).normal_(generator=generator)
            self.vectors_NQ.copy_(drawn_NQ.mul_(scale[self.config.query_norm]))
        if self.config.memory == "hybrid":
            generator = torch.Generator().manual_seed(stream_seed(seed, "bank/sketch"))
            R, D = self.sketch_RD.shape
            normal_DR = torch.randn(D, R, generator=generator, dtype=torch.float64)
            self.sketch_RD.copy_(torch.linalg.qr(normal_DR).Q.T)

    @contextmanager
    def permuted(self, order_N: Tensor) -> Iterator[None]:
        """Put the rows in another order within the `with` block, so that queries select other entries."""
        kept = {name: getattr(self, name) for name in CONTENTS if hasattr(self, name)}
        try:
            for name, rows in kept.items():
                setattr(self, name, rows[order_N])
            yield
        finally:
            for name, rows in kept.items():
                setattr(self, name, rows)
