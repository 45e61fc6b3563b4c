"""Trials on a real Ray: shares of a GPU, early ends, deaths, and freed placement groups."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray.tune.tune

from ablate.running.ray.cluster import Cluster
from ablate.running.ray.coordinator import Coordinator
from ablate.running.ray.run_context import RETRIES, RunContext
from ablate.running.ray.tuner import RayRunner, as_actor_deaths, signals_are_ours
from ablate.running.runner import Event, Halt
from ablate.running.trial import StudyContext
from ablate.scheduling.admission import Admission, Sizes
from ablate.scheduling.packing import fit
from ablate.scheduling.placement import Node
from ablate.spec.models import Resources
from tests.fakes import STEPS, TOKENS_A_STEP, Act, FakeTrain, ListSource, fake_trial
from tests.study_files import TRAINER

pytestmark = pytest.mark.timeout(600)  # bounds hangs: eleven worker groups start, on however few cores


@dataclass
class Stage:
    """A runner with everything that it needs; `watch` is called at every event."""

    cluster: Cluster
    context: StudyContext
    tmp_path: Path
    halt: Halt = field(default_factory=Halt)
    events: list[Event] = field(default_factory=list)
    watch: Callable[[Event], object] = id  # does nothing

    def run(
        self,
        acts: Mapping[int, Act],
        *,
        resources: Resources,
        stop_at: Mapping[int, int] | None = None,
        nodes: Sequence[Node] = (),
    ) -> ListSource:
        """Run one trial per act to its end. `nodes`: what the gate assumes instead of the cluster's nodes."""

        def on_event(event: Event) -> None:
            self.events.append(event)
            self.watch(event)

        run_context = RunContext(
            self.context,
            train=FakeTrain(acts, folder=self.tmp_path),
            coordinator=Coordinator(f"coordinator-{self.tmp_path.name}", limits=self.context.limits),
            slots=fit(resources, nodes=self.cluster.nodes, cuda=False),
            storage=str(self.tmp_path / ".ray"),
            cuda=False,
        )
        source = ListSource([fake_trial(seed) for seed in acts], stop_at=stop_at or {})
        sizes = Sizes(resources, card_gib=0.0, predict=lambda _: 0.0, trainer=TRAINER)
        admission = Admission(nodes or copy.deepcopy(self.cluster.nodes), sizes)
        RayRunner("fake", run_context=run_context, halt=self.halt, on_event=on_event, admission=admission).run(source)
        return source


@pytest.fixture
def stage(ray_cluster: Cluster, context: StudyContext, tmp_path: Path) -> Stage:
    return Stage(ray_cluster, context=context, tmp_path=tmp_path)


def groups() -> list[tuple[str, dict]]:
    """State and bundle of every placement group that was not removed."""
    from ray.util.placement_group import placement_group_table

    standing = [row for row in placement_group_table().values() if row["state"] != "REMOVED"]
    return [(row["state"], row["bundles"][0]) for row in standing]


HOW = pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
"""Trains in Tune's process (0, which starts sooner), or in a worker (1, the default)."""


def test_a_trial_completes_is_pruned_and_survives_a_kill(stage: Stage) -> None:
    """The ends of a study in which nothing is wrong but one death; the slow test below has all of them."""
    acts: dict[int, Act] = {0: "complete", 1: "until_stopped", 2: "killed_once"}
    source = stage.run(acts, resources=Resources(cpu=2, gpu=0, workers=0), stop_at={1: 3 * TOKENS_A_STEP})
    rows = {row.seed: row for row in source.rows}
    assert {seed: row.status for seed, row in rows.items()} == {0: "completed", 1: "pruned", 2: "completed"}
    assert rows[2].attempt == 2, "a killed worker's trial resumes as a second attempt"
    history = stage.context.ledger.history(rows[2].trial_id)
    assert history["step"].to_pylist() == list(range(1, STEPS + 1))
    assert stage.context.ledger.final_ids() == {row.trial_id for row in rows.values()}
    assert groups() == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_every_end_becomes_its_row(stage: Stage, workers: int) -> None:
    acts: dict[int, Act] = {
        0: "complete",
        1: "error",
        2: "nan",
        3: "oom",
        4: "until_stopped",
        5: "killed_once",
        6: "killed",
    }
    source = stage.run(acts, resources=Resources(cpu=2, gpu=0, workers=workers), stop_at={4: 3 * TOKENS_A_STEP})
    rows = {row.seed: row for row in source.rows}

    assert {seed: row.status for seed, row in rows.items()} == {
        0: "completed", 1: "error", 2: "nan", 3: "oom", 4: "pruned", 5: "completed", 6: "lost",
    }  # fmt: skip
    assert rows[1].error_kind == "ValueError"
    assert rows[1].error.startswith("a toy error")
    assert rows[3].error.startswith("out of memory in a test")
    assert rows[5].attempt == 2, "a killed worker's trial resumes as a second attempt"
    assert rows[6].attempt == 3, "no fourth attempt"
    assert workers or rows[6].tokens_seen > 0, "in Tune's process a report returns after it has arrived"
    assert [event.kind for event in stage.events if event.trial.seed == 5].count("started") == 1
    assert rows[6].metrics == {}
    assert rows[0].metrics["val_loss"] == pytest.approx(2.0 + 1 / STEPS)
    history = stage.context.ledger.history(rows[5].trial_id)
    assert history["step"].to_pylist() == list(range(1, STEPS + 1))
    assert stage.context.ledger.final_ids() == {row.trial_id for row in rows.values()}
    assert groups() == []


