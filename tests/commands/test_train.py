"""`python -m model.train`: what it says and leaves when it is interrupted, or given what it cannot use."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model import train as command
from model.api import Config, Report, Result, Verdict
from tests.model.test_training import SMALL

SETS = [f"--set={key}={value}" for key, value in SMALL.items()] + ["--set=train.checkpoint_every=100"]


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Handle Ctrl-C as in a terminal: a process in the background starts with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signalled(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C so many times before the first report."""
    run = command.train

    def signalling(config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        left = times

        def show(now: Report) -> Verdict:
            nonlocal left
            while left:
                left -= 1
                signal.raise_signal(signal.SIGINT)
            return report(now)

        return run(config, show, checkpoint_dir=checkpoint_dir)

    monkeypatch.setattr(command, "train", signalling)


def test_ctrl_c_stops_at_the_next_report_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        signalled(1, patched)
        assert command.main([*SETS, "--out", str(tmp_path)]) == 130
    said = capfd.readouterr()
    assert said.out == ""
    assert "stopping at the next report, with a checkpoint; Ctrl-C again stops at once" in said.err
    assert said.err.splitlines()[-1] == f"interrupted; the newest checkpoint is {tmp_path / 'step-4'}"
    assert signal.getsignal(signal.SIGINT) is before
    assert command.main([*SETS, "--out", str(tmp_path)]) == 0
    assert json.loads(capfd.readouterr().out)["tokens_seen"] == SMALL["train.tokens"]
    assert json.loads((tmp_path / "step-12" / "state.json").read_text())["progress"]["step"] == 12
    assert (tmp_path / "samples.json").is_file()


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> Result:
        raise OSError(errno.ENOSPC, "No space left on device", "step-4/model.safetensors")

    monkeypatch.setattr(command, "train", full)
    assert command.main([*SETS, "--out", str(tmp_path)]) == 130
    line = "step-4/model.safetensors: cannot be written (No space left on device); make room, or make it writable"
    assert capfd.readouterr().err.splitlines()[-1] == line


def test_ctrl_c_twice_stops_at_once_without_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    signalled(2, monkeypatch)
    assert command.main([*SETS, "--out", str(tmp_path)]) == 130
    assert capfd.readouterr().err.splitlines()[-1] == "interrupted; no checkpoint was written"
    assert list(tmp_path.iterdir()) == []


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a process that a script put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        signalled(2, monkeypatch)
        assert command.main([*SETS, "--out", str(tmp_path)]) == 0
    finally:
        signal.signal(signal.SIGINT, before)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert command.main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize("below", ["", "folder"])
def test_an_out_that_cannot_be_a_folder_is_refused_before_training(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any, **__: Any) -> Result:
        raise AssertionError("it trained")

    monkeypatch.setattr(command, "train", never)
    file = tmp_path / "file"
    file.write_text("kept")
    said = complaint(capsys, *SETS, "--out", str(file / below))
    assert said.startswith(f"--out: {file / below}: no folder can be there (")
    assert file.read_text() == "kept"


def test_a_config_that_is_not_utf_8_is_one_line_of_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes("train.seed: 1 # f\u00fcr".encode("latin-1"))
    assert "not UTF-8 (invalid" in complaint(capsys, "--config", str(file))


def test_held_out_documents_without_text_are_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"train": [f"the {word} is on the table" for word in "abcdefgh"], "val": ["<|im_end|>"] * 2}
    paths = {name: tmp_path / f"{name}.jsonl" for name in files}
    for name, texts in files.items():
        paths[name].write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sets = [f"--set=data.{name}={path}" for name, path in paths.items()]
    assert command.main([*SETS, "--set=data.corpus=jsonl", *sets, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"{paths['val']}:1: no held-out document has text before its end")
    assert "step" not in said[0], "nothing was reported"
