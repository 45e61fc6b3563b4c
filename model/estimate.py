"""What a configuration will cost, by formula: parameters, FLOPs, bytes. Imports no torch, so a plan is made at once.

The formulas are first-order and stated, not fitted: see each function. Nothing here is a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from model.config import Config, ModelConfig

GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """`peak_gib`: peak bytes of tensors in a training step. `flops_per_token`: forward and backward, a trained token.

    `budget_tokens` is None where the budget is in epochs of a corpus that was not read yet.
    """

    parameters: int
    active_parameters: int
    flops_per_token: float
    peak_gib: float
    budget_tokens: int | None


def estimate(config: Config) -> Estimate:
    """Parameters exactly; FLOPs as 6 a multiplied parameter (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""
    model = config.model
    layer = attention_parameters(model) + feed_forward_parameters(model)
    norms = (2 * model.n_layers + 1) * model.dim
    active = model.n_layers * layer + norms
    table = model.vocab_size * model.dim
    attention_scores = 12 * model.n_layers * model.dim * model.max_seq_len / 2  # causal: half the square
    flops = 6.0 * (active + table) + attention_scores  # the tied table multiplies once, as the head
    return Estimate(
        parameters=active + table,
        active_parameters=active,
        flops_per_token=flops,
        peak_gib=_peak_bytes(config, active + table) / GIB,
        budget_tokens=config.train.tokens,
    )


def attention_parameters(model: ModelConfig) -> int:
    """Four square projections: 4 D^2."""
    return 4 * model.dim**2


def swiglu_hidden(model: ModelConfig) -> int:
    """Width of the control's SwiGLU whose 3DF parameters match the token memory's: (5D^2 + DQ + nQ) / 3D, down to a
    multiple of 8 (all keys count, stored tokens do not)."""
    D, Q, n = model.dim, model.knowledge_dim, math.isqrt(model.knowledge_num)
    return max(8, (5 * D * D + D * Q + n * Q) // (3 * D) // 8 * 8)


def feed_forward_parameters(model: ModelConfig) -> int:
    """Trained parameters of what stands in the feed-forward net's place, norms of the read and the query included."""
    D, Q, n = model.dim, model.knowledge_dim, math.isqrt(model.knowledge_num)
    if model.memory == "none":
        return 3 * D * swiglu_hidden(model)
    fuse = 5 * D * D
    if model.memory == "blind":
        return fuse
    query_norm = 2 * Q if model.query_norm == "layer" else 0
    read_norm = D if model.read_norm == "rms" else 0
    return fuse + D * Q + n * Q + query_norm + read_norm


def _peak_bytes(config: Config, parameters: int) -> float:
    """Weights, gradients and AdamW's two moments in fp32; activations kept for the backward, with gradient
    checkpointing one block's and every block's input; a chunk of fp32 logits (`model.loss.CHUNK_BYTES`) with the loss's
    gradients of states and table; the bank."""
    model, train = config.model, config.train
    tokens = train.batch_size * model.max_seq_len
    D, K, n = model.dim, model.num_selected, math.isqrt(model.knowledge_num)
    weights = 16.0 * parameters
    kept = 12 * D + 4 * swiglu_hidden(model) if model.memory == "none" else 22 * D
    if model.memory == "token":
        kept += 4 * n + 3 * K  # two rows of scores and their softmax; K indices (int64) and weights
    blocks = model.n_layers * kept if train.gradient_checkpointing == "off" else kept + model.n_layers * D
    activations = 4.0 * tokens * blocks
    logits = min(2.0**25, 4.0 * tokens * model.vocab_size) + 4.0 * D * (tokens + model.vocab_size)
    bank = 4.0 * model.knowledge_num * model.knowledge_length if model.memory == "token" else 0.0
    return weights + activations + logits + bank
