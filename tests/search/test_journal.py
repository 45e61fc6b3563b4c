"""Optuna's journal is a cache: whatever becomes of it, a search goes on as it would have, early stopping included."""

from __future__ import annotations

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
"""Reports, of 100 tokens a step: rungs at 1,000 and 3,000 tokens, some reached at once with the next, the last one at
the end of the budget."""

SETS = ("optimizer.sampler=sobol", "optimizer.trials=9", "early_stopping.audit_fraction=0.2", "base.train.tokens=3_800")
"""Sobol's points are the same whatever was learnt, so that two runs draw the same trials."""


def copy_old(journal: Path) -> None:
    shutil.copy(journal, journal.with_suffix(".old"))


HARMS: dict[str, Callable[[Path], Any]] = {
    "untouched": lambda journal: None,  # noqa: ARG005
    "deleted": Path.unlink,
    "cut in half": lambda journal: journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2]),
    "stale": lambda journal: shutil.copy(journal.with_suffix(".old"), journal),
    "garbage": lambda journal: journal.write_bytes(b"\x00\xff\n" * 9),
    "another study's": lambda journal: journal.write_bytes(b'{"a": 1}\n' * 9),
}


@dataclass
class Cast:
    """Three trials at a time, whose losses are a formula; what the search decided, report by report."""

    study: StudySpec
    ledger: Ledger
    decided: dict[tuple[str, int], Verdict] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)
    """Trial -> reports made."""
    order: list[str] = field(default_factory=list)

    def play(self, source: Search, *, rounds: int) -> None:
        """So many rounds, in each of which every trial under way reports once; a new one begins where one ended."""
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
        # The fifth is the best, those around it are not much worse; all get better as they go.
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
        assert self.decided.setdefault((name, 100 * step), verdict) is verdict, "the same report is judged the same"

    def lose_last_report(self) -> None:
        """The driver died before the last reports' checkpoints were written: their steps are trained again."""
        ended = self.ledger.final_ids()
        self.at = {name: count if name in ended else max(count - 1, 0) for name, count in self.at.items()}


def known(ledger: Ledger) -> list[tuple[Any, ...]]:
    """What Optuna has in its journal of every trial, but for the times."""
    storage = JournalStorage(JournalFileBackend(str(ledger.path("optuna.journal"))))
    trials = optuna.load_study(study_name="tides", storage=storage).get_trials()
    # 1 - (1 - x) may miss x by a hair.
    params = [{key: pytest.approx(value) for key, value in trial.params.items()} for trial in trials]
    rest = [(t.number, t.state, t.values, t.intermediate_values, t.system_attrs) for t in trials]
    return [(*one, of_one) for one, of_one in zip(rest, params, strict=True)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cast, list[tuple[Any, ...]]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    cast = Cast(study_files.load(folder, *SETS), Ledger(folder / "tides"))
    cast.play(Search(cast.study, cast.ledger), rounds=40)
    assert len(cast.ledger.final_ids()) == 9
    return cast, known(cast.ledger)


def test_the_play_has_what_it_is_to_test(undisturbed: tuple[Cast, list[tuple[Any, ...]]]) -> None:
    cast, told = undisturbed
    assert {Verdict.STOP, Verdict.CONTINUE} == set(cast.decided.values())
    states = [state for _, state, *_ in told]
    assert states.count(TrialState.PRUNED) >= 3
    assert states.count(TrialState.COMPLETE) >= 3
    marks = {key for *_, attributes, _ in told for key in attributes}
    assert marks == {"completed_rung_0", "completed_rung_1"}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("rounds", [3, 7, 12])
def test_a_search_goes_on_as_if_nothing_had_happened(
    harm: str, rounds: int, undisturbed: tuple[Cast, list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    expected, told = undisturbed
    cast = Cast(study_files.load(tmp_path, *SETS), Ledger(tmp_path / "tides"))
    journal = cast.ledger.path("optuna.journal")
    cast.play(Search(cast.study, cast.ledger), rounds=1)
    copy_old(journal)
    # Twice, so that the second time sees reports that the first had made again.
    for part in (rounds - 1, 2):
        cast.play(Search(cast.study, cast.ledger), rounds=part)
        cast.lose_last_report()
        HARMS[harm](journal)
    cast.play(Search(cast.study, cast.ledger), rounds=40)
    assert cast.decided == expected.decided
    assert cast.order == expected.order
    assert known(cast.ledger) == told


def test_a_verdict_that_nobody_heard_is_given_again(tmp_path: Path) -> None:
    """The driver dies between the pruner's word and the trial's end."""
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


def test_more_points_than_repeats_are_allowed_survive_the_journal(tmp_path: Path, caplog: Any) -> None:
    """Sobol's sequence goes on where it was: sixty points again from the first would look like an exhausted space."""
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
    assert "no new trials" not in caplog.text


def test_rows_without_draws_are_learnt_from_and_keep_their_places(tmp_path: Path) -> None:
    """A study of before draws were kept, gone on with twice."""
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


def test_a_draw_that_cannot_be_read_costs_no_other_its_number(tmp_path: Path) -> None:
    study, ledger = study_files.load(tmp_path, "early_stopping.audit_fraction=0.5"), Ledger(tmp_path / "tides")
    source = Search(study, ledger)
    trials = [source.ask() for _ in range(3)]
    ledger.path("draws", "000001.json").write_text('{"number": 1')
    again = Search(study, ledger)
    first, last = again.ask(), again.ask()
    assert (first, last) == (trials[0], trials[2]), "the same trials, and the same of them audited"
    assert trials[2] is not None
    assert trials[2].audited is samplers.audited(2, fraction=0.5, seed=0)
