"""The runner on Ray: one Tune experiment a phase, first in first out, as many trials at once as fit."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune import Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.trainable import wrap_function

from ablate.packing import fit
from ablate.plan import TrialSource
from ablate.ray_runner.board import Board
from ablate.ray_runner.cluster import connect
from ablate.ray_runner.reaper import reap_all
from ablate.ray_runner.searcher import TRIAL, SourceSearcher, failure_result
from ablate.ray_runner.trial import Orders, drive, run_name
from ablate.ray_runner.watchman import Watchman
from ablate.runner import GRACE_S, Halt, Listener
from ablate.trial import Desk
from model.api import train

if TYPE_CHECKING:
    from ablate.spec import StudySpec

_DRIVER = tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
"""A driver only waits, and must hold nothing that its worker needs: even 0.01 CPU each would leave no room for two
workers of one CPU on two. Tune refuses to hold nothing, so a driver holds a mark that every head node has."""

_RAY = Path(sys.executable).with_name("ray")
"""Ray's own command, of this environment."""


@dataclass(frozen=True)
class RayRunner:
    """Implements `Runner` on a cluster that is up."""

    study: str
    orders: Orders
    halt: Halt
    on_event: Listener
    dashboard: str | None = None

    @property
    def notice(self) -> str:
        """Where Ray's dashboard is, and how to get in."""
        if self.dashboard is None:
            return ""
        return f"dashboard: {self.dashboard} (it asks for a token: {_RAY} get-auth-token)"

    def run(self, source: TrialSource) -> None:
        """Train the trials of `source`, as many at once as the slots allow; see `Runner`."""
        searcher = SourceSearcher(
            source, desk=self.orders.desk, board=self.orders.board, halt=self.halt, on_event=self.on_event
        )
        try:
            tune.Tuner(
                tune.with_resources(_driver(self.orders), _DRIVER),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,  # the source says when there are no more
                    max_concurrent_trials=self.orders.slots.concurrent,
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=tune.RunConfig(
                    name=f"{self.study}-{time.time_ns():x}",
                    storage_path=self.orders.storage,
                    stop=_Brake(self.halt, board=self.orders.board, searcher=searcher),
                    verbose=0,
                ),
            ).fit()
        except _Overdue:
            pass  # what still runs goes down with Ray, and is gone on from
        finally:
            reap_all()


@contextmanager
def start(
    spec: StudySpec, desk: Desk, *, halt: Halt, on_event: Listener, address: str | None, gpus: int | None
) -> Iterator[RayRunner]:
    """A runner on a Ray of its own, or on the one at `address`. Raises BadInput where a trial does not fit on it."""
    storage = desk.ledger.path(".ray")  # all nodes of a cluster see results/, and perhaps nothing else
    shutil.rmtree(storage, ignore_errors=True)  # of a driver that was killed: Train would go on from its notes
    with connect(spec.study, address=address, gpus=gpus) as cluster:
        halt.renew()  # Ray takes SIGTERM for itself
        orders = Orders(
            desk,
            train=train,
            board=Board(f"{spec.study}-board", limits=desk.limits),
            slots=fit(spec.resources, cpus=cluster.cpus, gpus=cluster.gpus, cuda=cluster.cuda),
            storage=str(storage),
            cuda=cluster.cuda,
        )
        try:
            yield RayRunner(spec.study, orders=orders, halt=halt, on_event=on_event, dashboard=cluster.dashboard)
        finally:
            shutil.rmtree(storage, ignore_errors=True)


class _Overdue(KeyboardInterrupt):
    """Leaves Tune's loop at once: an orderly stop of trials that do not answer takes Tune half a minute."""


class _Brake(Stopper):
    """Passes an interruption on to the trials, and waits for those that have something to write down.

    Tune asks it several times a second; there is no other place in its loop to look at the halt.
    """

    def __init__(self, halt: Halt, *, board: Board, searcher: SourceSearcher) -> None:
        self._halt, self._board, self._searcher = halt, board, searcher
        self._since: float | None = None
        self._watchman = Watchman(board, condemn=searcher.condemn)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as with the searcher."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 - the signature of a stopper
        return False

    def stop_all(self) -> bool:
        if self._halt.reason is None:
            self._watchman.look()
            return False
        if self._since is None:
            self._since = time.monotonic()
            self._board.interrupt()
        if not self._searcher.busy or time.monotonic() - self._since > GRACE_S:
            raise _Overdue
        return False


def _driver(orders: Orders) -> type[tune.Trainable]:
    """Tune's trainable for these orders: an actor that the dashboard lists under its trial's name."""

    def driver(config: dict[str, Any]) -> dict[str, Any]:
        return failure_result(drive(config[TRIAL], orders))

    class TrialDriver(wrap_function(driver)):
        def __repr__(self) -> str:
            return self.trial_name or "trial"

    return TrialDriver


def _name(trial: TuneTrial) -> str:
    return run_name(trial.config[TRIAL])
