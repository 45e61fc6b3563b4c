"""Trials on a real Ray: shares of a card, early ends, deaths, and what they leave behind."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ablate.admission import Admission, Sizes
from ablate.packing import fit
from ablate.placement import Node
from ablate.ray_runner.board import Board
from ablate.ray_runner.cluster import Cluster
from ablate.ray_runner.trial import Orders, run_name
from ablate.ray_runner.tuner import RayRunner
from ablate.runner import Event, Halt
from ablate.spec_models import Resources
from ablate.trial import Desk
from tests.fakes import STEPS, TOKENS_A_STEP, Act, FakeTrain, ListSource, fake_trial

pytestmark = pytest.mark.timeout(600)  # a bound on hangs: eleven worker groups start on whatever cores there are


@dataclass
class Stage:
    """A runner with everything around it; `watch` is called at every event."""

    cluster: Cluster
    desk: Desk
    tmp_path: Path
    halt: Halt = field(default_factory=Halt)
    events: list[Event] = field(default_factory=list)
    watch: Callable[[Event], object] = id  # nothing

    def run(
        self,
        acts: Mapping[int, Act],
        *,
        resources: Resources,
        stop_at: Mapping[int, int] | None = None,
        nodes: Sequence[Node] = (),
    ) -> ListSource:
        """Run one trial per act to its end; `nodes` is what the gate takes the cluster for."""

        def on_event(event: Event) -> None:
            self.events.append(event)
            self.watch(event)

        orders = Orders(
            self.desk,
            train=FakeTrain(acts, folder=self.tmp_path),
            board=Board(f"board-{self.tmp_path.name}"),
            slots=fit(resources, cpus=self.cluster.cpus, gpus=self.cluster.gpus, cuda=False),
            storage=str(self.tmp_path / ".ray"),
            cuda=False,
        )
        source = ListSource([fake_trial(seed) for seed in acts], stop_at=stop_at or {})
        sizes = Sizes(resources, card_gib=0.0, predict=lambda _: 0.0)
        admission = Admission(nodes or copy.deepcopy(self.cluster.nodes), sizes)
        RayRunner("fake", orders=orders, halt=self.halt, on_event=on_event, admission=admission).run(source)
        return source


@pytest.fixture
def stage(ray_cluster: Cluster, desk: Desk, tmp_path: Path) -> Stage:
    return Stage(ray_cluster, desk=desk, tmp_path=tmp_path)


def groups() -> list[tuple[str, dict]]:
    """State and bundle of every placement group of a worker that was not removed."""
    from ray.util.placement_group import placement_group_table

    standing = [row for row in placement_group_table().values() if row["state"] != "REMOVED"]
    return [(row["state"], row["bundles"][0]) for row in standing]


def test_every_end_becomes_its_row(stage: Stage) -> None:
    acts: dict[int, Act] = {
        0: "complete",
        1: "error",
        2: "nan",
        3: "oom",
        4: "until_told",
        5: "killed_once",
        6: "killed",
    }
    source = stage.run(acts, resources=Resources(cpu=2, gpu=0), stop_at={4: 3 * TOKENS_A_STEP})
    rows = {row.seed: row for row in source.rows}

    assert {seed: row.status for seed, row in rows.items()} == {
        0: "completed", 1: "error", 2: "nan", 3: "oom", 4: "pruned", 5: "completed", 6: "lost",
    }  # fmt: skip
    assert rows[1].error_kind == "ValueError"
    assert rows[1].error.startswith("a toy error")
    assert rows[3].error.startswith("the world is not enough")
    assert rows[5].attempt == 2, "a killed worker's trial goes on as a second attempt"
    assert rows[6].attempt == 3, "and is given up after the third"
    assert rows[6].metrics == {}
    assert rows[0].metrics["val_loss"] == pytest.approx(2.0 + 1 / STEPS)
    history = stage.desk.ledger.history(rows[5].trial_id)
    assert history["step"].to_pylist() == list(range(1, STEPS + 1))
    assert stage.desk.ledger.final_ids() == {row.trial_id for row in rows.values()}
    assert groups() == []


def test_half_a_card_lets_two_train_at_once_and_never_three(stage: Stage) -> None:
    release, training, most = stage.tmp_path / "release", set(), 0

    def watch(event: Event) -> None:
        """Let the first pair go on until two more stand in the queue, so that the card's limit is really tried."""
        nonlocal most
        if event.kind == "reported":
            training.add(event.trial.seed)
        if event.kind == "ended":
            training.discard(event.trial.seed)
        most = max(most, len(training))
        states = [state for state, bundle in groups() if "GPU" in bundle]
        assert states.count("CREATED") <= 2
        if len(training) == 2 and states.count("PENDING") == 2:
            release.touch()

    stage.watch = watch
    wrong = [Node.of("elsewhere", cpus=8, gpus=2)]  # the gate lets all four in: it is Ray that holds the card's shares
    source = stage.run(dict.fromkeys(range(4), "until_told"), resources=Resources(gpu=0.5), nodes=wrong)

    assert release.exists(), "two held the card while two waited for it"
    assert most == 2
    assert [row.status for row in source.rows] == ["completed"] * 4
    spans = [(row.started_at, row.finished_at) for row in source.rows]
    assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) == 2
    assert groups() == []


