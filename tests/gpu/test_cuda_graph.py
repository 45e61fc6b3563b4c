"""A micro-batch that is replayed as a CUDA graph computes what its kernels compute one by one, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.api import Report, Verdict, resolve
from model.device import cuda_graph
from model.trainer import Trainer

pytestmark = pytest.mark.gpu

STEPS, STEP_TOKENS = 24, 8 * 64


def trained(folder: Path, *, recorded: bool, overrides: dict[str, Any]) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of all steps, and the model after the last."""
    keys = {"train.tokens": STEPS * STEP_TOKENS, "train.report_every": 6, "eval.val_tokens": 512, "eval.prompts": 2}
    trainer = Trainer(resolve("tiny", keys | overrides), checkpoint_dir=folder)
    assert trainer.records, "a tiny micro-batch is recorded"
    if not recorded:
        trainer.records, trainer.micro_batch = False, trainer._train_on
    losses: list[float] = []

    def note(report: Report) -> Verdict:
        losses.extend(report.losses)
        return Verdict.CONTINUE

    trainer.run(note)
    if recorded:
        assert isinstance(trainer.micro_batch, cuda_graph.Recorded)
        assert trainer.micro_batch.failed is None
        assert trainer.micro_batch._graph is not None
    return losses, {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("memory", ["none", "token", "vector", "hybrid", "blind"])
def test_a_replayed_run_equals_a_launched_one(tmp_path: Path, memory: str, precision: str) -> None:
    overrides = {"model.memory": memory, "train.precision": precision}
    launched = trained(tmp_path / "launched", recorded=False, overrides=overrides)
    replayed = trained(tmp_path / "replayed", recorded=True, overrides=overrides)
    assert replayed[0] == launched[0]
    assert len(replayed[0]) == STEPS
    for name, value in launched[1].items():
        assert torch.equal(value, replayed[1][name]), name


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.accumulation_steps": 4},
        {"train.gradient_checkpointing": "on"},
        {"model.ema_state": "sparse_cache", "model.ema_update_freq": 2},
        {"model.refresh": "frequency", "model.refresh_after": 2, "model.ema_update_freq": 2},
        {"model.query_norm": "cosine"},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_what_follows_a_micro_batch_sees_the_same(tmp_path: Path, overrides: dict[str, Any]) -> None:
    launched = trained(tmp_path / "launched", recorded=False, overrides=overrides)
    replayed = trained(tmp_path / "replayed", recorded=True, overrides=overrides)
    assert replayed[0] == launched[0]
    for name, value in launched[1].items():
        assert torch.equal(value, replayed[1][name]), name


def refused(x: Tensor) -> Tensor:
    return x * x.sum().item()  # waits for the device, which no recording allows


def out_of_memory(x: Tensor) -> Tensor:
    if torch.cuda.is_current_stream_capturing():
        torch.empty(2**50, device="cuda")
    return x * x.sum()


@pytest.mark.parametrize("work", [refused, out_of_memory])
def test_what_cannot_be_recorded_is_computed_as_before(work: Callable[[Tensor], Tensor]) -> None:
    recorded = cuda_graph.Recorded(work, torch.device("cuda"))
    x = torch.arange(5.0, device="cuda")
    for _ in range(cuda_graph.WARM_UP + 3):
        assert torch.equal(recorded(x), x * 10)
    assert recorded.failed
