"""The sections of a configuration: keys, types and defaults, with the names of experiment 1.4.6.

The rules that tie values together stand in rules.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

Memory = Literal["token", "vector", "hybrid", "none", "blind", "ngram", "values"]
Corpus = Literal["facts", "pydoc", "jsonl"]

LARGEST = 2**53
"""Whole numbers up to this one are exact as doubles."""

LATER_KEYS: Mapping[str, Any] = {
    "model.ngram_rows": 8_191,
    "model.values_num": 4_096,
    "model.values_heads": 4,
    "model.values_selected": 8,
    "model.memory_rows": "trained",
    "train.memory_lr_scale": None,
}
"""Keys that came after the first release -> the value with which a run does what runs did before the key. What
identifies a run leaves such a value out, so that a new key gives no old run another identity."""


class ConfigError(ValueError):
    """A configuration value breaks a rule. ``key`` is dotted (``model.knowledge_num``)."""

    def __init__(self, key: str, value: object, rule: str, hint: str) -> None:
        super().__init__(f"{key}: {value}: {rule}; {hint}")
        self.key, self.value, self.rule, self.hint = key, value, rule, hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.value, self.rule, self.hint)


class Section(BaseModel):
    """A part of a configuration: frozen, closed, finite. Docstrings under fields are docs/reference's descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        """Bound whole numbers, so that sizes and FLOPs computed from them fit a double."""
        if isinstance(value, int) and value > LARGEST:
            raise PydanticCustomError("less_than_equal", "too large", {"le": f"{LARGEST:,}"})
        return value


