"""A key that is called inert changes nothing: with another value of it, every loss and measure is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.api import KEYS, Report, Verdict, inert_keys, resolve, train

SHORT = {
    "train.tokens": 4_096, "train.report_every": 4, "model.max_seq_len": 32, "eval.val_tokens": 512, "eval.prompts": 2,
    "eval.new_tokens": 4, "eval.fact_probes": 8, "model.dim": 32, "model.n_heads": 2, "model.ema_update_freq": 2,
    "model.knowledge_num": 64, "model.knowledge_dim": 16, "model.num_selected": 4, "model.vocab_size": 320,
}  # fmt: skip

OTHER: dict[str, Any] = {
    "model.knowledge_length": 4, "model.kb_fit": "head", "model.kb_init": "random", "model.kb_layout": "grid",
    "model.ema_state": "sparse_cache", "model.cache_mib": 1, "model.encode": "cosine", "model.num_selected": 2,
    "model.query_norm": "none", "model.read_norm": "none", "model.ema": "off", "model.ema_decay": 0.5,
    "model.ema_update_freq": 3, "model.ema_rescale": "match_norm", "model.freeze_ratio": 0.5,
    "model.refresh": "frequency", "model.refresh_after": 2, "model.residual_dim": 8, "model.memory_layers": "0",
    "model.knowledge_num": 256, "model.knowledge_dim": 32, "train.balance_loss_coef": 1.0, "train.decay_ratio": 0.5,
    "model.ngram_rows": 97, "model.values_num": 64, "model.values_heads": 2, "model.values_selected": 4,
    "model.memory_rows": "frozen", "train.memory_lr_scale": 3.0, "data.facts_entities": 99,
    "data.facts_relations": 3, "data.facts_objects": 5, "data.facts_heldout": 0.3,
}  # fmt: skip
"""Another value of every key that may be inert."""

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "none": {"model.memory": "none"},
    "blind": {"model.memory": "blind"},
    "vector": {"model.memory": "vector"},
    "token": {"model.memory": "token"},
    "a still bank": {"model.memory": "token", "model.ema": "off", "model.kb_init": "random"},
    "a still vector bank": {"model.memory": "vector", "model.ema": "off"},
    "another corpus": {"model.memory": "none", "data.corpus": "pydoc"},
    "ngram": {"model.memory": "ngram"},
    "values": {"model.memory": "values"},
    "frozen rows": {"model.memory": "values", "model.memory_rows": "frozen"},
}
CLOCK = ("_per_s", "_ms", "wall_s", "_gib", "_pct", "nvml", "mfu")


def measured(overrides: dict[str, Any], folder: Path) -> list[Any]:
    """Every loss and every measure of a run, but for those of time and memory."""
    reports: list[Report] = []

    def report(now: Report) -> Verdict:
        reports.append(now)
        return Verdict.CONTINUE

    result = train(resolve("tiny", {**SHORT, **overrides}), report, checkpoint_dir=folder)
    metrics = [each.metrics for each in (*reports, result)]
    kept = [
        {name: value for name, value in each.items() if not any(word in name for word in CLOCK)} for each in metrics
    ]
    return [[each.losses for each in reports], kept, [sample["continuation"] for sample in result.samples]]


@pytest.mark.parametrize("case", ["none", *(pytest.param(n, marks=pytest.mark.slow) for n in list(CONFIGURATIONS)[1:])])
@pytest.mark.timeout(300)
def test_inert_keys_change_nothing(case: str, tmp_path: Path) -> None:
    base = CONFIGURATIONS[case]
    inert = inert_keys(resolve("tiny", {**SHORT, **base}))
    assert inert.keys() <= set(KEYS)
    others = {key: OTHER[key] for key in inert if key not in base}
    assert measured({**base, **others}, tmp_path / "others") == measured(base, tmp_path / "base")


def test_a_key_whose_value_is_used_is_not_inert() -> None:
    whole = {"model.memory": "hybrid", "model.ema_state": "sparse_cache", "model.refresh": "frequency"}
    values = {"model.values_num", "model.values_heads", "model.values_selected"}
    inert = inert_keys(resolve("tiny", {**whole, "train.schedule": "wsd", "data.corpus": "facts"}))
    assert inert.keys() == {"model.ngram_rows", "model.memory_rows", *values}, "of another memory"
    rows = {"model.memory_rows", "train.memory_lr_scale"}
    assert not (values | rows) & inert_keys(resolve("tiny", {"model.memory": "values"})).keys()
    assert not ({"model.ngram_rows"} | rows) & inert_keys(resolve("tiny", {"model.memory": "ngram"})).keys()
    assert "model.knowledge_num" not in inert_keys(resolve("tiny", {"model.memory": "none"})), (
        "its width follows from it"
    )
