"""A full or read-only disk prints one line, fails no trial and keeps finished trials."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ablate import cli
from ablate.records import atomic_files
from ablate.records.ledger import Ledger
from tests import ROOT
from tests.commands.test_sweep import run as sweeping
from tests.fakes import Scripted
from tests.processes import command, wait_for


def full(monkeypatch: pytest.MonkeyPatch, *, after: int, code: int = errno.ENOSPC) -> None:
    """Let every write after the first `after` fail with `code`."""
    written, count = atomic_files.filled, 0

    def filled(path: Path, write: Callable[[Path], object]) -> Path:
        nonlocal count
        count += 1
        if count > after:
            raise OSError(code, os.strerror(code), str(path))
        return written(path, write)

    monkeypatch.setattr(atomic_files, "filled", filled)


@pytest.mark.parametrize("after", [10, 11, 12, 17, 18])  # the second trial's draw, claim, a report, samples, row
def test_a_full_disk_stops_the_study_and_fails_no_trial(
    after: int, space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(space.parent / "results" / "small")
    train = play()
    with pytest.MonkeyPatch.context() as patch:
        full(patch, after=after)
        assert sweeping(space) == cli.INTERRUPTED
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "1 of 3 trials have ended; resume with the same command and --resume" in said
    assert "Traceback" not in said
    finished = ledger.rows()
    assert [row.status for row in finished] == ["completed"]
    assert sweeping(space, "--resume") == cli.DONE
    assert [row.status for row in ledger.rows()] == ["completed"] * 3
    assert finished[0] in ledger.rows()
    assert len({config["train.lr"] for config in train.configs}) == 3, "the trial that met the full disk resumes"


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EFBIG], ids=["quota", "largest file"])
def test_another_limit_of_the_disk_stops_the_study_too(
    code: int, space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    play()
    with pytest.MonkeyPatch.context() as patch:
        full(patch, after=12, code=code)
        assert sweeping(space) == cli.INTERRUPTED
    assert os.strerror(code) in capsys.readouterr().err
    assert sweeping(space, "--resume") == cli.DONE


def test_results_that_become_read_only_print_one_line(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    play()
    full(monkeypatch, after=0, code=errno.EROFS)
    assert sweeping(space) == cli.INTERRUPTED
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Read-only file system" in said


@pytest.mark.parametrize("name", ["results/small/study.json", "results/small/deep/er/part.parquet"])
def test_what_cannot_be_written_leaves_no_folder(name: str, tmp_path: Path) -> None:
    def write(tmp: Path) -> None:
        tmp.write_text("half")
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    with pytest.raises(OSError, match="File too large"):
        atomic_files.replace(tmp_path / name, write)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "results").mkdir()
    with pytest.raises(OSError, match="File too large"):
        atomic_files.replace(tmp_path / name, write)
    assert [path.name for path in tmp_path.rglob("*")] == ["results"], "what was there stays"


def test_a_limit_of_a_files_size_leaves_nothing_of_a_new_study(space: Path) -> None:
    script = 'ulimit -f 2; exec "$@"'
    argv = ["bash", "-c", script, "bash", sys.executable, "-m", "ablate.sweep", str(space), "--inline"]
    done = subprocess.run(
        argv, cwd=space.parent, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert done.returncode == cli.INTERRUPTED, done.stderr
    assert "File too large" in done.stderr
    assert [path.name for path in space.parent.iterdir()] == [space.name]


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[None]:
    """A tmpfs at `folder`. Skips the test if this process may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write to `path` until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runner", ["--inline", "ray"])
def test_a_real_disk_that_fills_up_stops_the_study(runner: str, space: Path) -> None:
    """The real trainer on a small disk, which the test fills after the first trial."""
    results = space.parent / "results"
    flags = [str(space), "--results", "results", "--trials", "2", "--set", "base.train.tokens=40_000"]
    flags += ["--set", "base.train.report_every=10", "--set", "resources.cpu=2"]
    flags += ["--inline"] if runner == "--inline" else []
    ledger = Ledger(results / "small")
    with small_disk(results, megabytes=24):
        process = command(flags, cwd=space.parent)
        wait_for(lambda: bool(ledger.final_ids()) or process.poll() is not None, seconds=300)
        filler = results / "filler"
        fill(filler)
        out, err = process.communicate(timeout=300)
        assert process.returncode == cli.INTERRUPTED, out + err
        assert "No space left on device" in err
        assert "Traceback" not in err
        finished = ledger.rows()
        assert [row.status for row in finished] == ["completed"]
        filler.unlink()
        again = command([*flags, "--resume"], cwd=space.parent)
        out, err = again.communicate(timeout=400)
        assert again.returncode == cli.DONE, out + err
        assert [row.status for row in ledger.rows()] == ["completed"] * 2
        assert finished[0] in ledger.rows()


@pytest.mark.slow
def test_a_read_only_disk_prints_one_line(space: Path) -> None:
    results = space.parent / "results"
    with small_disk(results, megabytes=1):
        subprocess.run(["mount", "-o", "remount,ro", str(results)], check=True)
        done = command([str(space), "--results", "results", "--inline"], cwd=space.parent)
        out, err = done.communicate(timeout=60)
    assert (done.returncode, out, err.count("\n")) == (cli.BAD_INPUT, "", 1)
    assert "not writable" in err
