"""Sizes of trials, what is learned about them, and second tries after an `oom`. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablate.scheduling import mps
from ablate.scheduling.admission import AHEAD, LARGER, MARGIN, RETRIES, Admission, Sizes, Taken, least, share_of
from ablate.scheduling.corrections import ASSUMED_BUSY, LEAST, MOST, Corrections, memory_class
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


def test_auto_is_the_share_of_the_card_that_holds_the_predicted_peak():
    need = sizes(6.0).need(TINY, predicted_gib=6.0)
    assert need.gpu == pytest.approx(6.0 * MARGIN / 24, abs=1e-4)
    assert need.gpu * 24 >= 6.0 * MARGIN
    assert need.busy == ASSUMED_BUSY
    assert share_of(40.0, card_gib=24) == 1.0


def test_what_the_user_wrote_is_kept():
    for gpu in (0, 0.5, 1, 2):
        need = sizes(gpu=gpu, cpu=3).need(TINY, predicted_gib=6.0)
        assert (need.gpu, need.busy, need.cpu) == (gpu, None, 3)


def test_auto_is_nothing_without_a_card_and_a_card_each_for_several_workers():
    assert sizes(card_gib=0).predicted_gib(TINY) is None
    assert sizes(card_gib=0).need(TINY, predicted_gib=None).gpu == 0
    assert sizes(workers=2).need(TINY, predicted_gib=6.0).gpu == 1


def test_under_mps_time_is_not_counted():
    assert sizes(turns=False).need(TINY, predicted_gib=6.0).busy is None


def test_a_trial_carries_its_share_and_its_prediction():
    by = admission(sizes(6.0))
    (trial, *_) = let_in(by, ListSource([fake_trial(0)]))
    assert trial.predicted_peak_gib == 6.0
    assert trial.gpu_fraction == pytest.approx(6.0 * MARGIN / 24, abs=1e-4)


def test_trials_of_one_size_are_drawn_when_they_start():
    source, by = ListSource([fake_trial(seed) for seed in range(20)]), admission(sizes(gpu=0.5))
    assert [trial.seed for trial in let_in(by, source)] == [0, 1]
    assert by.next(source) is None
    assert len(source._waiting) == 18, "a search draws with all that is known by then"


def test_few_are_drawn_before_they_can_start_and_a_small_one_passes():
    peaks = {0: 2.0, 1: 16.0, **dict.fromkeys(range(2, 20), 12.0), 4: 3.0}
    own = Sizes(
        Resources(), card_gib=CARD_GIB, predict=lambda config: peaks[config["train.seed"]], trainer=TRAINER, turns=False
    )
    source, by = ListSource([fake_trial(seed) for seed in range(20)]), admission(own)
    assert [trial.seed for trial in let_in(by, source)] == [0, 1, 4]
    assert len(source._waiting) == 15, "drawn: those three, and two that are too large for what is left"
    nobody_small = dict.fromkeys(range(2, 20), 12.0) | {0: 2.0, 1: 16.0}
    own = Sizes(
        Resources(),
        card_gib=CARD_GIB,
        predict=lambda config: nobody_small[config["train.seed"]],
        trainer=TRAINER,
        turns=False,
    )
    source, by = ListSource([fake_trial(seed) for seed in range(20)]), admission(own)
    assert [trial.seed for trial in let_in(by, source)] == [0, 1]
    assert len(source._waiting) == 20 - 2 - AHEAD


def test_beside_a_first_large_trial_a_smaller_one_is_looked_for():
    peaks = {0: 18.0, 1: 18.0, 2: 4.0, **dict.fromkeys(range(3, 20), 18.0)}
    own = Sizes(
        Resources(), card_gib=CARD_GIB, predict=lambda config: peaks[config["train.seed"]], trainer=TRAINER, turns=False
    )
    source = ListSource([fake_trial(seed) for seed in range(20)])
    by = Admission([Node.of("here", cpus=64, gpus=1)], own, least=fake_trial(2).config)
    assert [trial.seed for trial in let_in(by, source)] == [0, 2]
    assert len(source._waiting) == 17, "and none is drawn where not even that one would fit"


def test_the_least_that_a_study_may_ask_for_is_looked_for_in_its_space_and_its_arms(tmp_path: Path):
    searched = least(study_files.load(tmp_path))
    assert searched["model.knowledge_length"] == 4
    ablation = "ablation:\n  seeds: 2\n  exploratory: true\n  arms: {control: {model.memory: none}}\n"
    assert least(study_files.load(tmp_path, text=study_files.GOOD + ablation))["model.memory"] == "none"


def test_it_is_done_when_nobody_could_come_back():
    source, by = ListSource([fake_trial(0)]), admission(sizes(gpu=1))
    (trial,) = let_in(by, source)
    assert not by.done, "it may run out of memory, and be tried again"
    by.ended(trial, None)
    assert by.next(source) is None
    assert by.done
    by.begin([])
    assert not by.done, "another phase asks another source"


# ---- corrections


def test_a_class_is_of_trials_that_are_wrong_together():
    assert memory_class(TINY, predicted_gib=6.0) == memory_class(TINY, predicted_gib=6.1)
    assert memory_class(TINY, predicted_gib=6.0) != memory_class(TINY, predicted_gib=9.0)
    longer = resolve("tiny", {"train.gradient_checkpointing": "on"})
    assert memory_class(TINY, predicted_gib=6.0) != memory_class(longer, predicted_gib=6.0)


def test_more_than_predicted_counts_at_once_and_less_at_the_end():
    learned, kind = Corrections(), memory_class(TINY, predicted_gib=4.0)
    assert learned.factor(kind) == 1.0
    learned.took(kind, predicted_gib=4.0, measured_gib=3.0, final=False)
    assert learned.factor(kind) == 1.0, "its largest step may be yet to come"
    learned.took(kind, predicted_gib=4.0, measured_gib=3.0, final=True)
    assert learned.factor(kind) == 0.75
    learned.took(kind, predicted_gib=4.0, measured_gib=5.0, final=False)
    assert learned.factor(kind) == 1.25
    learned.took(kind, predicted_gib=4.0, measured_gib=3.5, final=True)
    assert learned.factor(kind) == 1.25, "the largest of a class counts"
    assert learned.factor(memory_class(TINY, predicted_gib=9.0)) == 1.0


@pytest.mark.parametrize(("measured", "factor"), [(0.01, LEAST), (400.0, MOST)])
def test_a_correction_is_bounded(measured: float, factor: float):
    learned, kind = Corrections(), memory_class(TINY, predicted_gib=4.0)
    learned.took(kind, predicted_gib=4.0, measured_gib=measured, final=True)
    assert learned.factor(kind) == factor


def test_what_nvml_saw_counts_before_what_torch_reserved():
    assert Taken.of({"peak_reserved_gib": 4.0}, context_gib=CONTEXT_GIB).gib == 4.0 + CONTEXT_GIB
    assert (
        Taken.of({"peak_reserved_gib": 4.0, "nvml_used_gib": 4.7, "gpu_util_pct": 85}, context_gib=CONTEXT_GIB).gib
        == 4.7
    )
    assert Taken.of({"gpu_util_pct": 85}, context_gib=CONTEXT_GIB).busy == 0.85
    there = Taken("node", card="0", gib=4.7, busy=0.85)
    assert Taken.from_flat({**there.flat(), "tokens_seen": 3}) == there
    assert Taken.from_flat({"tokens_seen": 3}) is None


def test_later_trials_are_sized_by_what_earlier_ones_took():
    own = sizes(6.0, turns=False)
    by, source = admission(own), ListSource([fake_trial(seed) for seed in range(2)])
    (first,) = let_in(by, ListSource([fake_trial(9)]))
    by.reported(first, Taken("here", "0", gib=9.0, busy=None))
    by.ended(first, None)
    by.begin([])
    second, *_ = let_in(by, source)
    assert second.gpu_fraction == pytest.approx(9.0 * MARGIN / 24, abs=1e-4)
    assert second.predicted_peak_gib == 6.0, "the ledger keeps what was predicted beside what was taken"


def test_an_earlier_run_of_the_study_is_learned_from():
    own, trial = sizes(6.0), fake_trial(0)
    by = admission(own)
    row = study_files.row(replace(trial, predicted_peak_gib=6.0), metrics={"nvml_used_gib": 5.0})
    by.begin([row])
    assert own.learned.factor(memory_class(trial.config, predicted_gib=6.0)) == pytest.approx(5 / 6)


def test_a_trial_that_was_stopped_raises_a_size_and_lowers_none():
    """It was never measured at its end, where it may hold most of all."""
    own, trial = sizes(6.0), fake_trial(0)
    by, kind = admission(own), memory_class(trial.config, predicted_gib=6.0)
    for took, factor in ((3.0, 1.0), (9.0, 1.5)):
        row = study_files.row(replace(trial, predicted_peak_gib=6.0), status="pruned", metrics={"nvml_used_gib": took})
        by.begin([row])
        assert own.learned.factor(kind) == factor


def test_how_busy_cards_were_decides_how_many_share_one():
    own = sizes(1.0)
    by, source = admission(own), ListSource([fake_trial(seed) for seed in range(9)])
    two = let_in(by, source)
    assert len(two) == 2, "assumed to keep a card busy for more than half of the time"
    for trial in two:
        by.reported(trial, Taken("here", "0", gib=None, busy=0.4))
    assert len(let_in(by, source)) == 3, "each is busy for a fifth of the time: three more fill the card"


# ---- after an oom


def test_a_trial_that_ran_out_waits_first_of_all_for_a_larger_share():
    by, source = admission(sizes(6.0, turns=False)), ListSource([fake_trial(seed) for seed in range(9)])
    first, *others = let_in(by, source)
    assert len(others) == 2
    assert by.try_larger(first)
    by.ended(others[0], None)
    again, *_ = let_in(by, source)
    assert again.trial_id == first.trial_id
    assert again.gpu_fraction == pytest.approx((first.gpu_fraction or 0) * LARGER, abs=1e-4)


def test_tries_are_bounded():
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
def test_what_can_have_no_larger_share_is_not_tried_again(gpu: float, workers: int, gpus: int):
    by = admission(sizes(gpu=gpu, workers=workers), gpus=gpus)
    (trial,) = let_in(by, ListSource([fake_trial(0)]))
    assert not by.try_larger(trial)


def test_a_share_of_the_users_own_is_raised_too():
    by, source = admission(sizes(gpu=0.5)), ListSource([fake_trial(0)])
    (trial,) = let_in(by, source)
    assert by.try_larger(trial)
    (again,) = let_in(by, source)
    assert again.gpu_fraction == 0.75


def test_those_like_it_start_larger():
    own = sizes(6.0, turns=False)
    by, source = admission(own), ListSource([fake_trial(seed) for seed in range(9)])
    first, *_ = let_in(by, source)
    by.try_larger(first)
    assert own.need(TINY, predicted_gib=6.0).gpu == pytest.approx((first.gpu_fraction or 0) * LARGER, abs=2e-4)


# ---- what a process may take


def test_the_allocators_part_of_a_share_leaves_the_context_its_own(monkeypatch: pytest.MonkeyPatch):
    import torch

    from model import meters

    asked: list[float] = []
    meters.hold_to_share(0.5, context_gib=CONTEXT_GIB)
    assert asked == [], "nothing to hold without CUDA"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=20 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    meters.hold_to_share(0.5, context_gib=CONTEXT_GIB)
    assert asked == [pytest.approx((10 - CONTEXT_GIB) / 20)]


def test_nvml_tells_what_this_process_holds(monkeypatch: pytest.MonkeyPatch):
    import os

    import pynvml
    import torch

    from model import meters

    mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=3 * 2**30)

    def processes(_: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=1, usedGpuMemory=9 * 2**30), mine]

    monkeypatch.setattr(meters, "_nvml_handle", lambda _: "card")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", processes)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMPSComputeRunningProcesses", lambda _: [])
    assert meters.nvml_memory(torch.device("cuda")) == {"nvml_used_gib": 3.0}
    monkeypatch.setattr(os, "getpid", lambda: 7)
    assert meters.nvml_memory(torch.device("cuda")) == {}, "another namespace: our number is not NVML's"
    assert meters.nvml_memory(torch.device("cpu")) == {}


def test_an_mps_daemon_is_found_where_its_pipes_are(tmp_path: Path):
    import os

    there = {mps.PIPES: str(tmp_path)}
    assert not mps.is_up(there)
    (tmp_path / "nvidia-cuda-mps-control.pid").write_text(f"{os.getpid()}\n")
    assert mps.is_up(there)
    (tmp_path / "nvidia-cuda-mps-control.pid").write_text("4194304999")
    assert not mps.is_up(there), "left by a daemon that died"
    assert not mps.is_up({**there, **mps.OFF})
