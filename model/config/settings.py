"""The sections of a configuration: keys, types and defaults, with the names of experiment 1.4.6.

The rules that tie values together stand in rules.py.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

Memory = Literal["token", "vector", "hybrid", "none", "blind"]
Corpus = Literal["facts", "pydoc", "jsonl"]

LARGEST = 2**53
"""Whole numbers up to this one are exact as doubles."""


class ConfigError(ValueError):
    """A configuration value breaks a rule. ``key`` is dotted (``model.knowledge_num``)."""

    def __init__(self, key: str, value: object, rule: str, hint: str) -> None:
        super().__init__(f"{key}: {value}: {rule}; {hint}")
        self.key, self.value, self.rule, self.hint = key, value, rule, hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.value, self.rule, self.hint)


class Section(BaseModel):
    """A part of a configuration: frozen, closed, finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        """Bound whole numbers, so that sizes and FLOPs computed from them fit a double."""
        if isinstance(value, int) and value > LARGEST:
            raise PydanticCustomError("less_than_equal", "too large", {"le": f"{LARGEST:,}"})
        return value


class ModelConfig(Section):
    """The network. Letters: D dim, H n_heads, V vocab_size, N knowledge_num, L knowledge_length, Q knowledge_dim,
    K num_selected."""

    dim: int = Field(gt=0)
    n_layers: int = Field(gt=0, le=10_000)
    n_heads: int = Field(gt=0)
    vocab_size: int = Field(ge=260)
    """At least 256 bytes and the special tokens."""
    max_seq_len: int = Field(ge=8)
    rope_theta: float = Field(default=10_000.0, gt=0)
    memory: Memory = "token"
    """What replaces the feed-forward net: a memory of tokens, of vectors (1.4.5) or of both (`hybrid`), a matched
    SwiGLU (`none`), or the token memory's gated layer with zeros for the read (`blind`). A key that a memory does not
    use (`knowledge_length` with vectors, `ema_decay` with none) has no effect."""
    memory_layers: str = "all"
    """The layers that have the memory, counted from 0: `all`, or a list; the others have what `none` has. A list is
    stored as the text "1,3", so that a search, a hash and a column each see one value."""
    knowledge_num: int = Field(gt=0)
    knowledge_length: int = Field(gt=0)
    knowledge_dim: int = Field(gt=0)
    num_selected: int = Field(gt=0)
    residual_dim: int = Field(default=32, gt=0)
    """Width of a hybrid entry's residual."""
    query_norm: Literal["none", "layer", "cosine"] = "layer"
    read_norm: Literal["none", "rms"] = "rms"
    ema: Literal["on", "off"] = "on"
    ema_decay: float = Field(default=0.9, ge=0, lt=1)
    ema_update_freq: int = Field(default=5, gt=0)
    """One EMA update every so many micro-batches (the source's "steps")."""
    ema_state: Literal["requantized", "sparse_cache"] = "requantized"
    """What an entry is between updates: its tokens, or also continuous features, for the entries updated last."""
    cache_mib: int = Field(default=256, gt=0)
    """Budget of the features that `sparse_cache` keeps; the entries updated longest ago leave first."""
    ema_rescale: Literal["none", "match_norm"] = "none"
    """`match_norm`: a_s is scaled to the norm of its entry as it is read."""
    encode: Literal["dot", "cosine"] = "dot"
    """How a feature becomes a token: argmax_v of F'.W[v], or of F'.W[v]/|W[v]|."""
    freeze_ratio: float = Field(default=0.0, ge=0, le=1)
    """Share of the bank, from its first row on, that EMA updates never change."""
    kb_fit: Literal["head", "tail", "chunk", "object_first"] = "object_first"
    """How a knowledge-base sentence of more than L tokens becomes rows of the bank."""
    kb_init: Literal["knowledge", "random"] = "knowledge"
    """What a bank of tokens holds at the start: the knowledge base, or random tokens everywhere."""
    kb_layout: Literal["order", "grid"] = "order"
    """Where knowledge stands: row after row, or in the subject's row and the predicate's column of the n x n grid."""
    refresh: Literal["none", "frequency"] = "none"
    """`frequency`: a sub-key that no query selects is moved."""
    refresh_after: int = Field(default=20, gt=0)
    """A sub-key is reset after so many EMA updates (one every `ema_update_freq` micro-batches) without a selection."""

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
            return tuple(range(self.n_layers))
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
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup_ratio: float = Field(default=0.02, ge=0, lt=1)
    decay_ratio: float = Field(default=0.2, gt=0, le=1)
    """Share of the updates that `wsd` (warm-up, stable, decay) spends decaying."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    batch_size: int = Field(gt=0)
    """Sequences in a micro-batch, over all ranks together."""
    accumulation_steps: int = Field(default=1, gt=0)
    gradient_checkpointing: Literal["on", "off"] = "off"
    """`on`: the backward computes a block's activations again instead of keeping them."""
    grad_clip: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    balance_loss_coef: float = Field(default=0.1, ge=0)
    tokens: int | None = Field(default=None, gt=0)
    """Budget in tokens (positions trained on). Exactly one of `tokens` and `epochs` is given."""
    epochs: float | None = Field(default=None, gt=0)
    engine: Literal["ddp", "deepspeed"] = "ddp"
    """What connects the ranks of a trial; `deepspeed` is ZeRO stage 2."""
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    """`auto`: bf16 autocast on CUDA, fp32 on CPU. `fp64` is for comparing runs that sum in different orders."""
    seed: int = Field(default=0, ge=0)
    reseed: int = Field(default=0, ge=0)
    """Gives initialisation, data order, packing and the bank's filling other random streams; the world of `facts`,
    evaluation, prompts and samples keep those of the seed. 0: every stream is the seed's."""
    threads: int = Field(default=1, gt=0)
    """CPU threads of a trial. It is part of the configuration because sums may depend on it."""
    report_every: int = Field(default=10, gt=0)
    """Steps between two reports. A report that would fall between two updates comes with the next update."""
    checkpoint_every: int = Field(default=10, gt=0)
    """Reports between two checkpoints; the end of a run always writes one."""


