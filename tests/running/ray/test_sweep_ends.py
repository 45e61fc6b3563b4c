"""The ends of the real command on a private Ray: one line, the report, exit code 130, and nothing is left."""

from __future__ import annotations

import contextlib
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablate import cli
from benchmarks.instruments.victims import Kind
from tests.processes import wait_for
from tests.running.ray.real_sweep import Sweeps, check_end, signal_group, sweeps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Sweeps]:
    with sweeps(tmp_path) as made:
        yield made


@pytest.mark.parametrize("kind", ["raylet", "gcs_server"])
def test_the_death_of_a_process_of_ray_ends_the_sweep_and_it_resumes(kind: Kind, study: Sweeps) -> None:
    sweeping = study.start()
    wait_for(lambda: study.reports() > 0 or sweeping.poll() is not None, seconds=300)
    assert study.kill(kind, sweeping)
    check_end(sweeping, line=f"{kind}, a process of Ray, has died (SIGKILL): ")
    study.wait_until_nothing_is_left()
    again = study.start("--resume")
    out, err = again.communicate(timeout=400)
    assert again.returncode == cli.DONE, out + err
    assert [row.status for row in study.ledger.rows()] == ["completed"] * 4
    study.wait_until_nothing_is_left()


STARTS, TRAINS = "Ray starts", "trials train"


@pytest.mark.parametrize(
    ("numbers", "when"),
    [
        ([signal.SIGTERM], TRAINS),
        ([signal.SIGTERM] * 2, STARTS),
        ([signal.SIGTERM] * 2, TRAINS),
        ([signal.SIGINT] * 5, TRAINS),
        ([signal.SIGHUP], STARTS),
        ([signal.SIGUSR1], TRAINS),
    ],
    ids=lambda given: given if isinstance(given, str) else "+".join(number.name for number in given),
)
def test_signals_to_the_group_end_the_sweep(numbers: list[signal.Signals], when: str, study: Sweeps) -> None:
    sweeping = study.start()
    if when == STARTS:
        wait_for(lambda: any(study.temporary.glob("ablate-*/ray/session_*")), seconds=300)
    else:
        wait_for(lambda: study.reports() > 0 or sweeping.poll() is not None, seconds=300)
    for number in numbers:
        signal_group(sweeping, number)
        time.sleep(0.3)  # the system merges two signals at the same moment
    check_end(sweeping, line="interrupted: ")
    study.wait_until_nothing_is_left()


def test_a_long_temporary_folder_is_no_obstacle(study: Sweeps) -> None:
    """Slurm's are long. Ray's folder then stands in /tmp, and is gone afterwards too."""
    long = study.temporary / ("slurm-job-4711-" + "x" * 80)
    long.mkdir()
    study.environment["TMPDIR"] = str(long)
    before = set(Path("/tmp").glob("ablate-*"))
    sweeping = study.start("--trials", "1", "--set", "base.train.tokens=20_000")
    modes: dict[Path, str] = {}
    while sweeping.poll() is None:
        for folder in set(Path("/tmp").glob("ablate-*")) - before:
            with contextlib.suppress(FileNotFoundError):
                modes[folder] = stat.filemode(folder.stat().st_mode)
        time.sleep(0.2)
    out, err = sweeping.communicate()
    assert sweeping.returncode == cli.DONE, out + err
    assert modes
    assert set(modes.values()) == {"drwx------"}
    assert not any(folder.exists() for folder in modes)
