"""Trials on a real Ray that do not end themselves: how they are ended, and that their resources are freed."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError

from ablate import cli
from ablate.records.ledger import Ledger
from ablate.running.limits import Limits
from ablate.running.output import Spool
from ablate.running.ray import reaper, trial, tuner
from ablate.running.ray.cluster import Cluster
from ablate.running.ray.coordinator import Coordinator
from ablate.running.ray.run_context import RunContext
from ablate.running.ray.worker_place import Place
from ablate.running.runner import Event
from ablate.running.trial import Failure, StudyContext
from ablate.scheduling.admission import LARGER
from ablate.scheduling.packing import fit
from ablate.scheduling.placement import Node
from ablate.spec.models import Resources
from benchmarks.instruments import victims
from tests.fakes import TOKENS_A_STEP, FakeTrain, fake_trial
from tests.processes import command, wait_for
from tests.running.ray.test_tuner import Stage, groups
from tests.study_files import SMALL

pytestmark = pytest.mark.timeout(600)
WHOLE = Resources(cpu=8, gpu=1)
"""A trial takes the whole cluster, so the next one starts only after its resources are freed."""
STALL_S = 0.3
WRONG = (Node.of("elsewhere", cpus=16, gpus=2),)
"""The nodes that the gate assumes, so that it admits a second trial that waits inside Ray."""


@pytest.fixture
def stage(ray_cluster: Cluster, context: StudyContext, tmp_path: Path) -> Stage:
    return Stage(ray_cluster, context=context, tmp_path=tmp_path)


def waiting_drivers() -> list[int]:
    """Process ids of the actors whose placement group still waits for resources."""
    from ray.util.state import list_actors

    rows = [reaper.PlacementGroupTableData.FromString(row) for row in reaper._accessor().get_placement_group_table()]
    makers = {row.creator_actor_id.hex() for row in rows if row.state == reaper.PlacementGroupTableData.PENDING}
    # Ray's dataclass hides its fields from type checkers.
    alive: list[Any] = list_actors(filters=[("state", "=", "ALIVE")], detail=True, limit=1000)
    return [actor.pid for actor in alive if actor.actor_id in makers]


@pytest.mark.slow  # tests/running/test_faults.py has such trials without Ray
@pytest.mark.parametrize("workers", [0, 1])
def test_a_trial_that_hangs_is_ended_and_its_resources_freed(stage: Stage, workers: int) -> None:
    """One trial sleeps in Python, one is stopped by a signal, one takes too long; then one completes."""
    stage.context = dataclasses.replace(stage.context, limits=Limits(max_s=150, stall_s=4))
    whole = Resources(cpu=8, gpu=1, workers=workers)
    source = stage.run({0: "silent", 1: "frozen", 2: "endless", 3: "complete"}, resources=whole)
    rows = {row.seed: row for row in source.rows}
    assert {seed: (row.status, row.error_kind) for seed, row in rows.items()} == {
        0: ("timeout", "Stalled"), 1: ("timeout", "Stalled"), 2: ("timeout", "TimeLimit"), 3: ("completed", None),
    }  # fmt: skip
    assert all(rows[seed].metrics == {} for seed in range(3))
    assert [rows[seed].attempt for seed in range(4)] == [1, 1, 1, 1], "none is tried again"
    assert rows[0].tokens_seen == TOKENS_A_STEP
    log = stage.context.ledger.log(rows[0].trial_id, attempt=1)
    assert log.startswith("Stalled: no report for")
    assert "silent from now on" in log
    assert "\x1b" not in log
    assert "fakes.py" in log, "its stack"
    frozen = int((stage.tmp_path / "frozen").read_text())
    assert not Path(f"/proc/{frozen}").exists()
    assert groups() == []


@pytest.mark.slow  # tests/running/ray/test_tuner.py kills the driver of a trial that trains
def test_a_driver_killed_while_its_group_is_pending_leaves_no_group(stage: Stage) -> None:
    """Only Ray knows this group, which would take the GPU as soon as it is free."""
    killed: list[int] = []

    def watch(event: Event) -> None:
        """Kill the driver of the trial that waits; which of the two waits is chance."""
        if event.kind == "reported" and not killed:
            killed.extend(waiting_drivers())
            if killed:
                os.kill(killed[0], signal.SIGKILL)
        elif event.kind == "reported" and "PENDING" not in [state for state, _ in groups()]:
            stage.tmp_path.joinpath("release").touch()

    stage.watch = watch
    source = stage.run(dict.fromkeys(range(2), "until_stopped"), resources=WHOLE, nodes=WRONG)
    assert len(killed) == 1
    assert stage.tmp_path.joinpath("release").exists(), "the group was removed while the sweep continued"
    assert [row.status for row in source.rows] == ["completed"] * 2, "it was tried again"
    assert groups() == []


@pytest.mark.slow  # the program never asks Tune for it
def test_a_trial_that_tune_stops_leaves_no_group(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program never asks Tune to stop a trial, because that leaked groups; the reaper must remove them anyway."""
    stopped: list[str] = []

    def stop_first(brake: object, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG001
        stopped.append(trial_id)
        return trial_id == stopped[0]

    monkeypatch.setattr(tuner._InterruptStopper, "__call__", stop_first)
    source = stage.run({0: "until_stopped", 1: "complete"}, resources=WHOLE)
    assert [(row.seed, row.status) for row in source.rows][-1] == (1, "completed")
    assert groups() == []


@pytest.mark.slow  # tests/running/test_inline.py has the row of such a trial
def test_a_process_whose_trial_ran_out_of_memory_trains_no_other(stage: Stage) -> None:
    """Such a trial writes no row itself: the driver decides whether it gets a larger share."""
    source = stage.run({0: "oom", 1: "complete"}, resources=Resources(cpu=8, gpu=1, workers=0))
    assert [row.status for row in source.rows] == ["oom", "completed"]
    assert source.rows[0].error.startswith("out of memory in a test")
    one, other = [(stage.context.ledger.checkpoint_dir(row.trial_id) / "pid").read_text() for row in source.rows]
    assert one != other


@pytest.mark.slow  # tests/running/test_inline.py has the edge of such a rank
def test_peers_of_a_rank_out_of_memory_are_ended_and_the_trial_gets_a_larger_share(stage: Stage) -> None:
    """The peers wait for it at the next report, and would wait until the stall limit."""
    stage.context = dataclasses.replace(stage.context, limits=Limits(stall_s=30))
    source = stage.run({0: "oom_of_rank_0"}, resources=Resources(gpu=0.25, workers=2))
    assert [(row.status, row.error) for row in source.rows] == [("completed", None)]
    assert (source.rows[0].attempt, source.rows[0].gpu_fraction) == (2, 0.25 * LARGER)
    assert groups() == []


@pytest.mark.slow  # tests/records/test_ledger.py has the fence
def test_peers_of_a_rank_that_was_replaced_are_ended(stage: Stage) -> None:
    """Another driver's newer attempt takes over. Rank 0 learns of it at its next report, where the other ranks wait."""

    def watch(event: Event) -> None:
        if event.kind == "reported" and stage.context.ledger.attempt(event.trial.trial_id) == 1:
            stage.context.ledger.claim(event.trial.trial_id)

    stage.watch = watch
    stage.context = dataclasses.replace(stage.context, limits=Limits(stall_s=60))
    began = time.monotonic()
    source = stage.run({0: "until_stopped"}, resources=Resources(gpu=0, workers=2))
    assert source.rows == []
    assert stage.context.ledger.rows() == [], "the newer attempt records the trial's end"
    assert time.monotonic() - began < 60
    assert groups() == []


@dataclass
class Group:
    """A worker group that is lost at its first fit. Its second collects overdue trials for twice `STALL_S`."""

    coordinator: Coordinator
    ran_out_of_memory: bool = False
    fits: int = 0
    overdue: set[str] = field(default_factory=set)

    def fit(self) -> None:
        self.fits += 1
        name, end = fake_trial(0).trial_id, time.monotonic() + 2 * STALL_S
        if self.fits == 1:
            self.coordinator.enter(name, place=Place("n", 1, "g", Spool(())))
            if self.ran_out_of_memory:
                self.coordinator.ran_out_of_memory(name, Failure("oom", kind="OverShare", message="holds too much"))
            raise WorkerGroupError("a node died", {0: RayActorError()})
        while time.monotonic() < end:  # it waits for resources
            self.overdue |= self.coordinator.overdue().keys()


@pytest.mark.parametrize("ran_out_of_memory", [False, True])
def test_limits_do_not_count_while_a_lost_trial_waits_for_resources(
    ran_out_of_memory: bool, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that ran out of memory is not retried: that caused its peers' deaths."""
    coordinator = Coordinator(f"coordinator-{stage.tmp_path.name}", limits=Limits(max_s=STALL_S, stall_s=STALL_S))
    group = Group(coordinator, ran_out_of_memory)
    monkeypatch.setattr(trial, "_trainer", lambda *_, **__: group)
    slots = fit(Resources(gpu=0), nodes=[Node.of("n", cpus=8, gpus=0)], cuda=False)
    run_context = RunContext(
        stage.context,
        train=FakeTrain({}, stage.tmp_path),
        coordinator=coordinator,
        slots=slots,
        storage="",
        cuda=False,
    )
    failure = trial.drive(fake_trial(0), run_context)
    assert (failure and failure.status, group.fits) == (("lost", 1) if ran_out_of_memory else (None, 2))
    assert group.overdue == set()


@pytest.mark.slow  # tests/running/ray/test_tuner.py interrupts two trials whose workers take all CPUs
def test_drivers_hold_no_cpus_that_workers_need(stage: Stage) -> None:
    """Workers take all CPUs at once; drivers that held CPUs would deadlock with them."""
    training: set[int] = set()

    def watch(event: Event) -> None:
        if event.kind == "reported":
            training.add(event.trial.seed)
        if len(training) == 2:
            stage.tmp_path.joinpath("release").touch()

    stage.watch = watch
    began = time.monotonic()
    source = stage.run(dict.fromkeys(range(2), "until_stopped"), resources=Resources(cpu=4, gpu=0))
    assert [row.status for row in source.rows] == ["completed"] * 2
    assert training == {0, 1}
    assert time.monotonic() - began < 120


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_studies_share_a_cluster(ray_cluster: Cluster, tmp_path: Path) -> None:  # noqa: ARG001 - it is up
    """Two sweeps at once with `--address`, each with its own coordinator and groups; neither ends the other's."""
    import ray

    space = tmp_path / "small.yaml"
    space.write_text(SMALL)
    address = ray.get_runtime_context().gcs_address
    flags = [str(space), "--results", "results", "--address", address, "--trials", "1"]
    flags += ["--set", "base.train.tokens=20_000"]
    both = [command([*flags, "--set", f"study={name}"], cwd=tmp_path) for name in ("one", "other")]
    for name, sweeping in zip(("one", "other"), both, strict=True):
        out, err = sweeping.communicate(timeout=600)
        assert sweeping.returncode == cli.DONE, out + err
        assert [row.status for row in Ledger(tmp_path / "results" / name).rows()] == ["completed"]
    assert groups() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)], ids=["once", "twice"])
def test_a_sweep_whose_trial_does_not_answer_ends_in_time(signals: tuple[int, ...], tmp_path: Path) -> None:
    """The real command and trainer, which reports too rarely to see the interruption. Slurm sends SIGTERM."""
    space = tmp_path / "small.yaml"
    space.write_text(SMALL)
    flags = [str(space), "--results", "results", "--trials", "2", "--set", "base.train.tokens=100_000_000"]
    ledger = Ledger(tmp_path / "results" / "small")
    sweeping = command([*flags, "--set", "base.train.report_every=100_000"], cwd=tmp_path)
    wait_for(lambda: bool(ledger.started_ids()) or sweeping.poll() is not None, seconds=240)
    began = time.monotonic()
    for number in signals:
        sweeping.send_signal(number)
        time.sleep(0.5)  # the system merges two signals at the same moment
    out, err = sweeping.communicate(timeout=60)
    took_s = time.monotonic() - began
    assert sweeping.returncode == cli.INTERRUPTED, err
    assert "Traceback" not in err
    assert took_s < 20
    assert out.splitlines()[-1].startswith("report: ")
    assert ledger.path("report", "report.md").is_file()
    wait_for(lambda: not victims.left(tmp_path), seconds=10)