@HOW
def test_half_a_gpu_lets_two_trials_train_at_once_and_never_three(stage: Stage, workers: int) -> None:
    release, training, most = stage.tmp_path / "release", set(), 0

    def watch(event: Event) -> None:
        """Let the first two train until a third is pending, so that the GPU's limit is reached."""
        nonlocal most
        if event.kind == "reported":
            training.add(event.trial.seed)
        if event.kind == "ended":
            training.discard(event.trial.seed)
        most = max(most, len(training))
        states = [state for state, bundle in groups() if "GPU" in bundle]
        assert states.count("CREATED") <= 2
        if len(training) == 2 and states.count("PENDING") == 1:
            release.touch()

    stage.watch = watch
    wrong = [Node.of("elsewhere", cpus=8, gpus=2)]  # the gate admits all three, so only Ray limits the shares
    source = stage.run(
        dict.fromkeys(range(3), "until_stopped"), resources=Resources(gpu=0.5, workers=workers), nodes=wrong
    )

    assert release.exists(), "two held the GPU while one waited"
    assert most == 2
    assert [row.status for row in source.rows] == ["completed"] * 3
    spans = [(row.started_at, row.finished_at) for row in source.rows]
    assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) == 2
    assert groups() == []


@pytest.mark.slow  # tests/model/test_ranks.py has two ranks without Ray
def test_two_workers_train_one_trial_and_rank_0_writes(stage: Stage) -> None:
    source = stage.run({0: "complete", 1: "error"}, resources=Resources(gpu=0, workers=2))
    rows = {row.seed: row for row in source.rows}
    assert rows[0].status == "completed"
    assert rows[0].attempt == 1
    assert (rows[1].status, rows[1].error_kind) == ("error", "ValueError")
    assert "a toy error" in rows[1].error
    assert rows[1].attempt == 1, "an exception is not retried"


@HOW
def test_an_interruption_leaves_resumable_trials_and_no_groups(stage: Stage, workers: int) -> None:
    """One trial answers the interruption, one does not and is killed after the grace time; neither gets a row."""
    silent = stage.tmp_path / "silent"

    def watch(event: Event) -> None:
        if (
            event.kind == "reported"
            and silent.exists()
            and len({e.trial.seed for e in stage.events if e.progress}) == 2
        ):
            stage.halt._on_signal(2, None)

    stage.halt = OneSignal()
    stage.watch = watch
    resources = Resources(cpu=4, gpu=0, workers=workers)  # two trials take all eight CPUs; drivers need none
    source = stage.run({0: "until_stopped", 1: "silent", 2: "complete"}, resources=resources)
    assert source.rows == []
    assert stage.context.ledger.final_ids() == set()
    assert len(stage.context.ledger.started_ids()) == 2, "the third was never started"
    assert groups() == []


