"""benchmarks.gpu_check without a card: what it makes of what runs measured, on a fake; its MPS on a fake program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import FULL, MPS, SIZES, SMALL, Outcome, Tools, check, configured, render
from tests.study_files import resolve

LOSSES = (8.7, 8.1, 7.9)


class FakeCard:
    """Runs take as long as they are told to; two at once share the card, less badly under MPS."""

    def __init__(self, *, second: tuple[float, ...] = LOSSES, fails: str | None = None) -> None:
        self.second, self.fails, self.seen = second, fails, 0

    def launch(self, runs: Sequence[Mapping[str, Any]], environment: Mapping[str, str]) -> list[Outcome]:
        small = [run for run in runs if run == configured(SMALL)]
        self.seen += len(runs) == 1 and bool(small)
        losses = self.second if self.seen == 2 else LOSSES
        if self.fails is not None and runs[0] == configured(self.fails):
            return [Outcome(None, None, (), "CUDA out of memory")] * len(runs)
        rate = 40_000.0 if len(runs) == 1 else 30_000.0 if environment else 22_000.0
        return [Outcome(rate, 4.0, losses, None) for _ in runs]

    def tools(self) -> Tools:
        return Tools(launch=self.launch, predict=lambda _run: 4.4, roofline=lambda: {"memory": 160_000.0})


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control program of MPS that writes down how it was called; returns that file."""
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    (folder / MPS).write_text(
        f'#!/bin/sh\nif [ "$1" = -d ]; then echo "start $CUDA_MPS_PIPE_DIRECTORY" >> {log}; else '
        f'read word; echo "$word $CUDA_MPS_PIPE_DIRECTORY" >> {log}; fi\n'
    )
    (folder / MPS).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return log


def test_every_size_is_a_configuration() -> None:
    for size in SIZES:
        keys = configured(size)
        config = resolve(keys.pop("preset"), keys)
        assert (
            config["train.tokens"] == gpu_check.MICRO_BATCHES * config["train.batch_size"] * config["model.max_seq_len"]
        )


@pytest.mark.usefixtures("program")
def test_what_is_made_of_the_measures() -> None:
    found = check("NVIDIA GeForce RTX 4090", FakeCard().tools())
    assert [row["size"] for row in found["memory"]] == list(SIZES)
    assert [row["error"] for row in found["memory"]] == pytest.approx([0.1] * len(SIZES))
    assert found["speed"]["shares"] == {"memory": 0.25}
    assert [row["gain"] for row in found["pairs"]] == [pytest.approx(1.1), pytest.approx(1.5)]
    assert found["rerun"] == {"identical": True, "steps": 3, "first_difference": None, "failed": None}
    text = render(found)
    assert "+10.0%" in text
    assert "25% of: memory" in text
    assert "all 3 losses identical" in text


def test_another_cards_speed_is_held_against_no_limit() -> None:
    found = check("NVIDIA A100", FakeCard().tools())
    assert found["speed"]["shares"] is None
    assert "another card" in render(found)


@pytest.mark.parametrize(("second", "first_difference"), [((8.7, 8.2, 7.9), 2), (LOSSES[:2], None)])
def test_a_run_that_does_not_repeat_is_said(second: tuple[float, ...], first_difference: int | None) -> None:
    found = check("NVIDIA A100", FakeCard(second=second).tools())
    assert found["rerun"]["identical"] is False
    assert found["rerun"]["first_difference"] == first_difference
    assert f"NOT identical, first at step {first_difference or 3}" in render(found)


@pytest.mark.parametrize("size", [SMALL, FULL])
def test_a_run_that_fails_gives_no_number(size: str) -> None:
    found = check("NVIDIA GeForce RTX 4090", FakeCard(fails=size).tools())
    row = next(row for row in found["memory"] if row["size"] == size)
    assert (row["reserved_gib"], row["error"], row["failed"]) == (None, None, "CUDA out of memory")
    if size == SMALL:
        assert [pair["gain"] for pair in found["pairs"]] == [None, None]
        assert found["rerun"]["identical"] is None
    else:
        assert found["speed"]["shares"] is None
    assert "CUDA out of memory" in render(found)


def test_mps_is_started_on_pipes_of_its_own_and_stopped(program: Path) -> None:
    def interrupted() -> None:
        with gpu_check.mps_server() as server:
            places.append(server.environment["CUDA_MPS_PIPE_DIRECTORY"])
            assert program.read_text() == f"start {places[0]}\n"
            raise KeyboardInterrupt

    places: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (place,) = places
    assert program.read_text() == f"start {place}\nquit {place}\n"
    assert not Path(place).exists()


def test_why_there_is_no_mps_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with gpu_check.mps_server() as server:
        assert "not on the PATH" in str(server.failed)
    (tmp_path / MPS).write_text("#!/bin/sh\necho not permitted >&2\nexit 1\n")
    (tmp_path / MPS).chmod(0o755)
    with gpu_check.mps_server() as server:
        assert server.failed == f"{MPS} -d ended with 1: not permitted"
    found = check("NVIDIA A100", FakeCard().tools())
    assert found["pairs"][1] == {"pair": "with MPS", "gain": None, "failed": server.failed}


def test_without_a_card_it_says_so_and_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "find_card", lambda: None)
    monkeypatch.setattr(gpu_check, "launch", lambda *_: pytest.fail("something was run"))
    assert gpu_check.main([]) == 0
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert "no card" in text
    assert gpu_check.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"card": None, "not_measured": gpu_check.WOULD}


@pytest.mark.slow  # the other tests have what it makes of such runs
def test_a_process_that_trains_without_the_card_is_no_measurement() -> None:
    """Real processes, both at once, on this machine's processor or card: tiny ones."""
    tiny = {"preset": "tiny", "train.tokens": 2_048, "model.max_seq_len": 32, "eval.val_tokens": 256, "eval.every": 1}
    bad = tiny | {"model.knowledge_num": 1_000}
    good, broken = gpu_check.launch([tiny, bad], {"CUDA_VISIBLE_DEVICES": ""})
    assert good == Outcome(None, None, (), "it ran on cpu, not on the card")
    assert "knowledge_num" in str(broken.failed)