def test_two_workers_train_one_trial_and_rank_0_writes(stage: Stage) -> None:
    source = stage.run({0: "complete", 1: "error"}, resources=Resources(gpu=0, workers=2))
    rows = {row.seed: row for row in source.rows}
    assert rows[0].status == "completed"
    assert rows[0].attempt == 1
    assert (rows[1].status, rows[1].error_kind) == ("error", "ValueError")
    assert "a toy error" in rows[1].error
    assert rows[1].attempt == 1, "an exception is not retried"


def test_an_interruption_leaves_resumable_trials_and_no_groups(stage: Stage) -> None:
    """One trial answers the interruption, one is deaf and is killed after the grace; neither gets a row."""
    deaf = stage.tmp_path / "deaf"

    def watch(event: Event) -> None:
        if event.kind == "reported" and deaf.exists() and len({e.trial.seed for e in stage.events if e.progress}) == 2:
            stage.halt._on_signal(2, None)

    stage.halt = OneSignal()
    stage.watch = watch
    resources = Resources(cpu=4, gpu=0)  # two have all eight CPUs: drivers need none
    source = stage.run({0: "until_told", 1: "deaf", 2: "complete"}, resources=resources)
    assert source.rows == []
    assert stage.desk.ledger.final_ids() == set()
    assert len(stage.desk.ledger.started_ids()) == 2, "the third was never started"
    assert groups() == []


class OneSignal(Halt):
    """A halt that can be signalled often without the second meaning at once."""

    def _on_signal(self, number: int, frame: object) -> None:  # noqa: ARG002
        self._signalled = True


def test_a_dead_driver_is_a_lost_trial_that_leaves_no_group(stage: Stage) -> None:
    """The dashboard lists the driver under its trial's name; killed, it takes its workers along."""
    from ray.util.state import list_actors

    trial, killed = fake_trial(0), []

    def watch(event: Event) -> None:
        if event.kind == "reported" and not killed:
            # Ray's dataclass hides its fields from type checkers.
            named: list[Any] = list_actors(filters=[("state", "=", "ALIVE")], detail=True, limit=1000)
            killed.extend(actor.pid for actor in named if actor.repr_name == run_name(trial))
            os.kill(killed[0], signal.SIGKILL)

    stage.watch = watch
    source = stage.run({0: "until_told", 1: "complete"}, resources=Resources(cpu=8, gpu=1))
    assert [row.status for row in source.rows] == ["lost", "completed"], "the next trial finds the whole cluster free"
    assert source.rows[0].error_kind == "DriverDied"
    assert source.rows[0].tokens_seen > 0
    assert groups() == []
