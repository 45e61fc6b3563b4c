"""A process that trained before trains as a new one does: same losses, same metrics, bit for bit; memory's own peak."""

from __future__ import annotations

import copy
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from ablate.records.ledger import Ledger
from ablate.records.rows import TrialRow
from ablate.running.ray.cluster import Cluster
from ablate.running.ray.coordinator import Coordinator
from ablate.running.ray.run_context import RunContext
from ablate.running.ray.tuner import RayRunner
from ablate.running.runner import Halt
from ablate.running.trial import StudyContext, by_trainer
from ablate.scheduling.admission import Admission, Sizes
from ablate.scheduling.packing import fit
from ablate.spec.models import Resources
from ablate.trials.trial import Trial, trial_id
from model.api import METRICS
from model.device.meters import reset_peaks
from tests import study_files
from tests.fakes import ListSource
from tests.model.test_training import SMALL

MEASURED_IN_TIME = {"s", "tokens/s", "GiB", "ms"}


def trial(**overrides: Any) -> Trial:
    config = study_files.resolve("tiny", SMALL | {key.replace("__", "."): value for key, value in overrides.items()})
    return Trial(
        trial_id("search", config, config.seed),
        study="reuse",
        arm="search",
        seed=config.seed,
        config=config,
        params={},
    )


def losses(cluster: Cluster, folder: Path, trials: list[Trial]) -> tuple[list[list[float]], TrialRow]:
    """Train `trials` one after the other in one process of Tune's; the last one's losses and row."""
    ledger = Ledger(folder, study_files.METRICS)
    resources = Resources(cpu=8, gpu=0, workers=0)  # all there are: one at a time
    run_context = RunContext(
        StudyContext(ledger, swanlab="disabled", objective="val_loss", git_commit=None),
        train=by_trainer,
        coordinator=Coordinator(f"reuse-{folder.name}"),
        slots=fit(resources, nodes=cluster.nodes, cuda=False),
        storage=str(folder / ".ray"),
        cuda=False,
    )
    source = ListSource(trials)
    admission = Admission(
        copy.deepcopy(cluster.nodes), Sizes(resources, card_gib=0.0, predict=lambda _: 0.0, trainer=study_files.TRAINER)
    )
    RayRunner("reuse", run_context=run_context, halt=Halt(), on_event=lambda _: None, admission=admission).run(source)
    assert [(row.status, row.error) for row in source.rows] == [("completed", None)] * len(trials)
    history = ledger.history(trials[-1].trial_id)
    return history["losses"].to_pylist(), source.rows[-1]


@pytest.mark.slow  # a minute of training on Ray; tests/model/test_training.py repeats runs in one process
@pytest.mark.timeout(600)
def test_a_trial_in_a_used_process_equals_one_in_a_fresh_process(ray_cluster: Cluster, tmp_path: Path) -> None:
    """Before it run another memory, another precision, more threads, another seed: all that a process could keep."""
    before = [
        trial(model__memory="hybrid", train__precision="bf16", train__threads=2, train__seed=7),
        trial(model__memory="vector", train__precision="fp64", train__accumulation_steps=2, train__seed=8),
    ]
    last = trial(train__seed=3)
    used, used_row = losses(ray_cluster, tmp_path / "used", [*before, last])
    fresh, fresh_row = losses(ray_cluster, tmp_path / "fresh", [last])
    assert used == fresh
    assert sum(len(row) for row in used) == 12
    exact = [metric.name for metric in METRICS if metric.unit not in MEASURED_IN_TIME]
    assert {name: used_row.metrics.get(name) for name in exact} == {name: fresh_row.metrics.get(name) for name in exact}
    assert used_row.data_hash == fresh_row.data_hash


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_run_does_not_inherit_the_peak_of_the_one_before() -> None:
    unit = 1024
    held = bytearray(256 * 2**20)
    held[::4096] = b"x" * len(held[::4096])  # every page is there
    high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    del held
    reset_peaks()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit < high - 200 * 2**20
