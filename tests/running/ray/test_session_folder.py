"""The folder of a private Ray is closed to others, and Ray's sockets fit in it wherever temporary files go."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from ablate import cli, sweep
from ablate.errors import BadInput
from ablate.running.ray import session_folder


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A temporary folder in which Ray's sockets do not fit."""
    folder = tmp_path / ("slurm-job-4711-" + "x" * 80)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.usefixtures("long")
def test_where_the_temporary_folders_path_is_long_a_short_one_is_taken() -> None:
    made = session_folder.make()
    try:
        assert made.parent == Path("/tmp")
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    finally:
        made.rmdir()


def test_a_short_temporary_folder_is_taken_up_to_the_longest_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    socket = len("/ablate-12345678/ray/session_2000-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="") as folder:
        fits = Path(folder) / ("x" * (107 - socket - len(folder) - 1))
        for path in (fits, fits.with_name(fits.name + "x")):
            path.mkdir()
            monkeypatch.setattr(tempfile, "tempdir", str(path))
            assert session_folder.parent() == (path if path == fits else Path("/tmp"))


def test_a_folder_that_cannot_be_written_to_is_not_taken(
    long: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session_folder, "_SHORT", (tmp_path / "nowhere", Path("/tmp")))
    assert session_folder.parent() == Path("/tmp")
    monkeypatch.setattr(session_folder, "_SHORT", (tmp_path / "nowhere",))
    with pytest.raises(BadInput, match=f"^TMPDIR: {os.fspath(long)[:100]}"):
        session_folder.parent()


@pytest.mark.usefixtures("long")
def test_a_sweep_that_finds_no_folder_says_so_and_writes_nothing(
    space: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session_folder, "_SHORT", ())
    before = sorted(space.parent.rglob("*"))
    assert cli.guarded(lambda: sweep.main([str(space), "--results", str(space.parent / "results")])) == cli.BAD_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("TMPDIR: ")
    assert err.count("\n") == 1
    assert sorted(space.parent.rglob("*")) == before
