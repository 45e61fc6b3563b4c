"""An interrupted run resumes bit for bit, and only from its own checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import checkpoint
from model.api import Config, Verdict, train
from model.checkpoint import Found, latest
from model.transformer import Transformer
from tests.model.test_training import Listener, comparable, small


@pytest.mark.parametrize(
    ("accumulation", "every", "steps"),
    [
        (1, 4, [4, 8, 12]),
        pytest.param(2, 4, [4, 8, 12], marks=pytest.mark.slow),
        (2, 3, [4, 6, 10, 12]),
        pytest.param(3, 4, [6, 9, 12], marks=pytest.mark.slow),
        pytest.param(6, 4, [6, 12], marks=pytest.mark.slow),
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


def found_in(directory: Path, *, data_hash: str, config: Config | None = None) -> Found:
    config = config or small()
    return latest(directory, config=config, data_hash=data_hash, model=Transformer(config.model))


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a safetensors file."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


UNSEEN: dict[str, Callable[[Path], object]] = {
    "a byte of the weights": lambda at: flip(at / "model.safetensors"),
    "a byte of the moments": lambda at: flip(at / "optimizer.safetensors"),
    "the learning rate": lambda at: edit(at / "state.json", '"lr": 0.003', '"lr": 0.002'),
    "tokens seen": lambda at: edit(at / "state.json", '"tokens_seen": 1024', '"tokens_seen": 1025'),
    "the checksums": lambda at: (at / "SHA256SUMS").write_text("no checksums\n"),
    "the checksums lost": lambda at: (at / "SHA256SUMS").unlink(),
    "checksums without end": lambda at: os.truncate(at / "SHA256SUMS", 3 * 2**30),
    "a state without end, and no checksums": lambda at: (
        (at / "SHA256SUMS").unlink(),
        os.truncate(at / "state.json", 3 * 2**30),
    ),
    "moments lost": lambda at: (at / "optimizer.safetensors").unlink(),
    "state lost": lambda at: (at / "state.json").unlink(),
    "a named pipe for the state": lambda at: piped(at / "state.json"),
    "a named pipe for the weights": lambda at: piped(at / "model.safetensors"),
    "a named pipe for the checksums": lambda at: piped(at / "SHA256SUMS"),
    "a folder for the moments": lambda at: (
        (at / "optimizer.safetensors").unlink(),
        (at / "optimizer.safetensors").mkdir(),
    ),
}
"""Damage that only a checksum shows, or that would look like another run's checkpoint."""

SEEN: dict[str, Callable[[Path], object]] = {
    "a weight lost": lambda at: rewrite(at / "model.safetensors", lambda tensors: tensors.pop("table.weight")),
    "a weight's shape": lambda at: rewrite(at / "model.safetensors", halve("table.weight")),
    "a weight's type": lambda at: rewrite(
        at / "model.safetensors", lambda t: t.update({"table.weight": t["table.weight"].double()})
    ),
    "one weight too many": lambda at: rewrite(at / "model.safetensors", lambda t: t.update(more=torch.zeros(2))),
    "a moment lost": lambda at: rewrite(at / "optimizer.safetensors", lambda t: t.pop("table.weight/exp_avg")),
    "a moment's shape": lambda at: rewrite(at / "optimizer.safetensors", halve("table.weight/exp_avg_sq")),
    "another step": lambda at: edit(at / "state.json", '"step": 8', '"step": 99999'),
    "a step in words": lambda at: edit(at / "state.json", '"step": 8', '"step": "8"'),
    "no progress": lambda at: edit(at / "state.json", '"progress"', '"regress"'),
    "a metric in words": lambda at: edit(at / "state.json", '"parameters": ', '"parameters": "many", "other": '),
    "a list": lambda at: (at / "state.json").write_text("[1]"),
    "cut": lambda at: (at / "model.safetensors").write_bytes((at / "model.safetensors").read_bytes()[:100]),
}
"""Damage that shows without checksums too."""


