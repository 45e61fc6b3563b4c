"""Batches prepared ahead: the same ones, in the same order, and nothing left behind."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from model import trainer
from model.api import NonFiniteLoss, Report, Verdict, resolve
from model.device.prefetch import THREAD, Prefetcher, ahead_on, on_host
from model.trainer import Trainer

SMALL = {
    "model.dim": 32, "model.n_heads": 2, "model.vocab_size": 512, "model.max_seq_len": 32, "model.knowledge_num": 64,
    "model.knowledge_dim": 16, "model.num_selected": 4, "train.batch_size": 4, "train.tokens": 128 * 8,
    "train.report_every": 2, "data.facts_entities": 12, "eval.val_tokens": 256, "eval.prompts": 2,
    "eval.new_tokens": 2, "eval.fact_probes": 2,
}  # fmt: skip


def threads() -> list[str]:
    """Prefetchers' threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD)]


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
def test_prefetcher_returns_each_step_once_in_order(ahead: int) -> None:
    read: list[int] = []

    def square(step: int) -> int:
        read.append(step)
        return step * step

    with Prefetcher(square, steps=range(5, 25), ahead=ahead) as prefetcher:
        assert [prefetcher.take(step) for step in range(5, 25)] == [step * step for step in range(5, 25)]
    assert read == list(range(5, 25))
    assert threads() == []


def test_prefetcher_reads_at_most_ahead_steps_early() -> None:
    read: list[int] = []
    with Prefetcher(read.append, steps=range(100), ahead=2) as prefetcher:
        for step in range(5):
            prefetcher.take(step)
    assert read == list(range(len(read)))
    assert 5 <= len(read) <= 5 + 2


def test_prefetcher_reads_a_batch_while_another_is_used() -> None:
    """The second read ends only once the first batch is in use: without a thread of its own this would never end."""
    in_use = threading.Event()

    def read(step: int) -> str:
        assert step == 0 or in_use.wait(timeout=60)
        return threading.current_thread().name

    with Prefetcher(read, steps=range(2), ahead=1) as prefetcher:
        names = [prefetcher.take(0)]
        in_use.set()
        names.append(prefetcher.take(1))
    assert all(name.startswith(THREAD) for name in names)


@pytest.mark.parametrize("ahead", [0, 3])
def test_prefetcher_raises_an_error_at_its_own_step(ahead: int) -> None:
    def read(step: int) -> int:
        if step == 4:
            raise OSError("the disk is gone")
        return step

    with Prefetcher(read, steps=range(10), ahead=ahead) as prefetcher:
        assert [prefetcher.take(step) for step in range(4)] == [0, 1, 2, 3]
        with pytest.raises(OSError, match="the disk is gone"):
            prefetcher.take(4)
    assert threads() == []


def test_prefetcher_refuses_a_step_out_of_order() -> None:
    with (
        Prefetcher(int, steps=range(10), ahead=1) as prefetcher,
        pytest.raises(AssertionError, match="step 3 was asked for"),
    ):
        prefetcher.take(3)


def test_a_cpu_has_no_prefetch_thread_and_no_pinned_memory() -> None:
    cpu = torch.device("cpu")
    assert ahead_on(cpu) == 0
    assert ahead_on(torch.device("cuda")) > 0
    batch = torch.arange(6).reshape(2, 3).numpy()
    assert torch.equal(on_host(batch, cpu), torch.from_numpy(batch))


def train(folder: Path, *, stop_at: int = -1, **overrides: object) -> list[float]:
    """The losses of a run; stopped at report number `stop_at`."""
    losses: list[float] = []
    reports = 0

    def report(now: Report) -> Verdict:
        nonlocal reports
        reports += 1
        losses.extend(now.losses)
        return Verdict.STOP if reports == stop_at else Verdict.CONTINUE

    config = resolve("tiny", {**SMALL, **{key.replace("__", "."): value for key, value in overrides.items()}})
    Trainer(config, checkpoint_dir=folder).run(report)
    return losses


def test_prefetching_does_not_change_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete, stopped early, and diverged runs, with the prefetching of a GPU, on the CPU."""
    direct = train(tmp_path / "direct")
    monkeypatch.setattr(trainer, "ahead_on", lambda device: 2)  # noqa: ARG005
    assert train(tmp_path / "fed") == direct
    assert len(direct) == 8
    assert train(tmp_path / "stopped", stop_at=2) == direct[:4]
    assert threads() == []
    with pytest.raises(NonFiniteLoss):
        train(tmp_path / "broken", train__lr=1e30, train__warmup_ratio=0.0)
    assert threads() == []
