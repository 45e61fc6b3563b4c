"""The table of what every trial measures: a row for each column. Schema, documentation and headers derive from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Metrics = dict[str, float | int | list[float]]
"""Measured values by the name of their metric."""


MOST_EPOCHS = 4.0
"""Passes over the training data up to which repeated text is worth about as much as new text (Muennighoff et al. 2023,
arXiv 2305.16264)."""


@dataclass(frozen=True)
class Metric:
    """A measured quantity. `kind` is its storage type, `better` the direction that is good ("" where neither is)."""

    name: str
    kind: Literal["float", "int", "floats"]
    unit: str
    better: Literal["min", "max", ""]
    about: str


METRICS: tuple[Metric, ...] = (
    # How well it models text.
    Metric("ce_loss", "float", "nats/token", "min", "training cross-entropy, mean of the last report's steps"),
    Metric("val_loss", "float", "nats/token", "min", "cross-entropy on held-out text"),
    Metric("val_object_nats", "float", "nats/token", "min", "val_loss of the tokens of objects (corpus `facts`)"),
    Metric("val_rest_nats", "float", "nats/token", "min", "val_loss of all other tokens (corpus `facts`)"),
    Metric("val_bpb", "float", "bits/byte", "min", "the same in bits a byte of text: comparable across tokenizers"),
    Metric("perplexity", "float", "", "min", "exp(val_loss)"),
    Metric("inference_loss", "float", "nats/token", "min", "checkpoint reloaded: continuations of held-out prompts"),
    Metric("unigram_floor", "float", "nats/token", "", "what token frequencies alone reach on the held-out text"),
    Metric("bigram_floor", "float", "nats/token", "", "what an interpolated bigram model reaches there"),
    # Reliance: what the trained model loses when its bank is disturbed.
    Metric(
        "bank_use_nats",
        "float",
        "nats/token",
        "max",
        "reliance: val_loss with permuted rows minus val_loss",
    ),
    Metric("bank_zero_nats", "float", "nats/token", "max", "reliance: val_loss with reads of 0 minus val_loss"),
    Metric("bank_mean_nats", "float", "nats/token", "max", "reliance: val_loss with mean reads minus val_loss"),
    # What it knows (corpus `facts`).
    Metric("fact_nll", "float", "nats", "min", "cost of the right object, seen and held-out paraphrases together"),
    Metric("fact_accuracy", "float", "share", "max", "right object first among its relation's, both paraphrase sets"),
    Metric("fact_nll_seen", "float", "nats", "min", "cost of the right object, sentences trained on"),
    Metric("fact_accuracy_seen", "float", "share", "max", "right object first, sentences trained on"),
    Metric("fact_nll_heldout", "float", "nats", "min", "cost of the right object, paraphrases never trained on"),
    Metric("fact_accuracy_heldout", "float", "share", "max", "right object first, paraphrases never trained on"),
    Metric("fact_nll_kb_only", "float", "nats", "min", "cost of the right object, facts only the knowledge base holds"),
    Metric("fact_accuracy_kb_only", "float", "share", "max", "right object first, facts only the knowledge base holds"),
    # What it writes.
    Metric("eos_rate", "float", "share", "max", "samples that end by themselves"),
    Metric("distinct_2", "float", "share", "max", "different token pairs over token pairs in the samples"),
    Metric("repetition_rate", "float", "share", "min", "tokens in the samples that repeat one of the last eight"),
    # How the memory is used, in the validation window.
    Metric("coverage", "float", "share", "max", "entries selected at least once in the window, all layers"),
    Metric("coverage_uniform", "float", "share", "", "1 - exp(-draws/N): what uniform choice would give"),
    Metric("coverage_window_tokens", "int", "tokens", "", "positions of that window, padding included"),
    Metric("effective_entries", "float", "entries", "max", "exp(entropy of usage), mean over layers"),
    Metric("read_entropy", "float", "share", "", "exp(H(w))/K, mean over positions and layers"),
    Metric("coverage_by_layer", "floats", "share", "max", "coverage, a layer that reads each"),
    Metric("effective_entries_by_layer", "floats", "entries", "max", "exp(entropy of usage), a layer that reads each"),
    Metric("read_entropy_by_layer", "floats", "share", "", "exp(H(w))/K, a layer that reads each"),
    Metric("balance_loss", "float", "", "min", "Switch-style balance on both marginals; 1.0 is uniform"),
    # What the EMA does.
    Metric("token_flip_rate", "float", "share", "", "slots of updated entries whose token changed"),
    Metric("self_encode_rate", "float", "share", "max", "the tokenizer's ids t whose embedding is encoded as t again"),
    Metric("distinct_tokens_per_entry", "float", "tokens", "max", "different tokens in an entry, mean over the bank"),
    Metric("ema_scale_ratio", "float", "", "", "|(1-decay) a| / |decay F|, mean over updated entries; decay above 0"),
    Metric("entries_updated", "float", "entries", "", "entries an EMA update touched, mean since the last report"),
    Metric("subkeys_refreshed", "int", "sub-keys", "", "sub-keys that `refresh` reset, from the start of the run on"),
    Metric("objects_kept", "float", "share", "max", "knowledge-base sentences whose object survived kb_fit"),
    # What it costs.
    Metric("parameters", "int", "", "", "trained parameters"),
    Metric(
        "active_parameters",
        "int",
        "",
        "",
        "parameters that a token uses: without the embedding table, and of a memory's rows those that it reads",
    ),
    Metric("epoch_tokens", "int", "tokens", "", "positions of one pass over the training rows, padding included"),
    Metric("tokens_per_s", "float", "tokens/s", "max", "training throughput, evaluation excluded"),
    Metric("step_ms", "float", "ms", "min", "mean time of a step since the last report"),
    Metric("ema_ms", "float", "ms", "min", "mean time of an EMA update since the last report"),
    Metric("peak_allocated_gib", "float", "GiB", "min", "max_memory_allocated (CUDA)"),
    Metric("peak_reserved_gib", "float", "GiB", "min", "max_memory_reserved (CUDA)"),
    Metric("nvml_used_gib", "float", "GiB", "min", "most that NVML saw the process hold, CUDA's context included"),
    Metric("peak_rss_gib", "float", "GiB", "min", "most that the process had resident at once during this trial"),
    Metric("peak_gib", "float", "GiB", "min", "peak reserved on CUDA, peak resident elsewhere"),
    Metric("gpu_util_pct", "float", "%", "max", "how busy the GPU was, where NVML answers"),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
