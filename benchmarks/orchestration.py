"""What a trial costs before it trains: `python -m benchmarks.orchestration [--json] [--quick]`.

Eight trials of no length, two at a time, through the runner that studies use, for each way of starting one; before and
after each a Tune function of nobody's that imports torch and reports once, which is what Ray itself costs here.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from tabulate import tabulate

from ablate import trainers
from ablate.records.ledger import Ledger
from ablate.running.ray.cluster import Cluster, connect
from ablate.running.ray.coordinator import Coordinator
from ablate.running.ray.run_context import RunContext
from ablate.running.ray.tuner import RayRunner
from ablate.running.runner import Halt
from ablate.running.trial import StudyContext
from ablate.scheduling.admission import Admission, Sizes
from ablate.scheduling.packing import fit
from ablate.spec.models import Resources
from ablate.trainers import Config, Report, Result, Verdict
from ablate.trials.source import ArmQueue
from ablate.trials.trial import Trial, trial_id
from tests.study_files import resolve

STUDY = "orchestration"
AT_ONCE = 2
LIMIT_S = 720.0
"""No round is begun later than this."""


@dataclass(frozen=True)
class Way:
    """A way of starting trials, and how many times a bare function's cost it may take."""

    workers: int
    reuse: bool
    at_most: float


WAYS = {
    "workers_0": Way(workers=0, reuse=False, at_most=1.2),
    "workers_0_reuse": Way(workers=0, reuse=True, at_most=0.6),
    "workers_1": Way(workers=1, reuse=True, at_most=4.5),
}


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    trials: int
    rounds: int


FULL, QUICK = Effort(trials=8, rounds=3), Effort(trials=2, rounds=1)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orchestration", description=__doc__)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--quick", action="store_true", help="two trials a way, once: does it run?")
    arguments = parser.parse_args(argv)
    found = measure(QUICK if arguments.quick else FULL)
    print(json.dumps(found, indent=1) if arguments.json else render(found))
    return 0


def measure(effort: Effort) -> dict[str, Any]:
    """Seconds a trial (medians of the rounds) and ratios to the bare functions just before and after."""
    began = time.monotonic()
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    ratios: dict[str, list[float]] = {name: [] for name in WAYS}
    bares: list[float] = []
    seen = sys.stderr  # Ray's context sends the stream elsewhere

    def note(name: str, value: float) -> float:
        print(f"{name}: {value:.2f} s a trial, load average {os.getloadavg()[0]:.1f}", file=seen, flush=True)
        return value

    with tempfile.TemporaryDirectory() as folder, connect(STUDY, cpus=AT_ONCE, gpus=0) as cluster:
        stage = _Stage(Path(folder), cluster=cluster, trials=effort.trials)
        _Stage(Path(folder) / "first", cluster=cluster, trials=1).bare()  # reads torch from the disk
        bares.append(note("bare", stage.bare()))
        while len(seconds["workers_1"]) < effort.rounds and time.monotonic() - began < LIMIT_S:
            for name, way in WAYS.items():
                seconds[name].append(note(name, stage.ours(way)))
                bares.append(note("bare", stage.bare()))
                ratios[name].append(seconds[name][-1] / statistics.mean(bares[-2:]))
    return {
        "per_trial_s": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio_vs_bare": {name: statistics.median(values) for name, values in ratios.items()},
        "bare_s": statistics.median(bares),
        "ratios": ratios,
        "trials": effort.trials,
        "at_once": AT_ONCE,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "seconds": time.monotonic() - began,
    }


def render(found: dict[str, Any]) -> str:
    """A table, each line with the bound that it is held to."""
    rows = [["a bare Tune function", found["bare_s"], 1.0, "", "", ""]]
    for name, way in WAYS.items():
        ratio = found["ratio_vs_bare"][name]
        each = ", ".join(f"{value:.2f}" for value in found["ratios"][name])
        held = "yes" if ratio <= way.at_most else "NO"
        rows.append([name, found["per_trial_s"][name], ratio, each, f"at most {way.at_most:g}", held])
    headers = ["way", "s a trial", "times bare", "each round", "bound", "held"]
    machine = f"{found['cores']} cores, load average {found['load_average']:.1f} at the end"
    said = f"{found['trials']} trials, {found['at_once']} at once; {machine}; {found['seconds']:.0f} s in all"
    return tabulate(rows, headers=headers, floatfmt=".2f") + f"\n{said}"


class _Stage:
    """Runs trials of no length; each call in a study's folder of its own."""

    def __init__(self, folder: Path, *, cluster: Cluster, trials: int) -> None:
        self._folder, self._cluster, self._trials = folder, cluster, trials
        self._runs = 0

    def bare(self) -> float:
        """Seconds a trial of Tune alone."""
        return self._timed(lambda place: _tune_alone(place, trials=self._trials))

    def ours(self, way: Way) -> float:
        """Seconds a trial of our runner. Raises AssertionError where a trial did not complete."""
        return self._timed(lambda place: self._study(place, way))

    def _study(self, place: Path, way: Way) -> None:
        ledger = Ledger(place)
        resources = Resources(cpu=1, gpu=0, workers=way.workers)
        sizes = Sizes(resources, card_gib=0.0, predict=lambda _: 0.0, trainer=trainers.load())
        run_context = RunContext(
            StudyContext(ledger, swanlab="disabled", objective="val_loss", git_commit=None),
            train=_train_nothing,
            coordinator=Coordinator(f"{STUDY}-{self._runs}"),
            slots=fit(resources, nodes=self._cluster.nodes, cuda=False),
            storage=str(ledger.path(".ray")),
            cuda=False,
            reuse=way.reuse,
        )
        trials = [_trial(seed) for seed in range(self._trials)]
        admission = Admission(copy.deepcopy(self._cluster.nodes), sizes)
        runner = RayRunner(STUDY, run_context=run_context, halt=Halt(), on_event=lambda _: None, admission=admission)
        runner.run(ArmQueue(trials, done=set()))
        assert [row.status for row in ledger.rows()] == ["completed"] * self._trials

    def _timed(self, run: Callable[[Path], None]) -> float:
        self._runs += 1
        begin_s = time.perf_counter()
        run(self._folder / str(self._runs))
        return (time.perf_counter() - begin_s) / self._trials


def _tune_alone(place: Path, *, trials: int) -> None:
    def function(config: dict[str, Any]) -> None:  # noqa: ARG001 - Tune's signature
        import torch  # noqa: F401 - what every trial has to do

        tune.report({"step": 1})

    results = tune.Tuner(
        tune.with_resources(function, {"cpu": 1}),
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=AT_ONCE),
        run_config=tune.RunConfig(storage_path=str(place), verbose=0),
    ).fit()
    assert results.num_terminated == trials


def _train_nothing(config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:  # noqa: ARG001
    """A trial of no length: it imports torch and reports once, as the bare function does."""
    import torch  # noqa: F401

    report(Report(step=1, tokens_seen=1, budget_tokens=1, wall_s=0.0, lr=0.0, losses=[0.0], metrics={}))
    return Result(Verdict.CONTINUE, step=1, tokens_seen=1, budget_tokens=1, data_hash="", device="cpu", metrics={})


def _trial(seed: int) -> Trial:
    config = resolve("tiny", {"train.seed": seed})
    name = trial_id("search", config, seed)
    return Trial(name, study=STUDY, arm="search", seed=seed, config=config, params={})


if __name__ == "__main__":
    sys.exit(main())
