"""A run on the GPU repeats bit for bit, whole or interrupted: losses, metrics, weights, bank, moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.api import Config, Verdict, train
from tests.gpu.runs import tiny
from tests.model.test_training import Listener, comparable

METERS = {"gpu_util_pct", "nvml_used_gib", "peak_allocated_gib", "peak_reserved_gib"}
STEPS = 12
CASES: dict[str, dict[str, Any]] = {
    "token, bf16": {"model.memory": "token", "train.precision": "bf16"},
    "token, fp32": {"model.memory": "token", "train.precision": "fp32"},
    "hybrid with a cache, bf16": {
        "model.memory": "hybrid",
        "model.ema_state": "sparse_cache",
        "train.precision": "bf16",
    },
    "vector with a refresh, fp32": {
        "model.memory": "vector",
        "model.refresh": "frequency",
        "model.refresh_after": 2,
        "train.precision": "fp32",
    },
    "token, checkpointing, accumulation, bf16": {
        "model.memory": "token",
        "train.gradient_checkpointing": "on",
        "train.accumulation_steps": 2,
        "train.precision": "bf16",
    },
}


def ended(config: Config, folder: Path, *listeners: Listener) -> tuple[list[float], dict[str, Any]]:
    """Train with one listener after the other: all losses, and the last one's metrics that are no meter's."""
    metrics: dict[str, Any] = {}
    for listener in listeners:
        metrics = comparable(train(config, listener, checkpoint_dir=folder).metrics)
    losses = [loss for listener in listeners for loss in listener.losses]
    return losses, {name: value for name, value in metrics.items() if name not in METERS}


@pytest.mark.parametrize("case", CASES)
def test_a_run_repeats_and_resumes_bit_for_bit(case: str, tmp_path: Path) -> None:
    """4,096 positions a step: torch has other kernels for more than 3,072 indices."""
    size = {"train.batch_size": 64, "train.report_every": 4, "train.checkpoint_every": 1, "model.ema_update_freq": 2}
    config = tiny({**size, **CASES[case]}, steps=STEPS)
    losses, metrics = ended(config, tmp_path / "whole", Listener())
    assert len(losses) == STEPS
    again = ended(config, tmp_path / "again", Listener())
    assert again[0] == losses
    assert again[1] == metrics
    parts = ended(config, tmp_path / "parts", Listener(at=1, verdict=Verdict.INTERRUPT), Listener())
    assert parts[0] == losses
    assert parts[1] == metrics
    for file in ("model.safetensors", "optimizer.safetensors"):
        kept = load_file(tmp_path / "whole" / f"step-{STEPS}" / file)
        for other in ("again", "parts"):
            found = load_file(tmp_path / other / f"step-{STEPS}" / file)
            assert found.keys() == kept.keys()
            differing = [name for name, tensor in kept.items() if not torch.equal(found[name], tensor)]
            assert differing == []
