"""The search tells Optuna how trials ended, never repeats a trial, and survives a dead driver and a damaged journal."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ablate.records.ledger import Ledger
from ablate.records.rows import Status, TrialRow
from ablate.search import samplers
from ablate.search.source import Search, preview
from ablate.spec.models import StudySpec
from ablate.trainers import Verdict
from ablate.trials.trial import Trial
from tests import study_files
from tests.study_files import report

NO_ASHA = "early_stopping=null"


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    return study_files.load(tmp_path)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "results" / "tides")


def end(source: Search, ledger: Ledger, trial: Trial, *, status: Status = "completed", loss: float = 2.0) -> TrialRow:
    """Record a trial's end in the ledger and tell the search."""
    row = study_files.row(trial, status=status, attempt=ledger.claim(trial.trial_id), metrics={"val_loss": loss})
    ledger.finish(row)
    source.tell(row)
    return row


def asked(source: Search) -> Trial:
    """The next trial; there must be one."""
    trial = source.ask()
    assert trial is not None
    return trial


def journal(ledger: Ledger) -> list[FrozenTrial]:
    """The trials in Optuna's journal, read from the file."""
    storage = JournalStorage(JournalFileBackend(str(ledger.path("optuna.journal"))))
    return optuna.load_study(study_name="tides", storage=storage).get_trials()


def test_a_search_draws_as_many_different_trials_in_range_as_asked(study: StudySpec, ledger: Ledger):
    source = Search(study, ledger)
    trials = []
    while (trial := source.ask()) is not None:
        trials.append(trial)
        end(source, ledger, trial, loss=2.0 - trial.params["model.ema_decay"])
    assert len(trials) == len({trial.trial_id for trial in trials}) == source.total == 6
    for trial in trials:
        assert 0.3 <= trial.params["model.ema_decay"] <= 0.999
        assert trial.config["model.ema_decay"] == trial.params["model.ema_decay"]
        assert trial.params["model.knowledge_length"] in (4, 8, 16)
        assert (trial.arm, trial.seed) == ("search", study.base["train.seed"])
    assert source.ask() is None


def test_startup_points_are_sobol_points_and_deterministic(study: StudySpec, ledger: Ledger):
    source = Search(study, ledger)
    first = [asked(source) for _ in range(4)]
    assert [trial.trial_id for trial in first] == [trial.trial_id for trial in preview(study, count=4)]
    # The first four points of a scrambled Sobol sequence lie in different quarters of every axis.
    drawn = [samplers.encode(study.search, trial.params)["1-model.ema_decay"] for trial in first]
    distribution = samplers.space(study.search)["1-model.ema_decay"]
    assert isinstance(distribution, optuna.distributions.FloatDistribution)
    span = distribution.high / distribution.low
    quarters = sorted(int(4 * math.log(value / distribution.low, span)) for value in drawn)
    assert quarters == [0, 1, 2, 3]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "sobol"])
def test_every_sampler_draws(sampler: str, tmp_path: Path, ledger: Ledger):
    source = Search(study_files.load(tmp_path, f"optimizer.sampler={sampler}"), ledger)
    for _ in range(6):
        end(source, ledger, asked(source))
    assert source.ask() is None


def test_the_gaussian_process_draws_no_point_twice_and_avoids_pruned_regions(tmp_path: Path, ledger: Ledger):
    """The loss is a bowl in ema_decay, and its worse half is pruned at the first report."""
    source = Search(study_files.load(tmp_path, "optimizer.sampler=gp", "optimizer.trials=14"), ledger)
    distances = []
    for _ in range(14):
        trial = asked(source)
        distance = abs(math.log10(1 - float(trial.params["model.ema_decay"])) + 2)  # lowest at a decay of 0.99
        distances.append(distance)
        source.report(trial.trial_id, tokens=1_000, value=3.0 + distance)
        stopped = distance > 0.5
        end(source, ledger, trial, status="pruned" if stopped else "completed", loss=2.0 + stopped + distance)
    drawn = [trial.params for trial in journal(ledger)]
    assert len({str(sorted(params.items())) for params in drawn}) == len(drawn) == 14
    assert max(distances[-6:]) < max(distances[:4])
    assert sum(distances[-6:]) / 6 < 0.7 * sum(distances[:4]) / 4


