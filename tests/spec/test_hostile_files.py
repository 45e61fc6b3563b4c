"""Any study file and any --set gives a plan and exit 0, or one line and exit 2; never a traceback or a hang."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from ablate import sweep
from ablate.cli import BAD_INPUT, DONE, guarded
from tests import study_files
from tests.spec import mutations

CPU_S = 20.0
"""Most processor time for one file; the costliest plan of search_spaces/ takes a tenth of it."""

FEW = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
MANY = settings(FEW, max_examples=5_000)


@contextmanager
def bounded(cpu_s: float) -> Iterator[None]:
    """Raise TimeoutError after `cpu_s` seconds of processor time of this process."""

    def over(number: int, frame: object) -> None:  # noqa: ARG001 - the signature of a handler
        raise TimeoutError(f"more than {cpu_s:g} s")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def planned(path: Path, capsys: pytest.CaptureFixture[str], *, sets: Sequence[str] = ()) -> int:
    """The exit code of a dry run, after checks of its output."""
    argv = [str(path), "--dry-run", "--results", str(path.parent / "results")]
    for text in sets:
        argv.append(f"--set={text}")
    capsys.readouterr()
    with bounded(CPU_S):
        code = guarded(lambda: sweep.main(argv))
    out, err = capsys.readouterr()
    assert code in (DONE, BAD_INPUT)
    if code == BAD_INPUT:
        assert out == ""
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert err.strip()
        assert all(char.isprintable() for char in err[:-1]), err
        assert len(err) < 2_000
    else:
        assert err == ""
        assert all(char.isprintable() or char == "\n" for char in out)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "a dry run wrote something"
    return code


def check_file(data: bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    path = folder / "study.yaml"
    path.write_bytes(data)
    return planned(path, capsys)


@FEW
@given(data=mutations.bytes_of_files())
def test_a_mutated_file_is_planned_or_refused_in_one_line(
    data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    check_file(data, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@MANY
@given(data=mutations.bytes_of_files())
def test_five_thousand_mutated_files_are_planned_or_refused_in_one_line(
    data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    check_file(data, tmp_path, capsys)


@FEW
@given(text=mutations.settings())
def test_a_mutated_setting_is_planned_or_refused_in_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    planned(study_files.write(tmp_path), capsys, sets=[text])
