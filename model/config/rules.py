"""The rules that tie values of a configuration together, each once. Every error has key, value, rule and hint."""

from __future__ import annotations

import math
from typing import NoReturn

from model.config.row_memories import NGRAM_TABLES, ngram_primes
from model.config.settings import Config, ConfigError, ModelConfig

_AROUND = 512
"""How far from a wrong `n_heads` a right one is searched."""


def _fail(key: str, value: object, rule: str, hint: str) -> NoReturn:
    raise ConfigError(key, value, rule, hint)


def check_rules(config: Config) -> None:
    """Raise ConfigError for the first rule that `config` breaks."""
    model, train, data = config.model, config.train, config.data
    _check_square("model.knowledge_num", model.knowledge_num)
    root = math.isqrt(model.knowledge_num)
    if model.num_selected > root:
        rule = f"more than sqrt(knowledge_num) = {root}"
        _fail("model.num_selected", model.num_selected, rule, f"try {root} or less, or a larger knowledge_num")
    if model.knowledge_dim % 2:
        around = (model.knowledge_dim - 1, model.knowledge_dim + 1)
        hint = f"try {' or '.join(str(dim) for dim in around if dim)}"
        _fail("model.knowledge_dim", model.knowledge_dim, "odd, but a query is split in two halves", hint)
    if model.dim % model.n_heads or (model.dim // model.n_heads) % 2:
        around = range(max(1, model.n_heads - _AROUND), model.n_heads + _AROUND)
        heads = [h for h in {1, *around} if model.dim % h == 0 and (model.dim // h) % 2 == 0 and h <= model.dim]
        near = sorted(heads, key=lambda h: abs(h - model.n_heads))[:2]
        hint = f"try n_heads {' or '.join(map(str, sorted(near)))}" if near else "make dim even"
        rule = f"not divisible by n_heads = {model.n_heads} into even heads"
        _fail("model.dim", model.dim, rule, hint)
    _check_memory(model)
    if (train.tokens is None) == (train.epochs is None):
        _fail("train.tokens", train.tokens, "exactly one of train.tokens and train.epochs is needed", "remove one")
    if train.engine == "deepspeed" and train.precision == "fp64":
        _fail("train.precision", "fp64", "not with train.engine deepspeed", "use fp32, or train.engine ddp")
    if train.engine == "deepspeed" and model.has_bank and model.refresh == "frequency":
        # ZeRO-2 steps its own fp32 copy of the weights: the next update would undo what a refresh wrote.
        _fail("model.refresh", "frequency", "not with train.engine deepspeed", "use none, or train.engine ddp")
    if data.corpus == "jsonl" and data.train is None:
        _fail("data.train", "missing", "corpus jsonl needs a file", "give data.train: PATH.jsonl (or .jsonl.gz)")
    if data.corpus != "jsonl" and (data.train or data.val):
        key = "data.train" if data.train else "data.val"
        _fail(
            key,
            getattr(data, key.removeprefix("data.")),
            f"corpus {data.corpus} reads no file",
            "use data.corpus: jsonl",
        )


def _check_square(key: str, entries: int) -> None:
    root = math.isqrt(entries)
    if root * root != entries:
        _fail(key, entries, "not a square", f"try {root**2} or {(root + 1) ** 2}")


def _check_memory(model: ModelConfig) -> None:
    """Check the rules of the memory's variants."""
    layers = model.layers_with_memory
    if len(set(layers)) < len(layers):
        _fail("model.memory_layers", model.memory_layers, "a layer twice", "name each layer once")
    if layers[-1] >= model.n_layers:
        rule = f"no layer {layers[-1]}: n_layers = {model.n_layers}, counted from 0"
        _fail("model.memory_layers", model.memory_layers, rule, f"use 0 to {model.n_layers - 1}, or all")
    if len(ngram_primes(model.ngram_rows)) < NGRAM_TABLES:
        rule = f"fewer than {NGRAM_TABLES} primes up to it, and each table has another"
        _fail("model.ngram_rows", model.ngram_rows, rule, "try 19 or more")
    _check_square("model.values_num", model.values_num)
    root = math.isqrt(model.values_num)
    if model.values_selected > root:
        rule = f"more than sqrt(values_num) = {root}"
        _fail("model.values_selected", model.values_selected, rule, f"try {root} or less, or a larger values_num")
    if model.memory == "hybrid" and model.residual_dim > model.dim:
        _fail("model.residual_dim", model.residual_dim, f"more than dim = {model.dim}", f"try {model.dim} or less")
    if model.stores_tokens and model.ema_state == "sparse_cache" and not model.cached_entries:
        need = math.ceil(4 * model.knowledge_length * model.dim / 2**20)
        _fail("model.cache_mib", model.cache_mib, "too small for the features of one entry", f"try {need} or more")
