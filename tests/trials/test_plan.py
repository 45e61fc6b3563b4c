"""From a study to trials: ids, arms on the same seeds, concurrent trials, and the plan that --dry-run prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.errors import BadInput
from ablate.scheduling.packing import Slots, fit
from ablate.scheduling.placement import Gate, Need, Node
from ablate.spec.models import Resources, StudySpec
from ablate.study import dry_run
from ablate.trainers import Verdict
from ablate.trials import plan
from ablate.trials.plan import arm_trials
from ablate.trials.source import ArmQueue
from ablate.trials.trial import trial_id
from tests import study_files
from tests.study_files import GOOD

ARMS = GOOD + (
    "ablation:\n  seeds: 3\n  exploratory: true\n  arms:\n"
    "    no_memory: {model.memory: none}\n    slow: {model.ema_decay: 0.99}\n"
)

OTHER_VALUES = {
    "model.ngram_rows": 97,
    "model.values_num": 256,
    "model.values_heads": 2,
    "model.values_selected": 4,
    "model.memory_rows": "frozen",
    "train.memory_lr_scale": 2.0,
}
"""Of the parameters that came after the first release."""


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    return study_files.load(tmp_path, text=ARMS)


def test_a_trial_id_depends_on_arm_configuration_and_seed(study: StudySpec):
    base = study.base
    one = trial_id("search", base, 0)
    assert one == trial_id("search", replace(base, values=dict(base.values)), 0)
    others = {
        trial_id("baseline", base, 0),
        trial_id("search", base, 1),
        trial_id("search", base.override({"model.ema_decay": 0.5}), 0),
    }
    assert len(others | {one}) == 4
    assert len(one) == 12
    assert int(one, 16) >= 0


def test_a_later_parameter_is_in_the_id_only_where_it_changes_the_trial(study: StudySpec):
    """An earlier version's configuration, which lacks it, has the same id."""
    later = study.trainer.description.later_keys
    assert later
    earlier = replace(study.base, values={key: value for key, value in study.base.values.items() if key not in later})
    assert trial_id("search", earlier, 0) == trial_id("search", study.base, 0)
    assert set(study.base.chosen(later).items()) == set(later.items())
    others = {trial_id("search", study.base.override({key: value}), 0) for key, value in OTHER_VALUES.items()}
    assert OTHER_VALUES.keys() == later.keys()
    assert len(others | {trial_id("search", study.base, 0)}) == len(later) + 1


def test_parameters_are_recorded_as_the_configuration_holds_them(study: StudySpec):
    whole, real = (plan.search_trial(study, {"train.balance_loss_coef": value}) for value in (1, 1.0))
    assert repr(whole.params["train.balance_loss_coef"]) == "1.0"
    assert whole.trial_id == real.trial_id


def test_arms_and_baseline_share_seeds_that_exclude_the_searchs(study: StudySpec):
    trials = arm_trials(study, study.base)
    by_arm = {arm: [t.seed for t in trials if t.arm == arm] for arm in ("baseline", "no_memory", "slow")}
    assert all(seeds == [1, 2, 3] for seeds in by_arm.values())
    assert study.base["train.seed"] not in by_arm["baseline"]
    assert all(t.config["train.seed"] == t.seed for t in trials)
    assert len({t.trial_id for t in trials}) == 9
    assert [t.params for t in trials[:3]] == [{}, {"model.memory": "none"}, {"model.ema_decay": 0.99}]


def test_arms_override_the_given_base(study: StudySpec):
    best = study.base.override({"model.knowledge_length": 16})
    assert {t.config["model.knowledge_length"] for t in arm_trials(study, best)} == {16}


