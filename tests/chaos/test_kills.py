"""Kills at random moments, on a real Ray: `make chaos`, or `make chaos SEED=3`.

Twenty kills, five to a study. A life of a study is a sweep with --resume and what befalls it: a process is killed, or
signals arrive at its group. Whatever it is, no life leaves anything behind, every life ends as documented, and in the
end every trial has one final row.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Literal

import pytest

from ablate import cli
from tests.processes import wait_for
from tests.running.ray.real_sweep import Sweeps, check_end, signal_group, sweeps

SEED = int(os.environ.get("SEED", "0"))
STUDIES, KILLS = 4, int(os.environ.get("KILLS", "5"))

Fate = Literal["driver", "trial", "worker", "raylet", "gcs_server", "TERM", "INT INT", "TERM TERM TERM"]
FATES: tuple[Fate, ...] = ("driver", "trial", "worker", "raylet", "gcs_server", "TERM", "INT INT", "TERM TERM TERM")

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("number", range(STUDIES))
def test_no_kill_loses_or_leaves_anything(number: int, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    fates: list[Fate] = [FATES[kill % len(FATES)] for kill in range(STUDIES * KILLS)]
    dice.shuffle(fates)
    dice = random.Random(f"{SEED} {number}")
    with sweeps(tmp_path) as study:
        for fate in fates[number * KILLS : (number + 1) * KILLS]:
            live(study, fate, dice)
        last = study.start("--resume", "--set", "resources.workers=0")
        out, err = last.communicate(timeout=600)
        assert last.returncode == cli.DONE, out + err
        study.wait_until_nothing_is_left()
        rows = study.ledger.rows()
        assert sorted(row.trial_id for row in rows) == sorted(study.ledger.final_ids()), "one final row a trial"
        assert [row.status for row in rows] == ["completed"] * 4


def live(study: Sweeps, fate: Fate, dice: random.Random) -> None:
    """One sweep, from its start to its end."""
    # Trials start sooner in Tune's process; some lives have workers, whatever befalls them.
    workers = int(fate == "worker" or dice.random() < 0.25)
    sweeping = study.start("--resume", "--set", f"resources.workers={workers}")
    if fate in ("trial", "worker"):
        study.kill(fate, sweeping)  # as soon as there is one; the sweep goes on
        pause(study, sweeping, dice)
        interrupt(sweeping, [signal.SIGTERM])
    else:
        pause(study, sweeping, dice)
        if fate in ("driver", "raylet", "gcs_server"):
            study.kill(fate, sweeping)
        else:
            interrupt(sweeping, [signal.Signals[f"SIG{name}"] for name in fate.split()])
    if fate == "driver":
        sweeping.communicate(timeout=120)
        return  # the next start ends what is left
    if sweeping.poll() == cli.DONE:
        return  # the study was done before
    check_end(sweeping, line="has died (SIGKILL): " if fate in ("raylet", "gcs_server") else "interrupted: ")
    study.wait_until_nothing_is_left()


def pause(study: Sweeps, sweeping: subprocess.Popen[str], dice: random.Random) -> None:
    """A random while: Ray starts, trials start, trials train. Trials that are done end it sooner."""
    wait_for(lambda: any(study.temporary.iterdir()) or sweeping.poll() is not None, seconds=120)
    end, most = time.monotonic() + dice.uniform(0.0, 15.0), study.reports() + dice.randint(1, 60)
    while time.monotonic() < end and study.reports() < most and sweeping.poll() is None:
        time.sleep(0.1)


def interrupt(sweeping: subprocess.Popen[str], numbers: list[signal.Signals]) -> None:
    for number in numbers:
        signal_group(sweeping, number)
        time.sleep(0.3)  # the system merges two signals at the same moment
