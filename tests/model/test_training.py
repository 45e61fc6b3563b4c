"""Whole runs of a very small model: they repeat bit for bit, and report how they fail."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.api import METRICS, Config, NonFiniteLoss, Report, Verdict, failure_kind, resolve, train
from model.device import meters
from model.evaluate import Evaluator
from model.schedule import learning_rate
from model.transformer import Transformer, initialise

SMALL = {
    "model.dim": 32,
    "model.n_heads": 2,
    "model.n_layers": 2,
    "model.vocab_size": 512,
    "model.max_seq_len": 32,
    "model.knowledge_num": 64,
    "model.knowledge_length": 4,
    "model.knowledge_dim": 16,
    "model.num_selected": 4,
    "model.ema_update_freq": 3,
    "train.batch_size": 4,
    "train.tokens": 128 * 12,
    "train.report_every": 4,
    "train.checkpoint_every": 1,
    "data.facts_entities": 12,
    "data.facts_objects": 6,
    "eval.val_tokens": 512,
    "eval.prompts": 4,
    "eval.new_tokens": 8,
    "eval.fact_probes": 8,
}


def small(**overrides: Any) -> Config:
    return resolve("tiny", SMALL | {key.replace("__", "."): value for key, value in overrides.items()})


class Listener:
    """Keeps the reports; answers `verdict` at report number `at`."""

    def __init__(self, *, at: int = -1, verdict: Verdict = Verdict.CONTINUE) -> None:
        self.reports: list[Report] = []
        self._at, self._verdict = at, verdict

    def __call__(self, report: Report) -> Verdict:
        self.reports.append(report)
        return self._verdict if len(self.reports) == self._at else Verdict.CONTINUE

    @property
    def losses(self) -> list[float]:
        return [loss for report in self.reports for loss in report.losses]


TIMES = {"tokens_per_s", "step_ms", "ema_ms", "peak_rss_gib", "peak_gib"}


def comparable(metrics: Any) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name not in TIMES}


@pytest.mark.parametrize("memory", ["token", "none", "blind"])
def test_two_runs_are_equal_bit_for_bit(memory: str, tmp_path: Path) -> None:
    listeners = Listener(), Listener()
    results = [
        train(small(model__memory=memory), listener, checkpoint_dir=tmp_path / str(number))
        for number, listener in enumerate(listeners)
    ]
    assert len(listeners[0].losses) == 12
    assert listeners[0].losses == listeners[1].losses
    assert comparable(results[0].metrics) == comparable(results[1].metrics)
    assert results[0].samples == results[1].samples


LEFT: dict[str, Callable[[], object]] = {
    "seeds": lambda: (random.seed(9), np.random.seed(9), torch.manual_seed(9)),
    "threads": lambda: torch.set_num_threads(3),
    "any algorithm": lambda: torch.use_deterministic_algorithms(False),
    "Accelerate's variables": lambda: os.environ.update(ACCELERATE_MIXED_PRECISION="bf16"),
}


@pytest.mark.parametrize("left", LEFT)
def test_what_an_earlier_run_left_in_the_process_changes_nothing(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    fresh, used = Listener(), Listener()
    expected = train(small(), fresh, checkpoint_dir=tmp_path / "fresh")
    LEFT[left]()
    found = train(small(), used, checkpoint_dir=tmp_path / "used")
    assert used.losses == fresh.losses
    assert (comparable(found.metrics), found.samples) == (comparable(expected.metrics), expected.samples)


def test_stop_ends_a_run_without_the_final_evaluation(tmp_path: Path) -> None:
    result = train(small(), Listener(at=2, verdict=Verdict.STOP), checkpoint_dir=tmp_path)
    assert (result.verdict, result.tokens_seen) == (Verdict.STOP, 8 * 128)
    assert "bank_use_nats" not in result.metrics
    assert isinstance(result.metrics["val_loss"], float)


def test_a_diverging_run_names_its_step(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        train(small(train__lr=1e30, train__warmup_ratio=0.0), Listener(), checkpoint_dir=tmp_path)
    assert 1 <= caught.value.step < 12
    assert not math.isfinite(caught.value.value)
    assert failure_kind(caught.value) == "nan"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_non_finite_validation_loss_is_a_diverged_run(temperature: float, tmp_path: Path) -> None:
    """One step, whose loss is that of the weights before it."""
    listener = Listener()
    config = small(train__lr=1e30, train__warmup_ratio=0.0, train__tokens=128, eval__temperature=temperature)
    with pytest.raises(NonFiniteLoss, match="loss is nan at step 1;") as caught:
        train(config, listener, checkpoint_dir=tmp_path)
    assert caught.value.step == 1
    assert failure_kind(caught.value) == "nan"
    assert listener.reports == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "oom"),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: not enough memory: you tried"), "oom"),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "error"),
        (ValueError("DefaultCPUAllocator: can't allocate memory"), "error"),
    ],
)
def test_failure_kind_tells_oom_from_other_errors(error: Exception, kind: str) -> None:
    assert failure_kind(error) == kind


def test_failure_kind_knows_torchs_cpu_oom() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)  # a PiB, more than an address space has
    assert failure_kind(caught.value) == "oom"


def test_peaks_of_memory_are_read_after_every_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation makes the peak here; the prediction counts it too (model/cost/peak_memory.py)."""
    peak = 1.0

    def measured(_: torch.device) -> dict[str, float]:
        return {"peak_rss_gib": peak, "peak_gib": peak}

    def raising(name: str, gib: float) -> None:
        ask = getattr(Evaluator, name)

        def asked(*arguments: Any, **named: Any) -> Any:
            nonlocal peak
            peak = max(peak, gib)
            return ask(*arguments, **named)

        monkeypatch.setattr(Evaluator, name, asked)

    monkeypatch.setattr(meters, "memory_metrics", measured)
    raising("validate", 2.0)
    raising("final", 3.0)
    listener = Listener()
    result = train(small(eval__every=2), listener, checkpoint_dir=tmp_path)
    assert [report.metrics["peak_gib"] for report in listener.reports] == [1.0, 2.0, 2.0]
    assert (result.metrics["peak_gib"], result.metrics["peak_rss_gib"]) == (3.0, 3.0)