def test_an_arm_queue_asks_for_what_is_not_done_and_never_stops_a_trial(study: StudySpec):
    trials = arm_trials(study, study.base)
    queue = ArmQueue(trials, done={trials[0].trial_id, trials[2].trial_id})
    asked = []
    while (trial := queue.ask()) is not None:
        asked.append(trial.trial_id)
        assert queue.report(trial.trial_id, tokens=10**9, value=1e9) is Verdict.CONTINUE
        queue.tell(study_files.row(trial))
    assert asked == [trials[1].trial_id, *(t.trial_id for t in trials[3:])]
    assert queue.ask() is None
    assert queue.total == 9


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "cuda", "slots"),
    [
        ({}, 2, 0, False, Slots(1, 0, 1, 2)),
        ({}, 8, 2, True, Slots(1, 1, 1, 2)),
        ({}, 8, 1, False, Slots(1, 0, 1, 8)),  # logical GPUs, no CUDA: auto takes none
        ({"gpu": 0.5}, 8, 1, False, Slots(1, 0.5, 1, 2)),
        ({"gpu": 0.1}, 64, 1, True, Slots(1, 0.1, 1, 10)),
        ({"gpu": 0.4}, 64, 2, True, Slots(1, 0.4, 1, 4)),  # not five: shares of two GPUs do not add up
        ({"gpu": 2}, 64, 5, True, Slots(1, 2, 1, 2)),
        (
            {"gpu": 0.5, "workers": 2},
            64,
            2,
            False,
            Slots(1, 0.5, 2, 2),
        ),  # on logical GPUs ranks communicate through gloo
        (
            {"gpu": 0.6, "workers": 2},
            64,
            2,
            True,
            Slots(1, 0.6, 2, 1),
        ),  # two workers with more than half a GPU never share one
        ({"gpu": 0.5, "cpu": 4}, 4, 1, True, Slots(4, 0.5, 1, 1)),
        ({"cpu": 0.5}, 2, 0, False, Slots(0.5, 0, 1, 4)),
        ({"workers": 0}, 2, 0, False, Slots(1, 0, 0, 2)),  # its one process gets the resources of a worker
        ({"gpu": 0.5, "cpu": 2, "workers": 0}, 6, 1, True, Slots(2, 0.5, 0, 2)),
    ],
)
def test_the_scarcest_resource_decides_how_many_trials_fit(
    asked: dict[str, float], cpus: int, gpus: int, cuda: bool, slots: Slots
):
    here = Node.of("here", cpus=cpus, gpus=gpus)
    assert fit(Resources.model_validate(asked), nodes=[here], cuda=cuda) == slots


@pytest.mark.parametrize(
    ("asked", "sizes", "words"),
    [
        ({"gpu": 2}, [(2, 0)], "gpu: 1 x 2: only 0 GPUs available"),
        ({"cpu": 3}, [(2, 0)], "cpu: 1 x 3: only 2 CPUs available"),
        ({"cpu": 6}, [(4, 0)] * 2, "cpu: 1 x 6: 0 fit on 2 nodes (the largest has 4 CPUs and 0 GPUs"),
        ({"cpu": 2, "workers": 3}, [(3, 0)] * 2, "cpu: 3 x 2: 2 fit on 2 nodes (the largest has 3 CPUs and 0 GPUs"),
        ({"gpu": 4}, [(8, 2)] * 2, "gpu: 1 x 4: 0 fit on 2 nodes (the largest has 8 CPUs and 2 GPUs"),
        ({"gpu": 2, "workers": 3}, [(8, 3)] * 2, "gpu: 3 x 2: 2 fit on 2 nodes"),
        ({"gpu": 1, "cpu": 4}, [(64, 0), (2, 1)], "cpu: 1 x 4: 0 fit on 2 nodes (the largest has 2 CPUs and"),
    ],
)
def test_a_trial_that_does_not_fit_is_bad_input_that_names_what_is_missing(
    asked: dict[str, float], sizes: list[tuple[int, int]], words: str
):
    with pytest.raises(BadInput) as caught:
        fit(Resources.model_validate(asked), nodes=nodes(sizes), cuda=False)
    assert words in str(caught.value)


