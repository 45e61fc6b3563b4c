"""What a configuration will cost, by formula: parameters, FLOPs, bytes. Imports no torch, so a plan takes no time.

The formulas are first-order, and none is fitted: each function states its own. Nothing here is a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from model.config import Config, Memory, ModelConfig, frozen_numbers, row_memory, untouched_numbers
from model.config.work_sizes import LOGITS_BYTES, UPDATE_BYTES

GIB = 2**30

RECORDED_FLOPS, RECORDED_SUMS = 1.5e12, 2**28
"""Largest micro-batch that a GPU replays as one graph (model/device/cuda_graph.py), in FLOPs, and the largest sums of
an update of the bank that may follow it, in bytes. A recording keeps its memory, so that an update or an evaluation
takes other memory. The limits are chosen for a 4090, by arithmetic: it computes so long on a larger one that launches
should cost little. On an H200 larger ones would still gain (docs/gpu.md)."""


@dataclass(frozen=True)
class Estimate:
    """`peak_gib`: peak bytes of tensors in a training step. `flops_per_token`: forward and backward, a trained token.

    `budget_tokens` is None where the budget is in epochs, since the corpus was not read yet.
    """

    parameters: int
    active_parameters: int
    flops_per_token: float
    peak_gib: float
    budget_tokens: int | None


def estimate(config: Config) -> Estimate:
    """Parameters exactly; FLOPs as 6 a multiplied parameter (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""
    model = config.model
    norms = (2 * model.n_layers + 1) * model.dim
    stored = model.n_layers * attention_parameters(model) + norms
    stored += sum(count * feed_forward_parameters(model, memory=kind) for kind, count in _layers(model).items())
    table, frozen = model.vocab_size * model.dim, frozen_numbers(model)
    active, trained = stored - untouched_numbers(model), stored + table - frozen
    attention_scores = 12 * model.n_layers * model.dim * model.max_seq_len / 2  # causal: half the square
    flops = 6.0 * (active + table) + attention_scores  # the tied table multiplies once, as the head
    return Estimate(
        parameters=trained,
        active_parameters=active,
        flops_per_token=flops,
        peak_gib=_peak_bytes(config, trained, frozen=frozen) / GIB,
        budget_tokens=config.train.tokens,
    )


def is_recorded(config: Config, *, cuda: bool, ranks: int) -> bool:
    """Whether micro-batches are replayed as a CUDA graph. Several ranks exchange sums in the middle of theirs."""
    model, tokens = config.model, config.train.batch_size * config.model.max_seq_len
    small = estimate(config).flops_per_token * tokens <= RECORDED_FLOPS
    little = 4 * _touched(model, tokens) * _feature_width(model) <= RECORDED_SUMS
    return cuda and ranks == 1 and config.train.engine == "ddp" and small and little


def attention_parameters(model: ModelConfig) -> int:
    """Four square projections: 4 D^2."""
    return 4 * model.dim**2


def feed_forward_parameters(model: ModelConfig, *, memory: Memory) -> int:
    """Parameters of the layer that replaces the feed-forward net, including the norms of read and query, and rows that
    are frozen."""
    D, Q, n = model.dim, model.knowledge_dim, math.isqrt(model.knowledge_num)
    if memory == "none":
        return 3 * D * model.swiglu_hidden
    fuse = 5 * D * D
    if memory == "blind":
        return fuse
    if memory == "ngram" or memory == "values":
        sizes = row_memory(model)
        return 3 * D * sizes.hidden + sizes.beside + sizes.rows * sizes.width
    query_norm = {"none": 0, "layer": 2 * Q, "cosine": 1}[model.query_norm]
    read_norm = D if model.read_norm == "rms" else 0
    project = {"token": 0, "vector": Q * D, "hybrid": model.residual_dim * D}[memory]
    return fuse + D * Q + n * Q + query_norm + read_norm + project


def bank_bytes(model: ModelConfig) -> int:
    """Bytes of the bank: tokens, vectors or residuals, cached features and their index; not the few numbers of each
    sub-key that `refresh` keeps."""
    N, L, D = model.knowledge_num, model.knowledge_length, model.dim
    if not model.has_bank:
        return 0
    entry = {"token": L, "vector": model.knowledge_dim, "hybrid": L + model.residual_dim}[model.memory]
    cache = 0
    if model.stores_tokens and model.ema == "on" and model.ema_state == "sparse_cache":
        cache = 4 * N + model.cached_entries * (4 * L * D + 16)
    return 4 * N * entry + cache


def _layers(model: ModelConfig) -> dict[Memory, int]:
    """The number of layers of each memory."""
    chosen = len(model.layers_with_memory)
    if model.memory == "none":
        return {"none": model.n_layers}
    return {model.memory: chosen, "none": model.n_layers - chosen}


def _peak_bytes(config: Config, trained: int, *, frozen: int) -> float:
    """Weights, gradients and AdamW's two moments in fp32 (of frozen rows, weights alone); the bank; and the larger of a
    step and an EMA update.

    A step keeps activations for its backward (with gradient checkpointing one block's, and every block's input); beside
    them either the softmax of one layer's scores, both halves, or a chunk of fp32 logits (`LOGITS_BYTES`)
    and the loss's gradients of states and table.
    """
    model, train = config.model, config.train
    tokens, D = train.batch_size * model.max_seq_len, model.dim
    layers = {kind: (count, _kept_numbers(model, kind)) for kind, count in _layers(model).items()}
    if train.gradient_checkpointing == "off":
        kept = sum(count * numbers for count, numbers in layers.values())
    else:
        kept = max(numbers for _, numbers in layers.values()) + model.n_layers * D
    logits = min(LOGITS_BYTES, 4.0 * tokens * model.vocab_size) + 4.0 * D * (tokens + model.vocab_size)
    scores = 8.0 * tokens * math.isqrt(model.knowledge_num) if model.has_bank else 0.0
    step = 4.0 * tokens * kept + max(scores, logits)
    return 16.0 * trained + 4.0 * frozen + bank_bytes(model) + max(step, _update_bytes(model, tokens))


def _kept_numbers(model: ModelConfig, memory: Memory) -> int:
    """fp32 numbers that a layer keeps for each position."""
    D, K = model.dim, model.num_selected
    if memory == "none":
        return 12 * D + 4 * model.swiglu_hidden
    if memory == "blind":
        return 22 * D
    if memory == "ngram" or memory == "values":
        sizes = row_memory(model)
        # e, W_k e, W_v e, both norms and the product; or the gate, y and what W_2 gets, with indices and weights.
        own = 2 * sizes.touched + sizes.touched * sizes.width + 6 * D
        selected = 2 * sizes.touched + model.values_heads * 2 * model.knowledge_dim + 5 * D
        return 12 * D + 4 * sizes.hidden + (own if memory == "ngram" else selected)
    # The balance loss's gradient of the query; K indices (int64) and weights; rows pooled before a projection.
    pooled = {"token": 3 * K, "vector": 3 * K + model.knowledge_dim, "hybrid": 3 * K + model.residual_dim}
    return 22 * D + model.knowledge_dim + pooled[memory]


def _update_bytes(model: ModelConfig, tokens: int) -> float:
    """The sums of the entries that a micro-batch can select, and at most eight chunks of temporaries (docs/log.md)."""
    entries = _touched(model, tokens)
    sums = 4.0 * entries * _feature_width(model)
    if not model.stores_tokens:
        return sums + min(UPDATE_BYTES, 3 * sums)
    slots = entries * model.knowledge_length
    logits = 4 * model.vocab_size * (min(model.vocab_size, slots) + 3 * slots)
    return sums + min(8 * UPDATE_BYTES, logits)


def _touched(model: ModelConfig, tokens: int) -> int:
    """The most entries that an update after a micro-batch can touch."""
    if not model.has_bank or model.ema == "off":
        return 0
    return min(model.knowledge_num, tokens * model.num_selected * len(model.layers_with_memory))


def _feature_width(model: ModelConfig) -> int:
    """Numbers of what the EMA averages for an entry."""
    return model.knowledge_dim if model.memory == "vector" else model.dim