def as_an_earlier_version(path: Path) -> None:
    """Make a checkpoint one of the time before checksums."""
    (path / "SHA256SUMS").unlink()
    state = json.loads((path / "state.json").read_text())
    assert state.pop("format") == 2
    (path / "state.json").write_text(json.dumps(state, indent=2))


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def halve(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: tensors[name][::2].contiguous()})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the checkpoints step-4 and step-8 of an interrupted run, and the hash of its data."""
    folder = tmp_path_factory.mktemp("two")
    train(small(), Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=folder)
    shutil.copytree(folder / "step-4", folder / "kept")
    stopped = train(small(), Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=folder)
    (folder / "kept").rename(folder / "step-4")
    return folder, stopped.data_hash


@pytest.mark.parametrize("damage", [*UNSEEN, *SEEN])
def test_the_checkpoint_before_a_damaged_one_is_resumed_from(
    damage: str, two: tuple[Path, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(two[0], tmp_path / "run")
    assert found_in(folder, data_hash=two[1]) == Found(folder / "step-8", ())
    (UNSEEN | SEEN)[damage](folder / "step-8")
    found = found_in(folder, data_hash=two[1])
    assert found.path == folder / "step-4"
    (note,) = found.passed_over
    assert note.startswith("checkpoint step-8 is damaged (")
    assert len(note.splitlines()) == 1


@pytest.mark.parametrize("damage", SEEN)
def test_a_checkpoint_of_an_earlier_version_is_checked_without_checksums(
    damage: str, two: tuple[Path, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(two[0], tmp_path / "run")
    for path in folder.iterdir():
        as_an_earlier_version(path)
    assert found_in(folder, data_hash=two[1]) == Found(folder / "step-8", ())
    SEEN[damage](folder / "step-8")
    found = found_in(folder, data_hash=two[1])
    assert found.path == folder / "step-4"
    assert found.passed_over[0].startswith("checkpoint step-8 is damaged (")


@pytest.mark.parametrize(
    "damage",
    [
        "a weight lost",
        pytest.param("another step", marks=pytest.mark.slow),
        pytest.param("a byte of the weights", marks=pytest.mark.slow),
    ],
)
def test_a_run_with_a_damaged_checkpoint_ends_as_an_uninterrupted_one(damage: str, tmp_path: Path) -> None:
    whole, again = Listener(), Listener()
    result = train(small(), whole, checkpoint_dir=tmp_path / "whole")
    stopped = Listener(at=2, verdict=Verdict.INTERRUPT)
    train(small(), stopped, checkpoint_dir=tmp_path / "parts")
    (UNSEEN | SEEN)[damage](tmp_path / "parts" / "step-8")
    resumed = train(small(), again, checkpoint_dir=tmp_path / "parts")
    assert again.reports[0].note.startswith("checkpoint step-8 is damaged (")
    assert again.reports[0].note.endswith("training resumes from step 0")
    assert again.losses == whole.losses
    assert comparable(resumed.metrics) == comparable(result.metrics)


@pytest.mark.parametrize("name", ["step-\u00b2", "step-\u0664", "step-012", "step-9.tmp", "step-", "step--1"])
def test_a_folder_whose_name_is_no_step_is_no_checkpoint(name: str, two: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(two[0], tmp_path / "run")
    shutil.copytree(folder / "step-4", folder / name)
    (folder / "step-77").write_text("a file")
    assert [path.name for path in checkpoint.all_in(folder)] == ["step-8", "step-4"]
    assert found_in(folder, data_hash=two[1]) == Found(folder / "step-8", ())


def test_sha256sum_can_check_a_checkpoint(two: tuple[Path, str]) -> None:
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=two[0] / "step-8", capture_output=True, text=True)
    assert done.stdout.splitlines() == ["model.safetensors: OK", "optimizer.safetensors: OK", "state.json: OK"]


def test_a_run_does_not_resume_from_another_configuration(tmp_path: Path) -> None:
    stopped = train(small(), Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path)
    found = found_in(tmp_path, config=small(train__lr=1e-3), data_hash=stopped.data_hash)
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
    as_an_earlier_version(tmp_path / "step-4")
    state = tmp_path / "step-4" / "state.json"
    kept = json.loads(state.read_text())
    kept.pop("data_hash")
    state.write_text(json.dumps(kept))
    found = found_in(tmp_path, data_hash=stopped.data_hash)
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
    assert found_in(tmp_path, config=config, data_hash=result.data_hash).path == tmp_path / "step-12"
