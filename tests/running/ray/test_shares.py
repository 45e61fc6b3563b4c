"""Shares of different sizes on a real Ray, with a logical GPU and faked NVML values."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest

from ablate.records.ledger import Ledger
from ablate.running.ray import cluster
from ablate.running.ray.cluster import Cluster
from ablate.running.ray.coordinator import Coordinator
from ablate.running.ray.run_context import RunContext
from ablate.running.ray.tuner import RayRunner
from ablate.running.runner import Event, Halt
from ablate.running.trial import StudyContext, run_trial
from ablate.scheduling.admission import LARGER, MARGIN, Admission, Sizes
from ablate.scheduling.packing import fit
from ablate.spec.models import Resources
from ablate.trainers import Config, Verdict
from tests.fakes import FakeTrain, ListSource, fake_trial
from tests.study_files import METRICS, TRAINER

pytestmark = pytest.mark.timeout(900)  # bounds hangs: seven worker groups start, on however few cores

CARD_GIB = 24.0
NEIGHBOUR, GREEDY, HOPELESS = 0, 1, 2
PREDICTED = {NEIGHBOUR: 12.0, GREEDY: 3.0, HOPELESS: 2.0}
NVML = {GREEDY: (5.0, 20.0), HOPELESS: (30.0, 20.0)}


def predict(config: Config) -> float:
    return PREDICTED[config["train.seed"]]


@pytest.mark.slow  # tests/scheduling/test_admission.py has the same rules without Ray
def test_a_trial_over_its_share_gets_a_larger_one_and_its_neighbour_is_unaffected(
    ray_cluster: Cluster, context: StudyContext, tmp_path: Path
):
    """Three trials with shares of different sizes. GREEDY holds 5 GiB with a share of 3.15 GiB: its share grows by half
    twice, then it completes. HOPELESS holds more than a GPU and ends as `oom`. NEIGHBOUR trains meanwhile."""
    from ray.util.placement_group import placement_group_table

    release, side_by_side = tmp_path / "release", set()
    ended: dict[int, str] = {}

    def watch(event: Event) -> None:
        standing = [row["bundles"][0] for row in placement_group_table().values() if row["state"] == "CREATED"]
        shares = frozenset(round(bundle["GPU"], 4) for bundle in standing if "GPU" in bundle)
        assert sum(bundle["GPU"] for bundle in standing if "GPU" in bundle) <= 1 + 1e-6
        side_by_side.add(shares)
        if event.kind == "ended" and event.row is not None:
            ended[event.trial.seed] = event.row.status
        if ended.keys() >= {GREEDY, HOPELESS}:
            release.touch()

    resources = Resources(gpu="auto")
    train = FakeTrain({NEIGHBOUR: "real", GREEDY: "complete", HOPELESS: "complete"}, folder=tmp_path, nvml=NVML)
    run_context = RunContext(
        context,
        train=train,
        coordinator=Coordinator(f"coordinator-{tmp_path.name}"),
        slots=fit(resources, nodes=ray_cluster.nodes, cuda=False),
        storage=str(tmp_path / ".ray"),
        cuda=False,
        card_gib=CARD_GIB,
    )
    sizes = Sizes(resources, card_gib=CARD_GIB, predict=predict, trainer=TRAINER, turns=False)
    admission = Admission(copy.deepcopy(ray_cluster.nodes), sizes)
    neighbour = fake_trial(NEIGHBOUR, tokens=10_240, report_every=5)
    # The smallest comes first: the next trial is drawn only if one as small as the smallest so far could start.
    source = ListSource([fake_trial(HOPELESS), fake_trial(GREEDY), neighbour])
    RayRunner("fake", run_context=run_context, halt=Halt(), on_event=watch, admission=admission).run(source)

    rows = {row.seed: row for row in source.rows}
    assert len(source.rows) == 3, "the source gets one final row per trial"
    assert {seed: row.status for seed, row in rows.items()} == {0: "completed", 1: "completed", 2: "oom"}
    assert rows[GREEDY].gpu_fraction == pytest.approx(3.0 * MARGIN / CARD_GIB * LARGER**2, abs=3e-4)
    assert rows[GREEDY].attempt == 3
    assert rows[GREEDY].predicted_peak_gib == 3.0
    assert rows[GREEDY].metrics["val_loss"] == pytest.approx(2.0 + 1 / 5)
    assert rows[HOPELESS].attempt == 3
    assert "holds 30.00 GiB" in (rows[HOPELESS].error or "")
    assert rows[HOPELESS].error_kind == "OverShare"
    assert any({0.525, rows[GREEDY].gpu_fraction} <= shares for shares in side_by_side), "side by side on one GPU"
    assert rows[NEIGHBOUR].attempt == 1
    assert losses(context.ledger, neighbour.trial_id) == losses_alone(context, tmp_path)


def losses(ledger: Ledger, trial_id: str) -> list[float]:
    """The loss of every step."""
    return [loss for line in ledger.history(trial_id).to_pylist() for loss in line["losses"]]


def losses_alone(context: StudyContext, tmp_path: Path) -> list[float]:
    """The neighbour's losses when it trains alone and without Ray."""
    trial = fake_trial(NEIGHBOUR, tokens=10_240, report_every=5)
    quiet = StudyContext(
        Ledger(tmp_path / "alone", METRICS),
        swanlab="disabled",
        objective=context.objective,
        git_commit=context.git_commit,
    )
    assert run_trial(trial, context=quiet, tell=lambda _: Verdict.CONTINUE) is not None
    found = losses(quiet.ledger, trial.trial_id)
    assert len(found) == 20
    return found


def test_an_mps_daemon_is_found_where_its_pipes_are(tmp_path: Path):
    there = {cluster.MPS_PIPES: str(tmp_path)}
    assert not cluster.mps_is_up(there)
    (tmp_path / "nvidia-cuda-mps-control.pid").write_text(f"{os.getpid()}\n")
    assert cluster.mps_is_up(there)
    (tmp_path / "nvidia-cuda-mps-control.pid").write_text("4194304999")
    assert not cluster.mps_is_up(there), "left by a daemon that died"
    assert not cluster.mps_is_up({**there, **cluster.MPS_OFF})
