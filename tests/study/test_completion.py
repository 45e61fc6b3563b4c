"""Which of a study's planned trials have ended: counted from the rows that can be read, arm by arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.study import completion, study_json
from ablate.study.completion import Completion
from tests.synthetic import SPACE, TWO_ARMS
from tests.synthetic import study_json as written

PLACE = Path("results/some")
CHOICE = {"key": "model.knowledge_length", "kind": "choice", "low": None, "high": None, "choices": [4, 8]}
WHOLE = {"key": "model.ema_update_freq", "kind": "int", "low": 1, "high": 3, "choices": None}


@dataclass(frozen=True)
class End:
    arm: str
    seed: int = 0
    status: str = "completed"
    trial_id: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


def of(ends: list[End], *, more: dict[str, Any] | None = None, **study: Any) -> Completion:
    """The completion of a study that study.json calls finished."""
    facts = {**written(**study), "finished_at": "2026-03-01T12:00:00+00:00", **(more or {})}
    return completion.of(study_json.parse(facts, place=PLACE), ends)


def arms(*names: str, seeds: int = 2) -> list[End]:
    return [End(arm, seed) for arm in names for seed in range(1, seeds + 1)]


def test_a_study_is_finished_if_every_planned_trial_has_a_row_and_study_json_says_so():
    ends = [*(End("search") for _ in range(3)), *arms("baseline", "blind", "token")]
    study: dict[str, Any] = {"space": SPACE, "trials": 3, "arms": TWO_ARMS, "seeds": 2}
    whole = of(ends, **study)
    assert (whole.planned, whole.left, whole.finished) == (9, 0, True)
    assert not of(ends, **study, more={"finished_at": None}).finished
    for lost in range(len(ends)):
        found = of([*ends[:lost], *ends[lost + 1 :]], **study)
        assert found.missing == {ends[lost].arm: 1}
        assert not found.finished


def test_the_rows_of_one_arm_do_not_stand_for_those_of_another():
    ends = [*arms("baseline", "blind", seeds=3), *arms("token", seeds=1)]
    found = of(ends, arms=TWO_ARMS, seeds=2)
    assert found.missing == {"token": 1}


def test_two_runs_of_one_seed_are_one():
    ends = [*arms("baseline", "blind"), End("token", 1), End("token", 1)]
    assert of(ends, arms=TWO_ARMS, seeds=2).missing == {"token": 1}


def test_a_search_has_no_more_trials_than_its_space_has_points():
    assert of([End("search")] * 2, space=[CHOICE], trials=5).finished
    assert of([End("search")] * 2, space=[CHOICE], trials=5).planned == 2
    assert of([End("search")], space=[CHOICE], trials=5).missing == {"search": 1}
    assert of([End("search")] * 5, space=[CHOICE, WHOLE], trials=20).missing == {"search": 1}
    assert of([End("search")] * 5, space=[CHOICE, *SPACE], trials=20).missing == {"search": 15}


def test_a_search_that_ended_early_is_whole_with_the_trials_that_it_found():
    study: dict[str, Any] = {"space": SPACE, "trials": 9, "more": {"exhausted": 4}}
    assert of([End("search")] * 4, **study).finished
    assert of([End("search")] * 3, **study).missing == {"search": 1}


def test_an_arm_is_not_missed_if_nothing_that_prepares_it_completed():
    tune = {"tune_each_arm": {"trials": 2, "over": ["train.lr"]}}
    tuned = [End("tune.baseline")] * 2 + [End("tune.token")] * 2
    failed = [End("tune.blind", status="nan")] * 2
    study: dict[str, Any] = {"arms": TWO_ARMS, "seeds": 2, "ablation": tune}
    found = of([*tuned, *failed, *arms("baseline", "token")], **study)
    assert (found.finished, found.untrained, found.planned) == (True, ("blind",), 10)
    waits = of([*tuned, failed[0], *arms("baseline", "token")], **study)
    assert waits.missing == {"tune.blind": 1, "blind": 2}, "its last tuning trial may complete"


def test_without_the_baselines_speed_no_arm_is_trained():
    wall = {"match": "wall", "tune_each_arm": {"trials": 2, "over": ["train.lr"]}}
    speeds = [End("calibrate.baseline", status="oom"), End("calibrate.blind"), End("calibrate.token")]
    found = of(speeds, arms=TWO_ARMS, seeds=2, ablation=wall)
    assert (found.finished, found.planned) == (True, 3)
    assert {"baseline", "blind", "token"} <= set(found.untrained)


def test_a_winner_without_a_row_is_missed_though_the_search_has_enough_trials():
    study: dict[str, Any] = {
        "space": SPACE,
        "trials": 2,
        "arms": TWO_ARMS,
        "seeds": 2,
        "ablation": {"baseline": "best"},
    }
    ends = [End("search", trial_id="a"), End("search", trial_id="b"), *arms("baseline", "blind", "token")]
    assert of(ends, **study, more={"winner": "a"}).finished
    lost = of(ends, **study, more={"winner": "c"})
    assert lost.missing == {"search": 1}
