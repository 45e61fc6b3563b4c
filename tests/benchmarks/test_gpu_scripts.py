"""What is written for a machine with a GPU runs on one without: it says that nothing was measured, or takes the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import page, step, sweep

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu.sh"

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA sees a GPU: run benchmarks/gpu.sh")


def run(*parts: str, out: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(out), "QUICK": "1"}
    return subprocess.run([SCRIPT, *parts], env=environment, capture_output=True, text=True, timeout=120)


def test_the_script_runs_its_parts_and_counts_what_failed(tmp_path: Path) -> None:
    ended = run("versions", "check", out=tmp_path / "found")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert torch.__version__ in (tmp_path / "found/versions.txt").read_text()
    assert json.loads((tmp_path / "found/check.json").read_text())["card"] is None


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    ended = run("verions", out=tmp_path)
    assert ended.returncode == 2
    assert "verions is no part" in ended.stderr


def test_every_part_of_the_script_is_a_command_that_exists() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    for name in {word.removeprefix("benchmarks.") for word in SCRIPT.read_text().split() if "benchmarks." in word}:
        assert (ROOT / "benchmarks" / name.replace(".", "/")).with_suffix(".py").exists(), name


@pytest.mark.parametrize("command", [step, sweep])
def test_without_a_gpu_nothing_is_measured(command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert "nothing was measured" in capsys.readouterr().out


@pytest.mark.slow  # test_benchmarks.py times steps and counts phases
def test_a_step_is_measured_by_phase(capsys: pytest.CaptureFixture[str]) -> None:
    assert step.main(["--quick", "--json", "--seconds", "0.1"]) == 0
    none, token = json.loads(capsys.readouterr().out)["steps"]
    assert not none["failed"]
    assert not token["failed"]
    assert set(none["profile"]["phases_ms"]) < set(token["profile"]["phases_ms"])
    assert set(token["profile"]["phases_ms"]) - set(none["profile"]["phases_ms"]) == {
        "retrieval",
        "read",
        "update of the bank",
    }
    assert all(row["launched"]["tokens_per_s"] > 0 for row in (none, token))


@pytest.mark.slow
def test_a_study_on_shares_of_one_card_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--quick", "--json"]) == 0
    alone, two = json.loads(capsys.readouterr().out)["sweeps"]
    assert (alone["failed"], two["failed"]) == (None, None)
    assert alone["gain"] == 1.0
    assert two["gain"] > 0


def test_the_page_is_what_was_measured() -> None:
    written = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    folders = sorted((ROOT / "benchmarks" / "data" / "gpu").iterdir())
    assert written == page.page(folders), "run: python -m benchmarks.gpu.page benchmarks/data/gpu/* > docs/gpu.md"