def test_optuna_is_told_how_each_trial_ended(study: StudySpec, ledger: Ledger):
    source = Search(study, ledger)
    trials = [asked(source) for _ in range(5)]
    source.report(trials[1].trial_id, tokens=500, value=3.0)
    end(source, ledger, trials[0], loss=1.5)
    end(source, ledger, trials[1], status="pruned", loss=3.0)
    end(source, ledger, trials[2], status="nan")
    end(source, ledger, trials[3], status="lost")
    row = study_files.row(trials[4], attempt=ledger.claim(trials[4].trial_id), metrics={"perplexity": 9.0})
    source.tell(row)  # completed, but without the objective
    told = journal(ledger)
    fail = TrialState.FAIL
    assert [trial.state for trial in told] == [TrialState.COMPLETE, TrialState.PRUNED, fail, fail, fail]
    assert told[0].value == 1.5
    assert told[1].intermediate_values == {500: 3.0}
    assert [trial.user_attrs["trial_id"] for trial in told] == [trial.trial_id for trial in trials]


def test_asha_stops_the_worse_trial_at_a_rung(study: StudySpec, ledger: Ledger):
    source = Search(study, ledger)
    good, bad = asked(source), asked(source)
    assert source.report(good.trial_id, tokens=900, value=2.0) is Verdict.CONTINUE
    assert source.report(bad.trial_id, tokens=900, value=3.0) is Verdict.CONTINUE  # before the rung
    assert source.report(good.trial_id, tokens=1_000, value=2.0) is Verdict.CONTINUE
    assert source.report(bad.trial_id, tokens=1_000, value=3.0) is Verdict.STOP


def test_a_trial_is_not_stopped_at_the_end_of_its_budget_nor_without_a_value(study: StudySpec, ledger: Ledger):
    source = Search(study, ledger)
    good, bad = asked(source), asked(source)
    source.report(good.trial_id, tokens=1_000, value=2.0)
    assert source.report(bad.trial_id, tokens=1_000, value=None) is Verdict.CONTINUE
    budget = bad.config["train.tokens"]
    assert budget is not None
    assert source.report(bad.trial_id, tokens=budget, value=3.0) is Verdict.CONTINUE


def test_a_late_report_and_a_second_row_are_ignored(study: StudySpec, ledger: Ledger):
    source = Search(study, ledger)
    trial = asked(source)
    row = end(source, ledger, trial)
    source.tell(row)
    assert source.report(trial.trial_id, tokens=1_000, value=9.0) is Verdict.CONTINUE
    (told,) = journal(ledger)
    assert told.value == 2.0


def test_several_objectives_are_all_told_and_never_stop_a_trial(tmp_path: Path, ledger: Ledger):
    sets = ("objective=[{metric: val_loss}, {metric: tokens_per_s}]", NO_ASHA)
    source = Search(study_files.load(tmp_path, *sets), ledger)
    one, other = asked(source), asked(source)
    assert source.report(one.trial_id, tokens=1_000, value=2.0) is Verdict.CONTINUE
    measured = {"val_loss": 2.0, "tokens_per_s": 100.0}
    source.tell(study_files.row(one, attempt=ledger.claim(one.trial_id), metrics=measured))
    source.tell(study_files.row(other, attempt=ledger.claim(other.trial_id), metrics={"val_loss": 2.0}))
    told = journal(ledger)
    assert told[0].values == [2.0, 100.0]
    assert told[1].state is TrialState.FAIL


def test_a_repeated_draw_gets_the_value_of_its_first_until_every_point_is_drawn(tmp_path: Path, ledger: Ledger):
    sets = ("search={model.knowledge_length: {choice: [4, 8, 16]}}", "optimizer.trials=9", NO_ASHA)
    source = Search(study_files.load(tmp_path, *sets), ledger)
    lengths = []
    while (trial := source.ask()) is not None:
        lengths.append(trial.params["model.knowledge_length"])
        end(source, ledger, trial, loss=float(lengths[-1]))
    assert sorted(lengths) == [4, 8, 16]
    assert source.total == 3
    assert not source.exhausted, "the points were counted, so nothing was drawn in vain"
    for told in journal(ledger):
        assert told.value == told.params["model.knowledge_length"]  # a repeat has the value of its first


def test_a_repeat_of_a_running_trial_is_not_trained_twice(tmp_path: Path, ledger: Ledger):
    sets = ("search={model.knowledge_length: {choice: [4, 8]}}", NO_ASHA)
    source = Search(study_files.load(tmp_path, *sets), ledger)
    assert asked(source).trial_id != asked(source).trial_id
    assert source.ask() is None


