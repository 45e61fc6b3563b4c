"""The sizes of the memories whose rows are trained: `ngram` and `values`.

Letters: D dim, Q knowledge_dim, F the control's SwiGLU width, H values_heads, n = sqrt(values_num).
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

from model.config.settings import ModelConfig

NGRAM_ORDERS, NGRAM_HEADS, NGRAM_WIDTH = (2, 3), 4, 16
"""Of `ngram`: the numbers of tokens that are hashed, the hashes of each such number, the width of a table's row."""
NGRAM_TABLES = len(NGRAM_ORDERS) * NGRAM_HEADS


@dataclass(frozen=True)
class RowMemory:
    """The sizes of one layer. `touched`: the rows that a position reads, at most. `beside`: trained parameters beside
    the rows and the layer's SwiGLU, whose width is `hidden`."""

    rows: int
    width: int
    touched: int
    beside: int
    hidden: int


def row_memory(model: ModelConfig) -> RowMemory:
    """The sizes of a layer of `ngram` or `values`. What a position uses of a layer, its rows included, is as much as
    the control's 3DF parameters: so its SwiGLU is narrower, down to a multiple of 8, but at least 8."""
    D, Q, H, n = model.dim, model.knowledge_dim, model.values_heads, math.isqrt(model.values_num)
    if model.memory == "ngram":
        rows, width, touched = sum(ngram_primes(model.ngram_rows)), NGRAM_WIDTH, NGRAM_TABLES
        beside = 2 * D * width * touched  # W_k, W_v
    else:
        assert model.memory == "values", "no other memory has rows of its own"
        rows, width, touched = model.values_num, D, min(model.values_num, H * model.values_selected)
        query_norm = {"none": 0, "layer": 2 * Q, "cosine": 1}[model.query_norm]
        beside = 2 * D * D + H * D * Q + H * n * Q + query_norm  # W_1, W_2, queries, sub-keys
    left = 3 * D * model.swiglu_hidden - beside - touched * width
    return RowMemory(rows, width, touched, beside, hidden=max(8, left // (3 * D) // 8 * 8))


@functools.lru_cache(maxsize=64)
def ngram_primes(largest: int) -> tuple[int, ...]:
    """The rows of each table of `ngram`: the largest distinct primes up to `largest`, the largest first. There are
    fewer of them than tables where `largest` is below 19."""
    primes = (size for size in range(largest, 1, -1) if all(size % d for d in range(2, math.isqrt(size) + 1)))
    return tuple(itertools.islice(primes, NGRAM_TABLES))


def untouched_numbers(model: ModelConfig) -> int:
    """The numbers in rows that one position does not read, over all layers."""
    if not model.has_rows:
        return 0
    layer = row_memory(model)
    return len(model.layers_with_memory) * (layer.rows - layer.touched) * layer.width


def frozen_numbers(model: ModelConfig) -> int:
    """The numbers in rows that are not trained, over all layers."""
    if not model.has_rows or model.memory_rows == "trained":
        return 0
    layer = row_memory(model)
    return len(model.layers_with_memory) * layer.rows * layer.width