class DataConfig(Section):
    """The data. Paths are absolute in a resolved configuration."""

    corpus: Corpus = "facts"
    train: str | None = None
    val: str | None = None
    knowledge: str | None = None
    tokenizer: str | None = None
    """A Hugging Face tokenizer.json; without one a byte-level BPE is trained on the corpus and cached."""
    val_fraction: float = Field(default=0.05, gt=0, lt=1)
    """Share of the documents that is held out where there is no `val` file."""
    facts_entities: int = Field(default=256, gt=1)
    facts_relations: int = Field(default=4, gt=0, le=16)
    facts_objects: int = Field(default=16, gt=1)
    """Objects of each relation: guessing costs ln(facts_objects) nats."""
    facts_heldout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the facts that are in the knowledge base and in no training text."""


class EvalConfig(Section):
    """What is measured, and on how much data."""

    val_tokens: int = Field(default=16_384, gt=0)
    """Validation tokens, the same at every report and at the end, so that every val_loss compares with every other,
    also a pruned trial's with a completed one's."""
    val_batch_size: int = Field(default=16, gt=0)
    every: int = Field(default=1, gt=0)
    """Reports between two validations."""
    prompts: int = Field(default=16, gt=0)
    """Held-out prompts for the inference loss and for samples."""
    prompt_tokens: int = Field(default=8, gt=0)
    new_tokens: int = Field(default=48, gt=0)
    temperature: float = Field(default=0.8, ge=0)
    fact_probes: int = Field(default=128, gt=0)


class Config(Section):
    """One training run. A trial's id hashes it, the trial's row stores it, and a rerun trains it again."""

    preset: str
    model: ModelConfig
    train: TrainConfig
    data: DataConfig
    eval: EvalConfig
