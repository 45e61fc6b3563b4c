"""What one training run is: a frozen, validated configuration. Imports no torch, so a plan costs no start-up time.

Names are those of experiment 1.4.6 (``knowledge_num``, ``ema_decay``, ...). Every rule that a value must obey stands
here, once, and every error says the key, the value, the rule and the cure.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.presets import PRESETS

Memory = Literal["token", "none", "blind"]
Corpus = Literal["facts", "pydoc", "jsonl"]


class ConfigError(ValueError):
    """A configuration value breaks a rule. ``key`` is dotted (``model.knowledge_num``)."""

    def __init__(self, key: str, value: object, rule: str, cure: str) -> None:
        super().__init__(f"{key}: {value}: {rule}; {cure}")
        self.key, self.value, self.rule, self.cure = key, value, rule, cure

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.value, self.rule, self.cure)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(_Section):
    """The network. Letters as in the paper trail: D dim, H n_heads, V vocab_size, N knowledge_num, L knowledge_length,
    Q knowledge_dim, K num_selected."""

    dim: int = Field(gt=0)
    n_layers: int = Field(gt=0)
    n_heads: int = Field(gt=0)
    vocab_size: int = Field(ge=260)
    """At least 256 bytes and the special tokens."""
    max_seq_len: int = Field(ge=8)
    rope_theta: float = Field(default=10_000.0, gt=0)
    memory: Memory = "token"
    """What stands in the feed-forward net's place: the token memory, a matched SwiGLU (`none`), or the same gated layer
    fed with zeros (`blind`)."""
    knowledge_num: int = Field(gt=0)
    knowledge_length: int = Field(gt=0)
    knowledge_dim: int = Field(gt=0)
    num_selected: int = Field(gt=0)
    query_norm: Literal["none", "layer"] = "layer"
    read_norm: Literal["none", "rms"] = "rms"
    ema: Literal["on", "off"] = "on"
    ema_decay: float = Field(default=0.9, ge=0, lt=1)
    ema_update_freq: int = Field(default=5, gt=0)
    """One EMA update every so many micro-batches (the source's "steps")."""
    ema_state: Literal["requantized"] = "requantized"
    freeze_ratio: float = Field(default=0.0, ge=0, le=1)
    """Share of the bank, from its first row on, that EMA updates never touch."""
    kb_fit: Literal["head", "tail", "chunk", "object_first"] = "object_first"
    """How a knowledge-base sentence longer than L tokens becomes rows of the bank."""


class TrainConfig(_Section):
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
    grad_clip: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    balance_loss_coef: float = Field(default=0.1, ge=0)
    tokens: int | None = Field(default=None, gt=0)
    """Budget in tokens (positions trained on). Exactly one of `tokens` and `epochs` is given."""
    epochs: float | None = Field(default=None, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on CUDA, fp32 on CPU."""
    seed: int = Field(default=0, ge=0)
    reseed: int = Field(default=0, ge=0)
    """Other random streams for initialisation, data order, packing and the bank's filling; the world of `facts`,
    evaluation, prompts and samples stay the seed's. 0: all streams are the seed's."""
    threads: int = Field(default=1, gt=0)
    """CPU threads of a trial: part of the configuration, since sums may depend on it."""
    report_every: int = Field(default=10, gt=0)
    """Steps between two reports."""
    checkpoint_every: int = Field(default=10, gt=0)
    """Reports between two checkpoints; one is written at the end in any case."""


class DataConfig(_Section):
    """What is read. Paths are absolute once a configuration is resolved."""

    corpus: Corpus = "facts"
    train: str | None = None
    val: str | None = None
    knowledge: str | None = None
    tokenizer: str | None = None
    """A Hugging Face tokenizer.json; without one a byte-level BPE is trained on the corpus and cached."""
    val_fraction: float = Field(default=0.05, gt=0, lt=1)
    """Share of the documents held out where there is no `val` file."""
    facts_entities: int = Field(default=256, gt=1)
    facts_relations: int = Field(default=4, gt=0, le=16)
    facts_objects: int = Field(default=16, gt=1)
    """Objects a relation chooses from: guessing costs ln(facts_objects) nats."""
    facts_heldout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the facts that stand in the knowledge base but in no training text."""


class EvalConfig(_Section):
    """What is measured, and on how much."""

    val_tokens: int = Field(default=16_384, gt=0)
    """Validation tokens read at a report and at the end: one window, so that every val_loss compares with every other,
    a pruned trial's last with a completed one's."""
    val_batch_size: int = Field(default=16, gt=0)
    every: int = Field(default=1, gt=0)
    """Reports between two validations."""
    prompts: int = Field(default=16, gt=0)
    """Held-out prompts for the inference loss and for samples."""
    prompt_tokens: int = Field(default=8, gt=0)
    new_tokens: int = Field(default=48, gt=0)
    temperature: float = Field(default=0.8, ge=0)
    fact_probes: int = Field(default=128, gt=0)


class Config(_Section):
    """One training run, whole: what is hashed into a trial's id, stored in its row, and trained again by a rerun."""

    preset: str
    model: ModelConfig
    train: TrainConfig
    data: DataConfig
    eval: EvalConfig


_SECTIONS: dict[str, type[_Section]] = {
    "model": ModelConfig,
    "train": TrainConfig,
    "data": DataConfig,
    "eval": EvalConfig,
}

KEYS: tuple[str, ...] = tuple(f"{section}.{name}" for section, kind in _SECTIONS.items() for name in kind.model_fields)
"""Every dotted key that an override may name."""

PATH_KEYS = ("data.train", "data.val", "data.knowledge", "data.tokenizer")
"""The keys whose values are paths."""


def nearest(word: str, allowed: tuple[str, ...] | list[str]) -> str:
    """`did you mean X?`, or the whole list where nothing is near."""
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(allowed)}"


def resolve(preset: str, overrides: Mapping[str, Any]) -> Config:
    """Merge a preset with dotted overrides and validate the whole.

    Raises ConfigError for an unknown preset or key, a wrong type, or a value that breaks a rule.
    """
    if preset not in PRESETS:
        raise ConfigError("preset", preset, "unknown preset", nearest(str(preset), list(PRESETS)))
    for key, value in overrides.items():
        check_key(key)
        if isinstance(value, bool):  # pydantic would take true for 1
            _fail(key, str(value).lower(), "neither a number nor a text", "give a number, or a word like on or off")
    merged = {**PRESETS[preset], **overrides}
    # A budget given by the user replaces the preset's, whichever of the two ways it is written in.
    if "train.tokens" in overrides and "train.epochs" not in overrides:
        merged.pop("train.epochs", None)
    if "train.epochs" in overrides and "train.tokens" not in overrides:
        merged.pop("train.tokens", None)
    tree: dict[str, Any] = {"preset": preset, **{section: {} for section in _SECTIONS}}
    for key, value in merged.items():
        section, name = key.split(".", 1)
        tree[section][name] = value
    config = _validate(tree)
    _check_rules(config)
    return config


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """`config` with dotted overrides, validated whole. A budget in tokens replaces one in epochs, and the other way.

    Raises ConfigError as `resolve` does.
    """
    kept = read_overrides(config)
    if "train.tokens" in overrides or "train.epochs" in overrides:
        kept["train.tokens"] = kept["train.epochs"] = None
    return resolve(config.preset, {**kept, **overrides})


def check_key(key: str) -> None:
    """Raise ConfigError, with the nearest right key, unless `key` may be overridden."""
    if key not in KEYS:
        raise ConfigError(key, "unknown key", "no such parameter", nearest(key, list(KEYS)))


def from_json(text: str) -> Config:
    """The configuration that `Config.model_dump_json` wrote."""
    return Config.model_validate_json(text)


def value_of(config: Config, key: str) -> Any:
    """The value at a dotted key: `value_of(config, "model.ema_decay")`."""
    section, name = key.split(".", 1)
    return getattr(getattr(config, section), name)


def read_overrides(config: Config) -> dict[str, Any]:
    """The configuration as dotted keys; `resolve(config.preset, read_overrides(config)) == config`."""
    return {key: value_of(config, key) for key in KEYS}


def _validate(tree: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error) from None


def explain(error: ValidationError) -> ConfigError:
    """The first of pydantic's complaints in this project's words: dotted key, value, rule and cure."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    value, context = first["input"], first.get("ctx", {})
    rule, cure = _RULES.get(first["type"], (first["msg"], "see the study file's reference in README.md"))
    bound = next(iter(context.values()), "") if context else ""
    return ConfigError(key, _show(value), rule.format(bound=bound), cure.format(bound=bound))


_RULES = {
    "missing": ("missing", "give it a value, or choose a preset that has one"),
    "int_type": ("not a whole number", "write it like 16 or 1_024"),
    "int_parsing": ("not a whole number", "write it like 16 or 1_024"),
    "int_from_float": ("not a whole number", "write it like 16 or 1_024"),
    "float_type": ("not a number", "write it like 0.1 or 1e-4"),
    "float_parsing": ("not a number", "write it like 0.1 or 1e-4"),
    "finite_number": ("not finite", "give a finite number"),
    "string_type": ("not a text", "put it in quotes"),
    "bool_type": ("not true or false", "write true or false"),
    "model_type": ("not a mapping", "write `key: value` pairs"),
    "literal_error": ("not one of the allowed values", "use {bound}"),
    "greater_than": ("out of range", "must be greater than {bound}"),
    "greater_than_equal": ("out of range", "must be at least {bound}"),
    "less_than": ("out of range", "must be less than {bound}"),
    "less_than_equal": ("out of range", "must be at most {bound}"),
}


def _show(value: object) -> str:
    text = "missing" if isinstance(value, dict) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fail(key: str, value: object, rule: str, cure: str) -> NoReturn:
    raise ConfigError(key, value, rule, cure)


def _check_rules(config: Config) -> None:
    """The rules that tie two values together, or a value to its shape."""
    model, train, data = config.model, config.train, config.data
    root = math.isqrt(model.knowledge_num)
    if root * root != model.knowledge_num:
        cure = f"try {root**2} or {(root + 1) ** 2}"
        _fail("model.knowledge_num", model.knowledge_num, "not a square", cure)
    if model.num_selected > root:
        rule = f"more than sqrt(knowledge_num) = {root}"
        _fail("model.num_selected", model.num_selected, rule, f"try {root} or less, or a larger knowledge_num")
    if model.knowledge_dim % 2:
        cure = f"try {model.knowledge_dim - 1 or 2} or {model.knowledge_dim + 1}"
        _fail("model.knowledge_dim", model.knowledge_dim, "odd, but a query is split in two halves", cure)
    if model.dim % model.n_heads or (model.dim // model.n_heads) % 2:
        heads = [h for h in range(1, model.dim + 1) if model.dim % h == 0 and (model.dim // h) % 2 == 0]
        near = sorted(heads, key=lambda h: abs(h - model.n_heads))[:2]
        cure = f"try n_heads {' or '.join(map(str, sorted(near)))}" if near else "make dim even"
        rule = f"not divisible by n_heads = {model.n_heads} into even heads"
        _fail("model.dim", model.dim, rule, cure)
    if (train.tokens is None) == (train.epochs is None):
        _fail("train.tokens", train.tokens, "exactly one of train.tokens and train.epochs is needed", "remove one")
    if data.corpus == "jsonl" and data.train is None:
        _fail("data.train", "missing", "corpus jsonl needs a file", "give data.train: PATH.jsonl (or .jsonl.gz)")
    if data.corpus != "jsonl" and (data.train or data.val):
        key = "data.train" if data.train else "data.val"
        _fail(key, value_of(config, key), f"corpus {data.corpus} reads no file", "use data.corpus: jsonl")


def missing_files(config: Config) -> list[tuple[str, str]]:
    """(key, path) of every file that the configuration names and that is not there."""
    named = [(key, value_of(config, key)) for key in PATH_KEYS]
    return [(key, path) for key, path in named if path is not None and not Path(path).is_file()]
