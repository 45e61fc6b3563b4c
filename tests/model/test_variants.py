"""Every variant of the memory, trained: whole runs on `facts` with all diagnostics, and two ranks with one bank."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ablate.trials import plan
from model.api import METRICS, ConfigError, Verdict, estimate, resolve, train
from model.bank import MEMORIES
from model.transformer import Transformer, initialise
from tests import ROOT, study_files
from tests.model.test_training import Listener, comparable, small
from tests.study_files import GOOD

VARIANTS: dict[str, dict[str, Any]] = {
    "vector": {"model__memory": "vector"},
    "hybrid": {"model__memory": "hybrid"},
    "random bank": {"model__kb_init": "random"},
    "grid": {"model__kb_layout": "grid"},
    "cosine queries": {"model__query_norm": "cosine"},
    "cosine encode": {"model__encode": "cosine", "model__ema_rescale": "match_norm"},
    "sparse cache": {"model__ema_state": "sparse_cache"},
    "refresh": {"model__refresh": "frequency", "model__refresh_after": 1},
    "one layer": {"model__memory_layers": [1]},
    "one blind layer": {"model__memory_layers": [0], "model__memory": "blind"},
    "off": {"model__ema": "off"},
    "everything": {
        "model__memory": "hybrid", "model__query_norm": "cosine", "model__ema_state": "sparse_cache",
        "model__ema_rescale": "match_norm", "model__refresh": "frequency", "model__refresh_after": 1,
        "model__memory_layers": "1", "model__kb_layout": "grid", "model__freeze_ratio": 0.25,
    },
    "everything of vectors": {
        "model__memory": "vector", "model__ema_rescale": "match_norm", "model__refresh": "frequency",
        "model__refresh_after": 1, "model__memory_layers": "0",
    },
}  # fmt: skip

TOKENS_ONLY = {"token_flip_rate", "self_encode_rate", "distinct_tokens_per_entry", "objects_kept"}
OF_UPDATES = {"entries_updated", "ema_scale_ratio", "token_flip_rate"}
OF_BANKS = OF_UPDATES | TOKENS_ONLY | {
    "bank_use_nats", "bank_zero_nats", "bank_mean_nats", "coverage", "coverage_uniform", "coverage_window_tokens",
    "effective_entries", "read_entropy", "coverage_by_layer", "effective_entries_by_layer", "read_entropy_by_layer",
    "balance_loss", "ema_ms",
}  # fmt: skip


def measurable(config: Any) -> set[str]:
    """The metrics that mean something for the configuration, on a CPU."""
    names = {metric.name for metric in METRICS} - {
        "peak_allocated_gib",
        "peak_reserved_gib",
        "nvml_used_gib",
        "gpu_util_pct",
    }
    model = config.model
    if not model.has_bank:
        return names - OF_BANKS - {"subkeys_refreshed"}
    if not model.stores_tokens:
        names -= TOKENS_ONLY
    if model.ema == "off":
        names -= OF_UPDATES | ({"ema_ms"} if model.refresh == "none" else set())
    if model.refresh == "none":
        names -= {"subkeys_refreshed"}
    if model.kb_init == "random":
        names -= {"objects_kept"}
    return names


QUICK = ("cosine encode", "one blind layer", "off", "everything", "everything of vectors")
"""The others are parts of `everything`: slow."""


def slow_unless(is_quick: bool) -> tuple[pytest.MarkDecorator, ...]:
    return () if is_quick else (pytest.mark.slow,)


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow_unless(name in QUICK)) for name in VARIANTS])
def test_a_variant_trains_with_all_its_diagnostics_and_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    config = small(**VARIANTS[name])
    whole, first, second = Listener(), Listener(at=2, verdict=Verdict.INTERRUPT), Listener()
    result = train(config, whole, checkpoint_dir=tmp_path / "whole")
    train(config, first, checkpoint_dir=tmp_path / "parts")
    resumed = train(config, second, checkpoint_dir=tmp_path / "parts")
    assert first.losses + second.losses == whole.losses
    assert comparable(resumed.metrics) == comparable(result.metrics)
    weights = [load_file(tmp_path / part / "step-12" / "model.safetensors") for part in ("whole", "parts")]
    assert all(torch.equal(weights[0][tensor], weights[1][tensor]) for tensor in weights[0].keys() | weights[1].keys())
    assert set(result.metrics) == measurable(config)
    assert whole.losses[-1] < whole.losses[0]
    assert result.metrics["parameters"] == estimate(config).parameters
    if config.model.has_bank:
        by_layer = result.metrics["coverage_by_layer"]
        assert isinstance(by_layer, list)
        assert len(by_layer) == len(config.model.layers_with_memory)
        use = [result.metrics[f"bank_{kind}_nats"] for kind in ("use", "zero", "mean")]
        assert all(value != 0 for value in use)


TYPES = {memory: {"model__memory": memory} for memory in MEMORIES}
TYPES |= {name: VARIANTS[name] for name in ("cosine queries", "sparse cache", "everything")}


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(overrides, marks=slow_unless(name in ("token", "none", "everything")), id=name)
        for name, overrides in TYPES.items()
    ],
)
def test_bf16_losses_equal_fp32_losses_within_rounding(overrides: dict[str, Any], tmp_path: Path) -> None:
    """Autocast, the default on a GPU, on the CPU: the types of every path meet."""
    losses = {}
    for precision in ("fp32", "bf16"):
        listener = Listener()
        train(small(**overrides, train__precision=precision), listener, checkpoint_dir=tmp_path / precision)
        losses[precision] = listener.losses
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_replaced_reads_reach_the_layers_that_read() -> None:
    """Of three layers the first and the last read: replacements are numbered as the reads are."""
    config = small(model__n_layers=3, model__memory_layers=[0, 2], model__memory="vector").model
    model = Transformer(config)
    initialise(model, seed=1)
    ids = torch.arange(20)[None]
    kinds = [type(block.get_submodule("memory")).__name__ for block in model.blocks]
    assert kinds == ["VectorMemory", "MatchedFeedForward", "VectorMemory"]
    constants = torch.stack([torch.full((32,), 1.0), torch.full((32,), 2.0)])
    reads = model(ids, replace_reads_XD=constants).reads
    assert [read.read_BTD.unique().tolist() for read in reads] == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("written", "kept"), [("all", "all"), ([1, 0], "0,1"), ("0, 1", "0,1"), (1, "1"), (["0"], "0"), ((1,), "1")]
)
def test_memory_layers_have_one_canonical_text(written: Any, kept: str) -> None:
    assert small(model__memory_layers=written).model.memory_layers == kept


def test_memory_layers_in_an_arm_a_search_and_a_set(tmp_path: Path) -> None:
    text = GOOD.replace("search:", 'search:\n  model.memory_layers: {choice: [all, "0,1", 1]}', 1)
    arms = "{last: {model.memory_layers: [1]}, nested: {model: {memory_layers: 0}}}"
    arms = f"ablation: {{seeds: 3, exploratory: true, arms: {arms}}}\n"
    study = study_files.load(tmp_path, "base.model.memory_layers=[0, 1]", text=text + arms)
    assert study.base["model.memory_layers"] == "0,1"
    trial = plan.search_trial(study, {"model.memory_layers": 1})
    assert (trial.config["model.memory_layers"], trial.params) == ("1", {"model.memory_layers": "1"})
    assert {t.arm: t.config["model.memory_layers"] for t in plan.arm_trials(study, study.base)} == {
        "baseline": "0,1", "last": "1", "nested": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.memory_layers": [2]}, "no layer 2: n_layers = 2"),
        ({"model.memory_layers": [1, 1]}, "a layer twice; name each layer once"),
        ({"model.memory_layers": "first"}, "neither `all` nor layers; write it like"),
        ({"model.memory_layers": []}, "neither `all` nor layers"),
        ({"model.memory_layers": [1.5]}, "neither `all` nor layers"),
        ({"model.memory": "hybrid", "model.residual_dim": 129}, "more than dim = 128; try 128 or less"),
        (
            {"model.ema_state": "sparse_cache", "model.cache_mib": 1, "model.knowledge_length": 4096},
            "too small for the features of one entry; try 2 or more",
        ),
        ({"model.query_norm": "batch"}, "use 'none', 'layer' or 'cosine'"),
        ({"model.knowledge_dim": 3}, "split in two halves; try 2 or 4"),
        ({"train.tokens": 1e30}, "out of range; must be at most 9,007,199,254,740,992"),
    ],
)
def test_rules_name_a_hint(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("tiny", overrides)
    assert message in str(caught.value)


def test_the_hint_for_a_knowledge_dim_of_1_is_2() -> None:
    with pytest.raises(ConfigError, match=r"; try 2$"):
        resolve("tiny", {"model.knowledge_dim": 1})


@pytest.mark.slow  # tests/model/test_ranks.py has two ranks of the default memory
def test_bank_updates_on_two_ranks_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    """Two processes with a batch each: the same bank bit for bit in every variant, and the one that a single process
    with the joined batch makes (in float64; where draws depend on a rank's own batch, only the former)."""
    processes = []
    for rank, world in ((0, 2), (1, 2), (0, 1)):
        meeting, out = tmp_path / f"meeting-{world}", tmp_path / f"{rank}-of-{world}"
        out.mkdir()
        command = [sys.executable, "-m", "tests.model.rank_worker", str(rank), str(world), str(meeting), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, complaints = process.communicate(timeout=200)
        assert process.returncode == 0, complaints
    found = sorted(path.name for path in (tmp_path / "0-of-2").iterdir())
    assert len(found) == 5
    for name in found:
        zero, one, joined = (load_file(tmp_path / part / name) for part in ("0-of-2", "1-of-2", "0-of-1"))
        assert all(torch.equal(zero[tensor], one[tensor]) for tensor in zero.keys() | one.keys()), name
        if name != "refresh.safetensors":
            for tensor in zero:
                torch.testing.assert_close(zero[tensor], joined[tensor])
