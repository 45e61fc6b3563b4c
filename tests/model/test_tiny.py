"""The preset `tiny`, trained whole on the built-in facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.api import Verdict, resolve, train
from model.bank.memory import MEMORIES


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("memory", MEMORIES)
def test_tiny_learns_and_its_samples_end(memory: str, seed: int, tmp_path: Path) -> None:
    """The source's samples never ended."""
    config = resolve("tiny", {"model.memory": memory, "train.seed": seed})
    result = train(config, lambda _: Verdict.CONTINUE, checkpoint_dir=tmp_path)
    found = {name: value for name, value in result.metrics.items() if isinstance(value, float)}
    assert found["eos_rate"] > 0.9
    assert found["val_loss"] < found["unigram_floor"]
    assert ("bank_use_nats" in found) == config.model.has_bank
    assert all(sample["ended"] for sample in result.samples) == (found["eos_rate"] == 1.0)