class OneSignal(Halt):
    """A halt whose second signal does not raise KeyboardInterrupt."""

    def _on_signal(self, number: int, frame: object) -> None:  # noqa: ARG002
        self._signalled = True


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 1 + RETRIES])
def test_a_trial_whose_driver_died_is_retried_and_leaves_no_group(deaths: int, stage: Stage) -> None:
    """The dashboard lists drivers under their study's name. A driver's workers end with it."""
    from ray.util.state import list_actors

    trial, killed = fake_trial(0), []

    def watch(event: Event) -> None:
        if event.kind != "reported" or event.trial.seed != 0:
            return
        if stage.context.ledger.attempt(trial.trial_id) <= len(killed):
            return  # a late report of the earlier attempt
        if len(killed) == deaths:
            stage.tmp_path.joinpath("release").touch()
            return
        # Ray's dataclass hides its fields from type checkers.
        named: list[Any] = list_actors(filters=[("state", "=", "ALIVE")], detail=True, limit=1000)
        drivers = [actor.pid for actor in named if actor.repr_name == "fake trials" and actor.pid not in killed]
        if drivers:
            killed.append(drivers[0])
            os.kill(drivers[0], signal.SIGKILL)

    stage.watch = watch
    whole = Resources(cpu=8, gpu=1)  # so that the next attempt begins only where the last one left nothing
    (row,) = stage.run({0: "until_stopped"}, resources=whole).rows
    assert len(killed) == deaths
    if deaths > RETRIES:
        assert (row.status, row.error_kind) == ("lost", "DriverDied")
        assert row.tokens_seen > 0
    else:
        assert (row.status, row.attempt) == ("completed", deaths + 1)
        steps = stage.context.ledger.history(trial.trial_id)["step"].to_pylist()
        assert steps == list(range(1, len(steps) + 1)), "it resumed from its checkpoint"
    assert groups() == []


@pytest.mark.slow  # the tests above start a process for each trial
def test_a_process_trains_trial_after_trial_until_one_fails(stage: Stage) -> None:
    acts: dict[int, Act] = {
        0: "complete",
        1: "until_stopped",
        2: "nan",
        3: "complete",
        4: "oom",
        5: "error",
        6: "complete",
    }
    one_at_a_time = Resources(cpu=8, gpu=0, workers=0)
    source = stage.run(acts, resources=one_at_a_time, stop_at={1: 2 * TOKENS_A_STEP})
    assert [row.status for row in source.rows] == [
        "completed",
        "pruned",
        "nan",
        "completed",
        "oom",
        "error",
        "completed",
    ]
    pids = [(stage.context.ledger.checkpoint_dir(row.trial_id) / "pid").read_text() for row in source.rows]
    assert pids[0] == pids[1] == pids[2], "kept after a trial that completed, and after one that was pruned"
    assert pids[3] == pids[4]
    assert len(set(pids)) == 4, "never after nan, oom or error"


@pytest.mark.slow  # tests/running/test_faults.py has failures of each kind without Ray
def test_a_failure_outside_the_trainer_is_an_error_with_its_text(stage: Stage) -> None:
    """The trial's samples cannot be written, because a file is where their folder should be."""
    stage.context.ledger.root.mkdir()
    stage.context.ledger.path("samples").write_text("a file")
    source = stage.run({0: "complete"}, resources=Resources(gpu=0, workers=0))
    assert [(row.status, row.attempt) for row in source.rows] == [("error", 1)]
    assert "samples" in source.rows[0].error


def test_a_kill_by_rays_memory_monitor_is_reported_and_ends_one_actor() -> None:
    """Without the patch Tune's actor manager ends the whole run at this error."""
    from ray.air.execution._internal import RayActorManager
    from ray.exceptions import ActorDiedError, OutOfMemoryError

    class Task:
        """The attributes of a tracked call that the manager reads here."""

        def __init__(self) -> None:
            self.errors: list[Exception] = []
            self.actor_id, self._on_stop = 1, None
            self._tracked_actor, self._on_error = self, lambda _, error: self.errors.append(error)

    class Manager(RayActorManager):
        def __init__(self) -> None:
            self._failed_actor_ids = set()

        def _cleanup_actor(self, tracked_actor: object) -> None:
            """Nothing was started."""

        def __del__(self) -> None:
            """Nothing was started."""

    task, told, killed = Task(), [], OutOfMemoryError("a node is low on memory")
    fail: Callable[[Any, Exception], None] = lambda task, error: Manager()._actor_task_failed(task, error)  # noqa: E731
    with pytest.raises(RuntimeError, match="unexpected exception"):
        fail(task, killed)
    with as_actor_deaths(told.append):
        fail(task, killed)
    assert told == [killed]
    assert [type(error) for error in task.errors] == [ActorDiedError] * 2, "the death of the actor, and of its task"
    with pytest.raises(RuntimeError, match="unexpected exception"):
        fail(task, killed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_tune_takes_no_signal_from_the_study(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals_are_ours():
        assert not ray.tune.tune._setup_signal_catching().is_set()
        assert signal.getsignal(number) is before