@given(
    cpu=st.sampled_from([0.5, 1.0, 2.0, 6.0]),
    gpu=st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0, 4.0]),
    workers=st.integers(0, 4),
    sizes=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=3),
)
def test_fit_counts_what_the_gate_starts_on_idle_nodes(
    cpu: float, gpu: float, workers: int, sizes: list[tuple[int, int]]
):
    """A trial that fits the sum of the nodes, but no single node, would wait for ever without an error."""
    asked, gate = Resources(cpu=cpu, gpu=gpu, workers=workers), Gate(nodes(sizes))
    for number in range(100):
        gate.offer(str(number), Need(cpu, gpu=gpu, workers=asked.processes))
    started = len(list(iter(gate.start, None)))
    try:
        assert fit(asked, nodes=nodes(sizes), cuda=False).concurrent == started
    except BadInput:
        assert started == 0


def test_two_workers_of_a_trial_must_not_share_a_cuda_gpu():
    with pytest.raises(
        BadInput, match=r"resources: gpu: 2 x 0\.5: .* NCCL refuses; use gpu: auto or 1, a GPU for each"
    ):
        fit(Resources(gpu=0.5, workers=2), nodes=nodes([(8, 2)]), cuda=True)


def nodes(sizes: Sequence[tuple[int, int]]) -> list[Node]:
    """A node for each (CPUs, GPUs)."""
    return [Node.of(f"node{n}", cpus=cpus, gpus=gpus) for n, (cpus, gpus) in enumerate(sizes)]


def test_a_trial_without_workers_costs_as_much_as_with_one(study: StudySpec):
    alone, with_one = (dry_run.describe(study, Slots(1, 0.5, workers, 2), card="RTX 4090") for workers in (0, 1))
    assert alone.gpu_hours == with_one.gpu_hours
    assert alone.hours == with_one.hours


def test_a_dry_run_plans_draws_the_costliest_corner_and_arms(study: StudySpec):
    run = dry_run.describe(study, Slots(1, 0.5, 1, 2), card="NVIDIA GeForce RTX 4090")
    kinds = [planned.kind for planned in run.trials]
    assert kinds == ["sampled"] * 4 + ["corner"] + ["arm"] * 9
    corner = run.trials[4]
    assert corner.trial.params["model.knowledge_length"] == 16
    assert corner.predicted_peak_gib == max(planned.predicted_peak_gib for planned in run.trials[:5])
    assert run.total == 6 + 9
    assert run.tokens == 15 * study.base["train.tokens"]  # pyright: ignore[reportOperatorIssue]
    answer = json.loads(dry_run.render_json(run))
    assert {"trials", "concurrent", "gpu_hours", "warnings"} <= answer.keys()
    assert {"id", "kind", "params", "predicted_peak_gib", "gpu_fraction"} <= answer["trials"][0].keys()
    assert answer["gpu_hours"] > 0
    assert run.trials[0].trial.trial_id in dry_run.render(run)


def test_a_dry_run_warns_of_a_missing_file_and_of_too_small_a_gpu(tmp_path: Path):
    data = "base.data={corpus: jsonl, train: none.jsonl}"
    sets = ("base.preset=seed-1.4.6", data, "early_stopping=null", "resources.gpu=0.25")
    study = study_files.load(tmp_path, *sets)
    run = dry_run.describe(study, Slots(1, 0.25, 1, 4), card="RTX 4090")
    assert any("no such file" in warning for warning in run.warnings)
    assert any("raise gpu" in warning for warning in run.warnings)
    assert run.tokens is run.hours is run.gpu_hours is None  # three epochs of a corpus that was not read
    assert "epochs" in dry_run.render(run)


def test_a_dry_run_warns_where_early_stopping_cannot_stop_a_trial(tmp_path: Path):
    study = study_files.load(tmp_path, "base.train.tokens=512")
    run = dry_run.describe(study, Slots(1, 0, 1, 2), card=None)
    assert any("nothing is ever stopped" in warning for warning in run.warnings)
