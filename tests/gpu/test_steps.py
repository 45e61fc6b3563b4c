"""A whole training step on the GPU: its losses are those of the host, and it waits for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from model.api import train
from model.trainer import Trainer, _Window  # pyright: ignore[reportPrivateUsage]
from tests.gpu.runs import tiny
from tests.model.test_step import MEMORIES
from tests.model.test_training import Listener


@pytest.mark.parametrize("memory", MEMORIES)
def test_losses_in_fp32_are_those_of_the_host(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps with two updates of the bank. They sum in another order, so not bit for bit."""
    config = tiny({"model.memory": memory, "train.precision": "fp32", "train.report_every": 12}, steps=12)
    there, here = Listener(), Listener()
    on_gpu = train(config, there, checkpoint_dir=tmp_path / "gpu")
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        on_host = train(config, here, checkpoint_dir=tmp_path / "host")
    assert (on_gpu.device, on_host.device) == (torch.cuda.get_device_name(), "cpu")
    assert len(there.losses) == 12
    assert there.losses == pytest.approx(here.losses, rel=1e-3)
    for name in ("val_loss", "inference_loss", "fact_nll"):
        assert on_gpu.metrics[name] == pytest.approx(on_host.metrics[name], rel=1e-2)


@contextmanager
def waits_are_errors() -> Iterator[None]:
    """Within the `with` block, what makes the host wait for the GPU raises RuntimeError. An operator of the backward
    is named by what called its forward."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autograd.set_detect_anomaly(True, check_nan=False):
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_step_without_an_update_of_the_bank_does_not_wait(memory: str, precision: str, tmp_path: Path) -> None:
    """The first five steps fill caches and the allocator; an update of the bank follows the fifth and the tenth."""
    trainer = Trainer(tiny({"model.memory": memory, "train.precision": precision}, steps=20), checkpoint_dir=tmp_path)
    window = _Window(trainer.device)
    with trainer.prefetcher:
        for step in range(5):
            trainer._step(step, window)
        torch.cuda.synchronize()
        with waits_are_errors():
            for step in range(5, 9):
                assert not trainer.bank_updater.due(step)
                trainer._step(step, window)
    assert len(window.losses) == 9
    assert torch.stack(window.losses).isfinite().all()