def test_trials_of_a_dead_driver_are_told_or_asked_for_again(study: StudySpec, ledger: Ledger):
    source = Search(study, ledger)
    ended, cut_off, waiting = (asked(source) for _ in range(3))
    ledger.claim(ended.trial_id)
    ledger.finish(study_files.row(ended, metrics={"val_loss": 1.0}))  # final, but the driver died before it told
    attempt = ledger.claim(cut_off.trial_id)
    ledger.append_report(cut_off.trial_id, attempt=attempt, report=report(10, val_loss=3.0))
    source.report(cut_off.trial_id, tokens=1_000, value=3.0)

    again = Search(study, ledger)
    resumed = [asked(again), asked(again)]
    assert [trial.trial_id for trial in resumed] == [cut_off.trial_id, waiting.trial_id]
    assert resumed[0].config == cut_off.config
    again.report(cut_off.trial_id, tokens=1_000, value=3.0)  # trained again from its checkpoint: no complaint
    for trial in resumed:
        end(again, ledger, trial, loss=2.5)
    while (trial := again.ask()) is not None:
        end(again, ledger, trial)
    assert ledger.trials().num_rows == 6
    told = {trial.user_attrs["trial_id"]: trial for trial in journal(ledger)}
    assert told[ended.trial_id].value == 1.0
    assert told[cut_off.trial_id].value == 2.5
    assert told[cut_off.trial_id].intermediate_values == {1_000: 3.0}
    assert all(trial.state.is_finished() for trial in told.values())


def test_draws_of_invalid_configurations_are_kept_as_failed_after_a_restart(tmp_path: Path, ledger: Ledger):
    sets = ("search={model.knowledge_num: {int: [4_096, 6_561]}, train.lr: {loguniform: [1e-4, 1e-2]}}", NO_ASHA)
    study = study_files.load(tmp_path, *sets)  # both ends are squares, most values between them are not
    source = Search(study, ledger)
    for _ in range(2):
        if (trial := source.ask()) is not None:
            end(source, ledger, trial)
    before = [(trial.state, pytest.approx(trial.params)) for trial in journal(ledger)]
    assert sum(state is TrialState.FAIL for state, _ in before) > 2
    Search(study, ledger)
    assert [(trial.state, trial.params) for trial in journal(ledger)] == before


def test_a_deleted_journal_is_rebuilt_from_the_ledger(study: StudySpec, ledger: Ledger):
    source = Search(study, ledger)
    first = [asked(source) for _ in range(3)]
    source.report(first[1].trial_id, tokens=1_000, value=2.0)
    for trial, status in zip(first, ("completed", "pruned", "error"), strict=True):
        row = study_files.row(trial, status=status, attempt=ledger.claim(trial.trial_id), metrics={"val_loss": 2.0})
        ledger.append_report(trial.trial_id, attempt=1, report=report(10, val_loss=2.25))
        ledger.finish(row)
        source.tell(row)
    ledger.path("optuna.journal").unlink()
    again = Search(study, ledger)
    assert again.total == 6
    asked_ids = {trial.trial_id for trial in iter(again.ask, None)}
    assert len(asked_ids) == 3
    assert not asked_ids & {trial.trial_id for trial in first}
    told = {trial.user_attrs["trial_id"]: trial for trial in journal(ledger) if "trial_id" in trial.user_attrs}
    states = [told[trial.trial_id].state for trial in first]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert told[first[0].trial_id].params == pytest.approx(samplers.encode(study.search, first[0].params))
    assert told[first[1].trial_id].intermediate_values  # Optuna ranks a pruned trial by these


def test_a_search_can_be_extended(study: StudySpec, ledger: Ledger, tmp_path: Path):
    source = Search(study, ledger)
    before = set()
    while (trial := source.ask()) is not None:
        before.add(end(source, ledger, trial).trial_id)
    more = Search(study_files.load(tmp_path, "optimizer.trials=8"), ledger)
    after = {trial.trial_id for trial in iter(more.ask, None)}
    assert len(after) == 2
    assert not after & before


def test_an_audited_trial_is_never_stopped_and_its_row_says_so(tmp_path: Path, ledger: Ledger):
    study = study_files.load(tmp_path, "optimizer.trials=12", "early_stopping.audit_fraction=0.25")
    source = Search(study, ledger)
    verdicts: dict[bool, list[Verdict]] = {True: [], False: []}
    for number in range(12):
        trial = asked(source)
        assert trial.audited is samplers.audited(number, fraction=0.25, seed=0)
        # Each trial is worse than the last, so any that may be stopped is stopped once a rung has three.
        verdict = source.report(trial.trial_id, tokens=1_000, value=float(number))
        verdicts[bool(trial.audited)].append(verdict)
        row = end(source, ledger, trial, status="pruned" if verdict is Verdict.STOP else "completed")
        assert ledger.row(trial.trial_id) == row
        assert row.audited is trial.audited
    assert verdicts[True] == [Verdict.CONTINUE] * 3
    assert Verdict.STOP in verdicts[False]