def test_peaks_keep_the_largest_nvml_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [{"nvml_used_gib": 2.0}, {"nvml_used_gib": 5.0}, {}, {"nvml_used_gib": 3.0}]
    monkeypatch.setattr(meters, "nvml_memory", lambda _: seen.pop(0))
    peaks = meters.Peaks(torch.device("cpu"))
    assert [peaks.read()["nvml_used_gib"] for _ in range(4)] == [2.0, 5.0, 5.0, 5.0]


def test_every_metric_of_the_table_is_measured_except_those_of_cuda(tmp_path: Path) -> None:
    result = train(small(model__refresh="frequency"), Listener(), checkpoint_dir=tmp_path)
    on_cuda = {"peak_allocated_gib", "peak_reserved_gib", "nvml_used_gib", "gpu_util_pct"}
    assert set(result.metrics) == {metric.name for metric in METRICS} - on_cuda
    for metric in METRICS:
        value = result.metrics.get(metric.name, [])
        assert isinstance(value, {"float": (float, list), "int": (int, list), "floats": list}[metric.kind])


def test_training_equals_a_plain_loop_with_adamw(tmp_path: Path) -> None:
    """Six steps of `none` against a plain loop over the same batches: no hidden scaling, clipping or order."""
    from model.trainer import Trainer

    config = small(model__memory="none", train__tokens=128 * 6, train__report_every=6)
    listener = Listener()
    train(config, listener, checkpoint_dir=tmp_path / "a")
    fresh = Trainer(config, checkpoint_dir=tmp_path / "b")
    model = Transformer(config.model)
    initialise(model, seed=config.train.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.999), weight_decay=0.01)
    losses = []
    for step in range(6):
        x, y = (torch.from_numpy(part) for part in fresh.batches.batch(step))
        loss = torch.nn.functional.cross_entropy(
            model.logits(model(x).hidden_BTD).flatten(0, 1), y.flatten(), ignore_index=-100
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(step, total=6, train=config.train)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert listener.losses == pytest.approx(losses, abs=1e-5)


def test_arms_share_the_parameters_that_both_have() -> None:
    token, blind = Transformer(small().model), Transformer(small(model__memory="blind").model)
    initialise(token, seed=3)
    initialise(blind, seed=3)
    shared = dict(blind.named_parameters())
    own = dict(token.named_parameters())
    assert {"table.weight", "blocks.0.memory.fuse.gate.weight"} <= shared.keys() & own.keys()
    assert all(torch.equal(own[name], shared[name]) for name in shared.keys() & own.keys())


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_schedules_warm_up_and_end(schedule: str) -> None:
    config = small(train__schedule=schedule, train__warmup_ratio=0.1, train__min_lr_ratio=0.0).train
    rates = [learning_rate(update, total=100, train=config) for update in range(101)]
    assert rates[0] == pytest.approx(config.lr / 10)
    assert max(rates) == pytest.approx(config.lr)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rates[10:]))
    if schedule == "wsd":
        assert rates[79] == pytest.approx(config.lr)
        assert rates[90] == pytest.approx(config.lr / 2)


def test_the_reloaded_model_has_the_trained_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its continuations' loss would be another's otherwise, by the rounding of every weight."""
    seen: list[Transformer] = []

    def watching(evaluator: Evaluator, *args: Any, **keys: Any) -> Transformer:
        seen.append(reload(evaluator, *args, **keys))
        return seen[-1]

    reload = Evaluator._reload  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(Evaluator, "_reload", watching)
    result = train(small(train__precision="fp64", train__tokens=128 * 4), Listener(), checkpoint_dir=tmp_path)
    assert {tensor.dtype for tensor in seen[0].parameters()} == {torch.float64}
    assert isinstance(result.metrics["inference_loss"], float)
