"""Sizes of trials, corrections of them, and retries after an `oom`. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablate.scheduling.admission import (
    LARGER,
    MARGIN,
    MAX_WAITING,
    RETRIES,
    Admission,
    Sizes,
    Usage,
    share_of,
    smallest_config,
)
from ablate.scheduling.corrections import ASSUMED_BUSY, MAX_FACTOR, MIN_FACTOR, Corrections, memory_class
from ablate.scheduling.placement import Node
from ablate.spec.models import Resources
from ablate.trainers import Config
from ablate.trials.trial import Trial
from model.api import CONTEXT_GIB
from tests import study_files
from tests.fakes import ListSource, fake_trial
from tests.study_files import TRAINER, resolve

CARD_GIB = 24.0
TINY = resolve("tiny", {})


def of_seeds(peaks: Mapping[int, float]) -> Sizes:
    """Sizes by predicted peaks: seed -> GiB."""

    def predict(config: Config) -> float:
        return peaks[config.seed]

    return Sizes(Resources(), card_gib=CARD_GIB, predict=predict, trainer=TRAINER, turns=False)


def sizes(peak_gib: float = 6.0, *, card_gib: float = CARD_GIB, turns: bool = True, **asked: Any) -> Sizes:
    return Sizes(Resources(**asked), card_gib=card_gib, predict=lambda _: peak_gib, trainer=TRAINER, turns=turns)


def admission(own: Sizes, *, gpus: int = 1) -> Admission:
    return Admission([Node.of("here", cpus=64, gpus=gpus)], own)


def let_in(by: Admission, source: ListSource) -> list[Trial]:
    return list(iter(lambda: by.next(source), None))


# ---- sizes


def test_auto_is_the_share_that_holds_the_predicted_peak():
    need = sizes(6.0).need(TINY, predicted_gib=6.0)
    assert need.gpu == pytest.approx(6.0 * MARGIN / 24, abs=1e-4)
    assert need.gpu * 24 >= 6.0 * MARGIN
    assert need.busy == ASSUMED_BUSY
    assert share_of(40.0, card_gib=24) == 1.0


def test_resources_of_the_study_file_are_kept():
    for gpu in (0, 0.5, 1, 2):
        need = sizes(gpu=gpu, cpu=3).need(TINY, predicted_gib=6.0)
        assert (need.gpu, need.busy, need.cpu) == (gpu, None, 3)


def test_auto_is_zero_without_a_gpu_and_a_whole_gpu_for_each_of_several_workers():
    assert sizes(card_gib=0).predicted_gib(TINY) is None
    assert sizes(card_gib=0).need(TINY, predicted_gib=None).gpu == 0
    assert sizes(workers=2).need(TINY, predicted_gib=6.0).gpu == 1


def test_busy_time_is_not_counted_under_mps():
    assert sizes(turns=False).need(TINY, predicted_gib=6.0).busy is None


def test_a_trial_carries_its_share_and_its_prediction():
    by = admission(sizes(6.0))
    (trial, *_) = let_in(by, ListSource([fake_trial(0)]))
    assert trial.predicted_peak_gib == 6.0
    assert trial.gpu_fraction == pytest.approx(6.0 * MARGIN / 24, abs=1e-4)


def test_trials_of_one_size_are_drawn_only_when_they_can_start():
    source, by = ListSource([fake_trial(seed) for seed in range(20)]), admission(sizes(gpu=0.5))
    assert [trial.seed for trial in let_in(by, source)] == [0, 1]
    assert by.next(source) is None
    assert len(source._waiting) == 18, "a search draws with all results known"


def test_few_trials_wait_and_a_small_one_overtakes_them():
    peaks = {0: 2.0, 1: 16.0, **dict.fromkeys(range(2, 20), 12.0), 4: 3.0}
    own = of_seeds(peaks)
    source, by = ListSource([fake_trial(seed) for seed in range(20)]), admission(own)
    assert [trial.seed for trial in let_in(by, source)] == [0, 1, 4]
    assert len(source._waiting) == 15, "drawn: those three, and two that are too large for the rest"
    none_small = dict.fromkeys(range(2, 20), 12.0) | {0: 2.0, 1: 16.0}
    own = of_seeds(none_small)
    source, by = ListSource([fake_trial(seed) for seed in range(20)]), admission(own)
    assert [trial.seed for trial in let_in(by, source)] == [0, 1]
    assert len(source._waiting) == 20 - 2 - MAX_WAITING


def test_a_smaller_trial_is_drawn_while_a_large_first_one_runs():
    peaks = {0: 18.0, 1: 18.0, 2: 4.0, **dict.fromkeys(range(3, 20), 18.0)}
    own = of_seeds(peaks)
    source = ListSource([fake_trial(seed) for seed in range(20)])
    by = Admission([Node.of("here", cpus=64, gpus=1)], own, smallest=fake_trial(2).config)
    assert [trial.seed for trial in let_in(by, source)] == [0, 2]
    assert len(source._waiting) == 17, "no more are drawn once the smallest does not fit"


def test_the_smallest_configuration_is_of_the_space_or_an_arm(tmp_path: Path):
    searched = smallest_config(study_files.load(tmp_path))
    assert searched["model.knowledge_length"] == 4
    ablation = "ablation:\n  seeds: 2\n  exploratory: true\n  arms: {control: {model.memory: none}}\n"
    assert smallest_config(study_files.load(tmp_path, text=study_files.GOOD + ablation))["model.memory"] == "none"


def test_admission_is_done_once_no_running_trial_may_be_retried():
    source, by = ListSource([fake_trial(0)]), admission(sizes(gpu=1))
    (trial,) = let_in(by, source)
    assert not by.done, "it may run out of memory and be retried"
    by.ended(trial, None)
    assert by.next(source) is None
    assert by.done
    by.begin([])
    assert not by.done, "another source may have trials"


# ---- corrections


def test_a_memory_class_is_size_and_what_the_trainer_distinguishes():
    assert memory_class(TINY, predicted_gib=6.0) == memory_class(TINY, predicted_gib=6.1)
    assert memory_class(TINY, predicted_gib=6.0) != memory_class(TINY, predicted_gib=9.0)
    longer = resolve("tiny", {"train.gradient_checkpointing": "on"})
    assert memory_class(TINY, predicted_gib=6.0) != memory_class(longer, predicted_gib=6.0)


def test_a_higher_peak_counts_at_once_and_a_lower_one_at_the_end():
    learned, kind = Corrections(), memory_class(TINY, predicted_gib=4.0)
    assert learned.factor(kind) == 1.0
    learned.record_peak(kind, predicted_gib=4.0, measured_gib=3.0, final=False)
    assert learned.factor(kind) == 1.0, "its largest step may be yet to come"
    learned.record_peak(kind, predicted_gib=4.0, measured_gib=3.0, final=True)
    assert learned.factor(kind) == 0.75
    learned.record_peak(kind, predicted_gib=4.0, measured_gib=5.0, final=False)
    assert learned.factor(kind) == 1.25
    learned.record_peak(kind, predicted_gib=4.0, measured_gib=3.5, final=True)
    assert learned.factor(kind) == 1.25, "the largest of a class counts"
    assert learned.factor(memory_class(TINY, predicted_gib=9.0)) == 1.0


@pytest.mark.parametrize(("measured", "factor"), [(0.01, MIN_FACTOR), (400.0, MAX_FACTOR)])
def test_a_correction_is_bounded(measured: float, factor: float):
    learned, kind = Corrections(), memory_class(TINY, predicted_gib=4.0)
    learned.record_peak(kind, predicted_gib=4.0, measured_gib=measured, final=True)
    assert learned.factor(kind) == factor


def test_usage_prefers_nvmls_memory_to_torchs():
    assert Usage.of({"peak_reserved_gib": 4.0}, context_gib=CONTEXT_GIB).gib == 4.0 + CONTEXT_GIB
    assert (
        Usage.of({"peak_reserved_gib": 4.0, "nvml_used_gib": 4.7, "gpu_util_pct": 85}, context_gib=CONTEXT_GIB).gib
        == 4.7
    )
    assert Usage.of({"gpu_util_pct": 85}, context_gib=CONTEXT_GIB).busy == 0.85
    there = Usage("node", card="0", gib=4.7, busy=0.85)
    assert Usage.from_flat({**there.flat(), "tokens_seen": 3}) == there
    assert Usage.from_flat({"tokens_seen": 3}) is None


def test_later_trials_are_sized_by_the_usage_of_earlier_ones():
    own = sizes(6.0, turns=False)
    by, source = admission(own), ListSource([fake_trial(seed) for seed in range(2)])
    (first,) = let_in(by, ListSource([fake_trial(9)]))
    by.reported(first, Usage("here", "0", gib=9.0, busy=None))
    by.ended(first, None)
    by.begin([])
    second, *_ = let_in(by, source)
    assert second.gpu_fraction == pytest.approx(9.0 * MARGIN / 24, abs=1e-4)
    assert second.predicted_peak_gib == 6.0, "the recorded prediction stays uncorrected"


def test_rows_of_an_earlier_run_correct_sizes():
    own, trial = sizes(6.0), fake_trial(0)
    by = admission(own)
    row = study_files.row(replace(trial, predicted_peak_gib=6.0), metrics={"nvml_used_gib": 5.0})
    by.begin([row])
    assert own.learned.factor(memory_class(trial.config, predicted_gib=6.0)) == pytest.approx(5 / 6)


def test_a_pruned_trial_may_raise_a_size_but_not_lower_it():
    """Its final evaluation, which may use the most memory, was not measured."""
    own, trial = sizes(6.0), fake_trial(0)
    by, kind = admission(own), memory_class(trial.config, predicted_gib=6.0)
    for took, factor in ((3.0, 1.0), (9.0, 1.5)):
        row = study_files.row(replace(trial, predicted_peak_gib=6.0), status="pruned", metrics={"nvml_used_gib": took})
        by.begin([row])
        assert own.learned.factor(kind) == factor


def test_measured_busy_time_decides_how_many_trials_share_a_gpu():
    own = sizes(1.0)
    by, source = admission(own), ListSource([fake_trial(seed) for seed in range(9)])
    two = let_in(by, source)
    assert len(two) == 2, "each is assumed to keep the GPU busy for more than half of the time"
    for trial in two:
        by.reported(trial, Usage("here", "0", gib=None, busy=0.4))
    assert len(let_in(by, source)) == 3, "each keeps it busy for a fifth of the time: three more fill it"


# ---- after an oom


def test_a_retried_trial_is_first_in_the_queue_with_a_larger_share():
    by, source = admission(sizes(6.0, turns=False)), ListSource([fake_trial(seed) for seed in range(9)])
    first, *others = let_in(by, source)
    assert len(others) == 2
    assert by.try_larger(first)
    by.ended(others[0], None)
    again, *_ = let_in(by, source)
    assert again.trial_id == first.trial_id
    assert again.gpu_fraction == pytest.approx((first.gpu_fraction or 0) * LARGER, abs=1e-4)


def test_retries_are_bounded():
    by, source = admission(sizes(2.0, turns=False)), ListSource([fake_trial(0)])
    trial = by.next(source)
    for _ in range(RETRIES):
        assert trial is not None
        assert by.try_larger(trial)
        trial = by.next(source)
    assert trial is not None
    assert not by.try_larger(trial)
    by.ended(trial, None)
    assert by.next(source) is None
    assert by.done


@pytest.mark.parametrize(("gpu", "workers", "gpus"), [(0, 1, 2), (1, 1, 2), (2, 1, 2), (0.5, 2, 1)])
def test_a_trial_that_can_have_no_larger_share_is_not_retried(gpu: float, workers: int, gpus: int):
    by = admission(sizes(gpu=gpu, workers=workers), gpus=gpus)
    (trial,) = let_in(by, ListSource([fake_trial(0)]))
    assert not by.try_larger(trial)


def test_a_retry_raises_a_share_of_the_study_file_too():
    by, source = admission(sizes(gpu=0.5)), ListSource([fake_trial(0)])
    (trial,) = let_in(by, source)
    assert by.try_larger(trial)
    (again,) = let_in(by, source)
    assert again.gpu_fraction == 0.75


def test_a_retry_raises_the_size_of_later_trials_of_its_class():
    own = sizes(6.0, turns=False)
    by, source = admission(own), ListSource([fake_trial(seed) for seed in range(9)])
    first, *_ = let_in(by, source)
    by.try_larger(first)
    assert own.need(TINY, predicted_gib=6.0).gpu == pytest.approx((first.gpu_fraction or 0) * LARGER, abs=2e-4)


# ---- what a process may use


def test_the_allocators_limit_leaves_room_for_the_cuda_context(monkeypatch: pytest.MonkeyPatch):
    import torch

    from model.device import meters

    asked: list[float] = []
    meters.hold_to_share(0.5, context_gib=CONTEXT_GIB)
    assert asked == [], "nothing is limited without CUDA"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=20 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    meters.hold_to_share(0.5, context_gib=CONTEXT_GIB)
    assert asked == [pytest.approx((10 - CONTEXT_GIB) / 20)]


def test_nvml_memory_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch):
    import os

    import pynvml
    import torch

    from model.device import meters

    mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=3 * 2**30)

    def processes(_: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=1, usedGpuMemory=9 * 2**30), mine]

    monkeypatch.setattr(meters, "_nvml_handle", lambda _: "card")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", processes)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMPSComputeRunningProcesses", lambda _: [])
    assert meters.nvml_memory(torch.device("cuda")) == {"nvml_used_gib": 3.0}
    monkeypatch.setattr(os, "getpid", lambda: 7)
    assert meters.nvml_memory(torch.device("cuda")) == {}, "in another PID namespace NVML has another id"
    assert meters.nvml_memory(torch.device("cpu")) == {}
