"""Where commands are started: a launcher's job, a user without a home, few open files, a terminal without Unicode."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ablate import cli
from ablate.records.ledger import Ledger
from tests import ROOT, synthetic
from tests.running.test_environment import ACCELERATE, MPI, SLURM, TORCHRUN
from tests.study_files import SMALL

SHORT = SMALL.replace(
    "data: {corpus: facts}", "data: {corpus: facts}, train: {tokens: 4_096}, eval: {val_tokens: 1_024}"
)


def started(
    command: str,
    *flags: str,
    cwd: Path,
    without: tuple[str, ...] = (),
    limit: str | None = None,
    output: str | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m COMMAND FLAGS` to its end in an environment of its own. `limit`: flags of `ulimit`; `output`: what
    stdout goes to."""
    plain = {name: value for name, value in os.environ.items() if name not in without}
    program = [sys.executable, "-m", command, *flags]
    begun = f"ulimit {limit}; exec" if limit else "exec"
    program = ["bash", "-c", f'{begun} "$@"' + (f" > {output}" if output else ""), "bash", *program]
    environment: Mapping[str, str] = {**plain, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture
def short(tmp_path: Path) -> Path:
    tmp_path.joinpath("short.yaml").write_text(SHORT)
    return tmp_path


def test_too_few_open_files_for_ray_are_refused_before_anything_is_written(short: Path) -> None:
    done = started("ablate.sweep", "short.yaml", cwd=short, limit="-n 64")
    assert (done.returncode, done.stdout) == (cli.BAD_INPUT, "")
    assert done.stderr.startswith(
        "ulimit -n: 64: a process may open too few files, 256 are needed; raise the hard limit"
    )
    assert done.stderr.count("\n") == 1
    assert [path.name for path in short.iterdir()] == ["short.yaml"]


@pytest.mark.parametrize(
    ("runner", "kib"),
    [("--inline", 2_000_000), ("--gpus=0", 3_000_000), pytest.param("--inline", 1_000_000, marks=pytest.mark.slow)],
)
def test_too_little_memory_is_refused_before_anything_is_written(runner: str, kib: int, short: Path) -> None:
    done = started("ablate.sweep", "short.yaml", runner, cwd=short, limit=f"-v {kib}")
    assert (done.returncode, done.stdout) == (cli.BAD_INPUT, ""), done.stderr
    assert done.stderr.startswith(f"ulimit -v: {kib}: a process may have too little address space")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in short.iterdir()] == ["short.yaml"]


@pytest.mark.parametrize(
    ("command", "buffered"), [("status", ""), ("status", "1"), pytest.param("report", "", marks=pytest.mark.slow),
                              pytest.param("dry run", "", marks=pytest.mark.slow)]
)  # fmt: skip
def test_what_cannot_be_printed_is_one_line(command: str, buffered: str, short: Path) -> None:
    ledger = synthetic.full_study(short / "s")
    given = {
        "status": ["ablate.status", str(ledger.root)],
        "report": ["ablate.report", str(ledger.root), "--format", "csv"],
        "dry run": ["ablate.sweep", "short.yaml", "--dry-run"],
    }[command]
    done = started(given[0], *given[1:], cwd=short, output="/dev/full", PYTHONUNBUFFERED=buffered)
    assert done.stderr == "cannot be written (No space left on device); make room, or make it writable\n"
    assert done.returncode == cli.INTERRUPTED


@pytest.mark.parametrize("given", ["x", "", "1e9", "1.5", "9" * 20])
def test_a_date_that_is_none_is_refused_by_every_command(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else numpy and matplotlib refuse it, when the report is written and the trials are trained."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    assert cli.guarded(lambda: pytest.fail("it began")) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith("SOURCE_DATE_EPOCH: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("given", ["0", "1700000000", "-1"])
def test_a_date_is_accepted(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    assert cli.guarded(lambda: 7) == 7


@pytest.mark.parametrize(
    "error", [MemoryError("std::bad_alloc"), ImportError("libx.so: failed to map segment from shared object")]
)
def test_memory_that_is_used_up_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise error

    assert cli.guarded(fail) == cli.INTERRUPTED
    said = capsys.readouterr().err
    assert said.startswith(f"memory is used up ({error}); ")
    assert said.count("\n") == 1


def test_an_import_that_fails_otherwise_is_no_full_memory() -> None:
    def fail() -> int:
        raise ImportError("no module")

    with pytest.raises(ImportError, match="no module"):
        cli.guarded(fail)


@pytest.mark.parametrize("command", ["ablate.status", "model.train"])
def test_a_current_folder_that_was_removed_is_one_line(command: str, tmp_path: Path) -> None:
    (gone := tmp_path / "gone").mkdir()
    arguments = ["latest"] if command == "ablate.status" else []
    program = f"import os, runpy, sys; os.rmdir({str(gone)!r}); sys.argv = ['x', *{arguments}]\n"
    program += f"runpy.run_module({command!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=gone, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == cli.BAD_INPUT
    assert re.fullmatch(r"current folder: (\.: )?it does not exist any more; change to one that exists\n", done.stderr)


def test_what_a_terminal_lacks_is_printed_as_a_code() -> None:
    """Tables and reports have other characters than ASCII."""
    unicode_off = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    program = "from ablate import cli; raise SystemExit(cli.guarded(lambda: print('2.5 \\u00b1 0.1') or 0))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **unicode_off},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (cli.DONE, "2.5 \\xb1 0.1\n"), done.stderr


@pytest.mark.slow  # tests/running/test_environment.py has what is forgotten
@pytest.mark.parametrize(
    "flags",
    [("--inline",), ("--set", "resources.workers=0"), ("--set", "resources.workers=1")],
    ids=["inline", "in Tune's process", "in a worker"],
)
def test_a_sweep_in_a_launchers_job_trains_alone(flags: tuple[str, ...], short: Path) -> None:
    """Also without a home, with Jupyter's backend for figures, few open files, and odd numbers of threads and GPUs."""
    done = started(
        "ablate.sweep", "short.yaml", "--results", "results", "--trials", "1", *flags,
        cwd=short, without=("HOME",), limit="-n 256", HOME="/nonexistent",
        MPLBACKEND="module://matplotlib_inline.backend_inline", CUDA_VISIBLE_DEVICES="-1", TMPDIR="/nonexistent",
        PYTHONIOENCODING="ascii", **{**SLURM, **TORCHRUN, **MPI, **ACCELERATE},
    )  # fmt: skip
    assert done.returncode == cli.DONE, done.stderr
    ledger = Ledger(short / "results" / "small")
    assert [row.status for row in ledger.rows()] == ["completed"]
    assert ledger.path("report", "report.md").is_file()


@pytest.mark.slow  # tests/model/test_ranks.py has the rule
def test_a_single_run_says_what_is_left_of_a_launcher(tmp_path: Path) -> None:
    done = started("model.train", "--set=preset=tiny", "--out", "out", cwd=tmp_path, WORLD_SIZE="4", SLURM_NTASKS="4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("WORLD_SIZE: 4: a launcher's variable")
    assert not tmp_path.joinpath("out").exists()
