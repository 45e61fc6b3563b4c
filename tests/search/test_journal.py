"""Optuna's journal is a cache: whatever happens to it, a search resumes identically, early stopping included."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ablate.records.ledger import Ledger
from ablate.search import samplers
from ablate.search.source import Search
from ablate.spec.models import StudySpec
from ablate.trainers import Verdict
from ablate.trials.trial import Trial
from tests import study_files
from tests.study_files import report

STEPS = (4, 9, 10, 12, 28, 29, 31, 38)
"""Steps of reports, 100 tokens each. The rungs are at 1,000 and 3,000 tokens; the last report ends the budget."""

SETS = ("optimizer.sampler=sobol", "optimizer.trials=9", "early_stopping.audit_fraction=0.2", "base.train.tokens=3_800")
"""Sobol points do not depend on results, so two runs draw the same trials."""


def copy_old(journal: Path) -> None:
    shutil.copy(journal, journal.with_suffix(".old"))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "untouched": lambda journal: None,  # noqa: ARG005
    "deleted": Path.unlink,
    "cut in half": lambda journal: journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2]),
    "stale": lambda journal: shutil.copy(journal.with_suffix(".old"), journal),
    "garbage": lambda journal: journal.write_bytes(b"\x00\xff\n" * 9),
    "another study's": lambda journal: journal.write_bytes(b'{"a": 1}\n' * 9),
}


@dataclass
class Simulation:
    """Runs three trials at a time with losses from a formula, and records the verdict on every report."""

    study: StudySpec
    ledger: Ledger
    decided: dict[tuple[str, int], Verdict] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)
    """Trial -> number of its reports."""
    order: list[str] = field(default_factory=list)

    def run(self, source: Search, *, rounds: int) -> None:
        """In each round every running trial reports once; a new trial replaces one that has ended."""
        running: list[Trial] = []
        for _ in range(rounds):
            while len(running) < 3 and (trial := source.ask()) is not None:
                running.append(trial)
                self.ledger.claim(trial.trial_id)
                if trial.trial_id not in self.order:
                    self.order.append(trial.trial_id)
            for trial in list(running):
                if not self._step(source, trial):
                    running.remove(trial)

    def _step(self, source: Search, trial: Trial) -> bool:
        name, number = trial.trial_id, self.order.index(trial.trial_id)
        step = STEPS[self.at.get(name, 0)]
        # The fifth trial is the best and its neighbours are close; every loss falls with the steps.
        loss = 2.0 + 0.1 * abs(number - 4) + 1.0 / step
        self._report(source, trial, step=step, loss=loss)
        self.at[name] = self.at.get(name, 0) + 1
        stop = self.decided[name, 100 * step] is Verdict.STOP
        if stop or step == STEPS[-1]:
            row = study_files.row(
                trial,
                status="pruned" if stop else "completed",
                attempt=self.ledger.attempt(name),
                metrics={"val_loss": loss},
            )
            self.ledger.finish(row)
            source.tell(row)
            return False
        return True

    def _report(self, source: Search, trial: Trial, *, step: int, loss: float) -> None:
        name = trial.trial_id
        self.ledger.append_report(name, attempt=self.ledger.attempt(name), report=report(step, val_loss=loss))
        verdict = source.report(name, tokens=100 * step, value=loss)
        assert self.decided.setdefault((name, 100 * step), verdict) is verdict, (
            "a repeated report gets the same verdict"
        )

    def lose_last_report(self) -> None:
        """Forget the last report of every running trial, as if the driver died before its checkpoint was written."""
        ended = self.ledger.final_ids()
        self.at = {name: count if name in ended else max(count - 1, 0) for name, count in self.at.items()}


def known(ledger: Ledger) -> list[tuple[Any, ...]]:
    """Every trial in Optuna's journal, without its times."""
    storage = JournalStorage(JournalFileBackend(str(ledger.path("optuna.journal"))))
    trials = optuna.load_study(study_name="tides", storage=storage).get_trials()
    # 1 - (1 - x) may differ from x by rounding.
    params = [{key: pytest.approx(value) for key, value in trial.params.items()} for trial in trials]
    rest = [(t.number, t.state, t.values, t.intermediate_values, t.system_attrs) for t in trials]
    return [(*one, of_one) for one, of_one in zip(rest, params, strict=True)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Simulation, list[tuple[Any, ...]]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    simulation = Simulation(study_files.load(folder, *SETS), Ledger(folder / "tides"))
    simulation.run(Search(simulation.study, simulation.ledger), rounds=40)
    assert len(simulation.ledger.final_ids()) == 9
    return simulation, known(simulation.ledger)


def test_the_simulation_stops_completes_and_reaches_both_rungs(
    undisturbed: tuple[Simulation, list[tuple[Any, ...]]],
) -> None:
    simulation, recorded = undisturbed
    assert {Verdict.STOP, Verdict.CONTINUE} == set(simulation.decided.values())
    states = [state for _, state, *_ in recorded]
    assert states.count(TrialState.PRUNED) >= 3
    assert states.count(TrialState.COMPLETE) >= 3
    marks = {key for *_, attributes, _ in recorded for key in attributes}
    assert marks == {"completed_rung_0", "completed_rung_1"}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("rounds", [3, pytest.param(7, marks=pytest.mark.slow), 12])
def test_a_resumed_search_repeats_draws_and_verdicts_whatever_happened_to_the_journal(
    damage: str, rounds: int, undisturbed: tuple[Simulation, list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    expected, recorded = undisturbed
    simulation = Simulation(study_files.load(tmp_path, *SETS), Ledger(tmp_path / "tides"))
    journal = simulation.ledger.path("optuna.journal")
    simulation.run(Search(simulation.study, simulation.ledger), rounds=1)
    copy_old(journal)
    # Twice: the second time meets reports that the first restart repeated.
    for part in (rounds - 1, 2):
        simulation.run(Search(simulation.study, simulation.ledger), rounds=part)
        simulation.lose_last_report()
        DAMAGES[damage](journal)
    simulation.run(Search(simulation.study, simulation.ledger), rounds=40)
    assert simulation.decided == expected.decided
    assert simulation.order == expected.order
    assert known(simulation.ledger) == recorded


def test_a_stop_is_repeated_after_a_restart(tmp_path: Path) -> None:
    """The driver dies between the pruner's verdict and the trial's end."""
    study, ledger = study_files.load(tmp_path, *SETS), Ledger(tmp_path / "tides")
    source, verdicts = Search(study, ledger), {}
    for number in range(3):
        trial = source.ask()
        assert trial is not None
        attempt = ledger.claim(trial.trial_id)
        ledger.append_report(trial.trial_id, attempt=attempt, report=report(10, val_loss=2.0 + number))
        verdicts[trial.trial_id] = source.report(trial.trial_id, tokens=1_000, value=2.0 + number)
    assert Verdict.STOP in verdicts.values()
    again = Search(study, ledger)
    for name, verdict in verdicts.items():
        assert again.report(name, tokens=1_000, value=9.0) is verdict
        assert again.report(name, tokens=1_200, value=9.0) is verdict


def test_the_sobol_sequence_continues_after_a_restart(tmp_path: Path, caplog: Any) -> None:
    """If it started again, more than MAX_DRAWS repeats would look like an exhausted space."""
    sets = ("optimizer.sampler=sobol", "optimizer.trials=64", "early_stopping=null")
    study, ledger = study_files.load(tmp_path, *sets), Ledger(tmp_path / "tides")
    source = Search(study, ledger)
    drawn = [source.ask() for _ in range(60)]
    for trial in drawn:
        assert trial is not None
        ledger.finish(study_files.row(trial, attempt=ledger.claim(trial.trial_id)))
    ledger.path("optuna.journal").unlink()
    with caplog.at_level(logging.WARNING):
        again = Search(study, ledger)
        more = {trial.trial_id for trial in iter(again.ask, None)}
    assert len(more) == 4
    assert not more & ledger.final_ids()
    assert "no new trial" not in caplog.text


def test_rows_without_recorded_draws_keep_their_numbers(tmp_path: Path) -> None:
    """An old study without draws, resumed twice."""
    study, ledger = study_files.load(tmp_path, "early_stopping=null"), Ledger(tmp_path / "tides")
    source = Search(study, ledger)
    for _ in range(3):
        trial = source.ask()
        assert trial is not None
        ledger.finish(study_files.row(trial, attempt=ledger.claim(trial.trial_id)))
    shutil.rmtree(ledger.path("draws"))
    following = Search(study, ledger).ask()
    assert following is not None
    assert following.trial_id not in ledger.final_ids()
    again = Search(study, ledger)
    assert (asked := again.ask()) is not None
    assert asked.trial_id == following.trial_id
    states = [state for _, state, *_ in known(ledger)]
    assert states == [TrialState.COMPLETE] * 3 + [TrialState.RUNNING]


def test_an_unreadable_draw_keeps_the_numbers_of_later_draws(tmp_path: Path) -> None:
    study, ledger = study_files.load(tmp_path, "early_stopping.audit_fraction=0.5"), Ledger(tmp_path / "tides")
    source = Search(study, ledger)
    trials = [source.ask() for _ in range(3)]
    ledger.path("draws", "000001.json").write_text('{"number": 1')
    again = Search(study, ledger)
    first, last = again.ask(), again.ask()
    assert (first, last) == (trials[0], trials[2]), "the same trials, with the same audits"
    assert trials[2] is not None
    assert trials[2].audited is samplers.audited(2, fraction=0.5, seed=0)


@pytest.mark.parametrize("extra", [{"train.tokens": "many"}, {"train.tokens": None}, {"model.gone": [1]}])
def test_a_draw_with_a_value_that_is_not_searched_keeps_its_end(extra: dict[str, Any], tmp_path: Path) -> None:
    study, ledger = study_files.load(tmp_path), Ledger(tmp_path / "tides")
    asked = Search(study, ledger).ask()
    assert asked is not None
    ledger.append_report(asked.trial_id, attempt=ledger.claim(asked.trial_id), report=report(20, val_loss=2.0))
    path = ledger.path("draws", "000000.json")
    draw = json.loads(path.read_text())
    path.write_text(json.dumps({**draw, "params": {**draw["params"], **extra}}))
    ledger.finish(study_files.row(asked))
    Search(study, ledger)
    assert [state for _, state, *_ in known(ledger)] == [TrialState.COMPLETE]