class ModelConfig(Section):
    """The network and its memory. Letters: D dim, H n_heads, V vocab_size, T max_seq_len, N knowledge_num, L
    knowledge_length, Q knowledge_dim, K num_selected."""

    dim: int = Field(gt=0)
    """Width D."""
    n_layers: int = Field(gt=0, le=10_000)
    """Blocks."""
    n_heads: int = Field(gt=0)
    """Attention heads. `dim` must divide into even heads."""
    vocab_size: int = Field(ge=260)
    """Vocabulary V: at least 256 bytes and the special tokens."""
    max_seq_len: int = Field(ge=8)
    """Tokens T of a sequence."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary positions."""
    memory: Memory = "token"
    """What replaces the feed-forward net: `token` (a memory of tokens), `vector` (1.4.5: stored vectors), `hybrid`
    (tokens and a continuous residual), or a control: `none` (a SwiGLU of as many active parameters) or `blind` (the
    same gated layer, fed zeros). Positive controls, which are known to lower the loss and hold no entries: `ngram`
    (tables that the last tokens' hashes address; Engram) and `values` (trained rows behind product keys; Memory
    Layers). A key that a memory has no use for changes nothing there."""
    memory_layers: str = "all"
    """Layers that have the memory, counted from 0: `all`, `[1, 3]` or `"1,3"` (in a `choice`, the text). The other
    layers have what `none` has. `all` means the first layer alone for `ngram`, and the last one alone for `values`."""
    knowledge_num: int = Field(gt=0)
    """Entries N of the bank: a square number."""
    knowledge_length: int = Field(gt=0)
    """Tokens L of an entry."""
    knowledge_dim: int = Field(gt=0)
    """Width Q of a query: an even number."""
    num_selected: int = Field(gt=0)
    """Entries K that a position reads: at most sqrt(N)."""
    residual_dim: int = Field(default=32, gt=0)
    """Width of a hybrid entry's residual: at most `dim`."""
    query_norm: Literal["none", "layer", "cosine"] = "layer"
    """How queries are normalised: `none` (the source), `layer`, or `cosine` (queries and sub-keys are normalised, the
    temperature is learned)."""
    read_norm: Literal["none", "rms"] = "rms"
    """How what was read is normalised before it is fused: `none` (the source) or `rms`."""
    ema: Literal["on", "off"] = "on"
    """`off`: the bank stays as it was filled."""
    ema_decay: float = Field(default=0.9, ge=0, lt=1)
    """Share of an entry that an update keeps."""
    ema_update_freq: int = Field(default=5, gt=0)
    """Micro-batches from one update of the bank to the next."""
    ema_state: Literal["requantized", "sparse_cache"] = "requantized"
    """What an entry is between updates: `requantized`, its tokens and nothing else; `sparse_cache`, also the continuous
    features of the entries that were updated last."""
    cache_mib: int = Field(default=256, gt=0)
    """Memory in MiB for the features that `sparse_cache` keeps. The least recently updated entries leave first."""
    ema_rescale: Literal["none", "match_norm"] = "none"
    """`none` (the source), or `match_norm`: what is averaged in is scaled to the norm of what its entry decodes to."""
    encode: Literal["dot", "cosine"] = "dot"
    """How a feature becomes a token: by `dot` product (the source) or `cosine` with the rows of the output head."""
    freeze_ratio: float = Field(default=0.0, ge=0, le=1)
    """Share of the bank, from its first row on, that is never updated."""
    kb_fit: Literal["head", "tail", "chunk", "object_first"] = "object_first"
    """How a sentence of the knowledge base that is longer than L tokens fits the bank: `head` (the source), `tail`,
    `chunk` or `object_first`."""
    kb_init: Literal["knowledge", "random"] = "knowledge"
    """What the bank starts with: the `knowledge` base, or `random` tokens everywhere, the control for what the content
    is worth."""
    kb_layout: Literal["order", "grid"] = "order"
    """Where knowledge stands: in `order`, row after row (the source), or in the `grid` of the product keys, the subject
    choosing the row and the predicate the column; facts without them come last."""
    refresh: Literal["none", "frequency"] = "none"
    """`frequency`: sub-keys that nothing selects are reset to recent queries, and entries that cannot be reached are
    filled again."""
    refresh_after: int = Field(default=20, gt=0)
    """EMA updates through which a sub-key must be unused before it is reset."""
    ngram_rows: int = Field(default=8_191, gt=0, le=2**24)
    """Rows of the largest table of `ngram`. Its eight tables have distinct primes of rows, the largest up to this."""
    values_num: int = Field(default=4_096, gt=0)
    """Rows of `values`: a square number."""
    values_heads: int = Field(default=4, gt=0)
    """Queries of width `knowledge_dim` with which a position reads `values`, each with its own sub-keys."""
    values_selected: int = Field(default=8, gt=0)
    """Rows that a query of `values` reads: at most sqrt(`values_num`)."""
    memory_rows: Literal["trained", "frozen"] = "trained"
    """`frozen`: the tables of `ngram`, or the rows of `values`, stay as they were drawn, and all else is trained. It is
    the control for what the rows learn."""

    @field_validator("memory_layers", mode="before")
    @classmethod
    def _canonical(cls, value: object) -> str:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        if parts == ["all"]:
            return "all"
        texts = [
            part.strip() if isinstance(part, str) else "" if isinstance(part, bool) else str(part) for part in parts
        ]
        if not texts or not all(text.isascii() and text.isdigit() for text in texts):
            raise PydanticCustomError("layers", "not layers")
        return ",".join(str(layer) for layer in sorted(map(int, texts)))

    @property
    def layers_with_memory(self) -> tuple[int, ...]:
        """The layers that have `memory`, ascending, counted from 0."""
        if self.memory_layers == "all":
            return {"ngram": (0,), "values": (self.n_layers - 1,)}.get(self.memory, tuple(range(self.n_layers)))
        return tuple(map(int, self.memory_layers.split(",")))

    @property
    def stores_tokens(self) -> bool:
        """Whether an entry of the bank holds tokens."""
        return self.memory in ("token", "hybrid")

    @property
    def has_bank(self) -> bool:
        """Whether the memory stores and reads anything."""
        return self.memory in ("token", "vector", "hybrid")

    @property
    def swiglu_hidden(self) -> int:
        """Width of the control's SwiGLU whose 3DF parameters match the token memory's: (5D^2 + DQ + nQ) / 3D, down to a
        multiple of 8 (all keys count, stored tokens do not)."""
        D, Q, n = self.dim, self.knowledge_dim, math.isqrt(self.knowledge_num)
        return max(8, (5 * D * D + D * Q + n * Q) // (3 * D) // 8 * 8)

    @property
    def has_rows(self) -> bool:
        """Whether the memory has rows of its own that training can change."""
        return self.memory in ("ngram", "values")

    @property
    def cached_entries(self) -> int:
        """How many entries' continuous features fit into `cache_mib`, at most all: L * D fp32 numbers each."""
        return min(self.knowledge_num, self.cache_mib * 2**20 // (4 * self.knowledge_length * self.dim))

    @property
    def frozen_entries(self) -> int:
        """How many entries, from the first on, are never updated."""
        return int(round(self.freeze_ratio * self.knowledge_num, 6))  # so that k / N gives k rows whatever its rounding


class TrainConfig(Section):
    """The optimisation. A step is a micro-batch, as in the source; an update is a step of the optimiser."""

    lr: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """`cosine`, or `wsd` (warm-up, stable, decay)."""
    warmup_ratio: float = Field(default=0.02, ge=0, lt=1)
    """Share of the updates that warm up."""
    decay_ratio: float = Field(default=0.2, gt=0, le=1)
    """Share of the updates in which `wsd` decays."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """Where the learning rate ends, as a share of its peak."""
    batch_size: int = Field(gt=0)
    """Sequences of a micro-batch, all ranks together."""
    accumulation_steps: int = Field(default=1, gt=0)
    """Micro-batches of an update."""
    gradient_checkpointing: Literal["on", "off"] = "off"
    """`on` computes a block's activations again in the backward pass: less memory, more time."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Norm at which gradients are clipped."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW. The tables of `ngram` and the rows of `values` have none."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """First beta of AdamW."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Second beta of AdamW."""
    balance_loss_coef: float = Field(default=0.1, ge=0)
    """Weight of the balance loss."""
    memory_lr_scale: float | None = Field(default=None, gt=0)
    """Factor of the learning rate of the memory's own parameters: the tables of `ngram`, the rows of `values`, or the
    query, sub-keys and temperature of a memory that reads a bank. Without it 5 for tables, 10 for rows, 1 for others.
    Tables and rows have no weight decay."""
    tokens: int | None = Field(default=None, gt=0)
    """Budget in tokens (positions trained on). Give this or `train.epochs`."""
    epochs: float | None = Field(default=None, gt=0)
    """Budget in passes over the corpus."""
    engine: Literal["ddp", "deepspeed"] = "ddp"
    """What runs the ranks of a trial: `ddp`, or `deepspeed` (ZeRO stage 2; an extra, docs/running.md)."""
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    """`auto` (bf16 autocast on CUDA, fp32 on a CPU), `fp32`, `bf16`, or `fp64`, to compare runs that sum in different
    orders."""
    seed: int = Field(default=0, ge=0)
    """Draws initialisation, data order and the world of `facts`."""
    reseed: int = Field(default=0, ge=0)
    """Above 0: other random streams for initialisation, data order, packing and the bank's filling. The world of
    `facts`, evaluation, prompts and samples stay the seed's."""
    threads: int = Field(default=1, gt=0)
    """CPU threads of a trial. Sums may depend on it, so it is part of the configuration."""
    report_every: int = Field(default=10, gt=0)
    """Steps between two reports. A report that would fall between two updates comes with the next update."""
    checkpoint_every: int = Field(default=10, gt=0)
    """Reports between two checkpoints. One is written at the end in any case."""


class DataConfig(Section):
    """The data. Paths are absolute in a resolved configuration."""

    corpus: Corpus = "facts"
    """`facts` (a synthetic world), `pydoc` (the prose of Python's language reference) or `jsonl` (your files;
    docs/data.md)."""
    train: str | None = None
    """The training text (`jsonl`)."""
    val: str | None = None
    """Held-out text (`jsonl`). Without it a share of the documents is held out."""
    knowledge: str | None = None
    """The knowledge base that fills the bank. Without one the bank starts with random tokens (`facts` brings its
    own)."""
    tokenizer: str | None = None
    """A Hugging Face `tokenizer.json` (docs/data.md: its special tokens). Without one a byte-level BPE is trained on
    the corpus once and cached."""
    val_fraction: float = Field(default=0.05, gt=0, lt=1)
    """Share of the documents that is held out where there is no `data.val`."""
    facts_entities: int = Field(default=256, gt=1)
    """Entities of the synthetic world."""
    facts_relations: int = Field(default=4, gt=0, le=16)
    """Relations of every entity."""
    facts_objects: int = Field(default=16, gt=1)
    """Objects that a relation chooses from. Guessing costs ln(`facts_objects`) nats."""
    facts_heldout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the facts that stand in the knowledge base and in no training text."""


class EvalConfig(Section):
    """What is measured, and on how much data."""

    val_tokens: int = Field(default=16_384, gt=0)
    """Validation tokens read at a report and at the end: always the same window, so that every val_loss compares with
    every other."""
    val_batch_size: int = Field(default=16, gt=0)
    """Sequences at once."""
    every: int = Field(default=1, gt=0)
    """Reports between two validations."""
    prompts: int = Field(default=16, gt=0)
    """Held-out prompts for the inference loss and for samples."""
    prompt_tokens: int = Field(default=8, gt=0)
    """Tokens of a prompt."""
    new_tokens: int = Field(default=48, gt=0)
    """Tokens of a sample, at most."""
    temperature: float = Field(default=0.8, ge=0)
    """Temperature of the samples. 0 is greedy."""
    fact_probes: int = Field(default=128, gt=0)
    """Facts that the model is asked."""


class Config(Section):
    """One training run. A trial's id hashes it, the trial's row stores it, and a rerun trains it again."""

    preset: str
    model: ModelConfig
    train: TrainConfig
    data: DataConfig
    eval: EvalConfig
