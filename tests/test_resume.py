"""An interrupted run goes on bit for bit, and from nothing that is not its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model import checkpoint
from model.api import Verdict, train
from model.checkpoint import latest
from tests.test_training import Listener, comparable, small


@pytest.mark.parametrize(
    ("accumulation", "every", "steps"),
    [(1, 4, [4, 8, 12]), (2, 4, [4, 8, 12]), (2, 3, [4, 6, 10, 12]), (3, 4, [6, 9, 12]), (6, 4, [6, 12])],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    accumulation: int, every: int, steps: list[int], tmp_path: Path
) -> None:
    """A report that would fall between two updates comes with the next: gradients are in no checkpoint."""
    config = small(train__accumulation_steps=accumulation, train__report_every=every)
    whole, first, second = Listener(), Listener(at=1, verdict=Verdict.INTERRUPT), Listener()
    uninterrupted = train(config, whole, checkpoint_dir=tmp_path / "whole")
    assert [report.step for report in whole.reports] == steps
    stopped = train(config, first, checkpoint_dir=tmp_path / "parts")
    assert (stopped.verdict, stopped.step) == (Verdict.INTERRUPT, steps[0])
    resumed = train(config, second, checkpoint_dir=tmp_path / "parts")
    assert [report.step for report in second.reports] == steps[1:]
    assert first.losses + second.losses == whole.losses
    assert comparable(resumed.metrics) == comparable(uninterrupted.metrics)
    assert second.reports[-1].wall_s > first.reports[-1].wall_s


def test_an_interruption_at_the_last_report_leaves_a_checkpoint(tmp_path: Path) -> None:
    whole, again = Listener(), Listener()
    result = train(small(), whole, checkpoint_dir=tmp_path / "whole")
    config = small(train__checkpoint_every=100)
    stopped = train(config, Listener(at=3, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path / "parts")
    assert (stopped.verdict, stopped.step) == (Verdict.INTERRUPT, 12)
    resumed = train(config, again, checkpoint_dir=tmp_path / "parts")
    assert again.reports == [], "nothing is trained again"
    assert comparable(resumed.metrics) == comparable(result.metrics)


def test_reports_hold_what_they_measured_and_an_interruption_shifts_none_of_it(tmp_path: Path) -> None:
    config = small(train__report_every=2, train__checkpoint_every=100, eval__every=2)
    whole, first, second = Listener(), Listener(at=1, verdict=Verdict.INTERRUPT), Listener()
    result = train(config, whole, checkpoint_dir=tmp_path / "whole")
    train(config, first, checkpoint_dir=tmp_path / "parts")
    resumed = train(config, second, checkpoint_dir=tmp_path / "parts")
    for reports in (whole.reports, first.reports + second.reports):
        assert [report.step for report in reports if "val_loss" in report.metrics] == [4, 8, 12]
        assert [report.step for report in reports if "coverage" in report.metrics] == [4, 8, 12]
        assert [report.step for report in reports if "ema_ms" in report.metrics] == [4, 6, 10, 12]  # updates: 3, 6, ...
        assert all({"ce_loss", "parameters", "bigram_floor", "peak_gib"} <= report.metrics.keys() for report in reports)
    assert comparable(resumed.metrics) == comparable(result.metrics)


def test_periodic_checkpoints_keep_their_phase_through_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(train__report_every=2, train__checkpoint_every=2)
    train(config, Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path)
    saved: list[int] = []
    save = checkpoint.save

    def noted(directory: Path, **about: Any) -> Path:
        saved.append(about["progress"].step)
        return save(directory, **about)

    monkeypatch.setattr(checkpoint, "save", noted)
    train(config, Listener(), checkpoint_dir=tmp_path)
    assert saved == [4, 8, 12]


def test_a_run_that_died_in_its_final_measure_measures_again(tmp_path: Path) -> None:
    first, again = Listener(), Listener()
    result = train(small(), first, checkpoint_dir=tmp_path)
    repeated = train(small(), again, checkpoint_dir=tmp_path)
    assert again.reports == []
    assert comparable(repeated.metrics) == comparable(result.metrics)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    config = small()
    train(config, Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path)
    found = latest(tmp_path, config=config).path
    assert found is not None
    weights = found / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert latest(tmp_path, config=config).path is None


def test_a_checkpoint_of_another_configuration_is_not_gone_on_from(tmp_path: Path) -> None:
    train(small(), Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path)
    assert latest(tmp_path, config=small(train__lr=1e-3)).path is None
