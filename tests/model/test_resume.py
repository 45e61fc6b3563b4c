"""An interrupted run resumes bit for bit, and only from its own checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model import checkpoint
from model.api import Verdict, train
from model.checkpoint import Found, latest
from tests.model.test_training import Listener, comparable, small


@pytest.mark.parametrize(
    ("accumulation", "every", "steps"),
    [
        (1, 4, [4, 8, 12]),
        pytest.param(2, 4, [4, 8, 12], marks=pytest.mark.slow),
        (2, 3, [4, 6, 10, 12]),
        (3, 4, [6, 9, 12]),
        (6, 4, [6, 12]),
    ],
)
def test_an_interrupted_run_resumes_bit_for_bit(
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


def test_an_interruption_does_not_shift_what_reports_measure(tmp_path: Path) -> None:
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


def test_an_interruption_does_not_shift_periodic_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_run_that_died_in_its_final_evaluation_evaluates_again(tmp_path: Path) -> None:
    first, again = Listener(), Listener()
    result = train(small(), first, checkpoint_dir=tmp_path)
    repeated = train(small(), again, checkpoint_dir=tmp_path)
    assert again.reports == []
    assert comparable(repeated.metrics) == comparable(result.metrics)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    config = small()
    stopped = train(config, Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path)
    found = latest(tmp_path, config=config, data_hash=stopped.data_hash).path
    assert found is not None
    weights = found / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    again = latest(tmp_path, config=config, data_hash=stopped.data_hash)
    assert again.path is None
    assert again.passed_over[0].startswith("checkpoint step-4 is damaged (")


def test_a_run_does_not_resume_from_another_configuration(tmp_path: Path) -> None:
    stopped = train(small(), Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path)
    found = latest(tmp_path, config=small(train__lr=1e-3), data_hash=stopped.data_hash)
    assert found == Found(None, ()), "another configuration in the same folder is no damage to report"


def test_a_run_does_not_resume_from_other_data(tmp_path: Path) -> None:
    """The file under an unchanged path is another, or its first line is."""
    text = tmp_path / "text.jsonl"
    config = small(data__corpus="jsonl", data__train=str(text))
    listeners, results = [Listener(), Listener()], []
    for words, listener in zip(("on the table", "under a chair"), listeners, strict=True):
        text.write_text("".join(json.dumps({"text": f"the {word} is {words}"}) + "\n" for word in "abcdefgh"))
        results.append(train(config, listener, checkpoint_dir=tmp_path / "run"))
    then, now = (result.data_hash for result in results)
    assert then != now
    note = f"checkpoint step-12 is of other data ({then} then, {now} now); training resumes from step 0"
    assert [report.note for report in listeners[1].reports] == [note, "", ""]
    assert len(listeners[1].losses) == 12
    state = json.loads((tmp_path / "run" / "step-12" / "state.json").read_text())
    assert state["data_hash"] == now


def test_a_run_does_not_resume_from_a_checkpoint_without_a_data_hash(tmp_path: Path) -> None:
    stopped = train(small(), Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path)
    state = tmp_path / "step-4" / "state.json"
    kept = json.loads(state.read_text())
    kept.pop("data_hash")
    state.write_text(json.dumps(kept))
    found = latest(tmp_path, config=small(), data_hash=stopped.data_hash)
    assert found.path is None
    assert found.passed_over == (f"checkpoint step-4 is of other data (unknown then, {stopped.data_hash} now)",)


def test_a_run_does_not_write_again_what_it_resumed_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while it is replaced would leave nothing to resume from."""
    config = small()
    result = train(config, Listener(), checkpoint_dir=tmp_path)

    def killed(*_: object) -> None:
        raise AssertionError("replaced")

    monkeypatch.setattr(Path, "rename", killed)
    repeated = train(config, Listener(), checkpoint_dir=tmp_path)
    assert comparable(repeated.metrics) == comparable(result.metrics)
    assert latest(tmp_path, config=config, data_hash=result.data_hash).path == tmp_path / "step-12"
