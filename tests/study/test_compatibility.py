"""Changes of a study that keep its results comparable are allowed and train only new trials; others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.errors import BadInput
from ablate.search.source import preview
from ablate.study import study_json
from ablate.study.lifecycle import open_study
from tests import study_files
from tests.study.test_phases import ARMS, SEARCH, Formula, go

SEARCHED = f"study: grown\nbase: {{preset: tiny, data: {{corpus: facts}}}}\n{SEARCH}tracking: {{swanlab: disabled}}\n"


def test_a_search_may_grow_in_trials_range_and_objective_and_trains_only_new_trials(tmp_path: Path, results: Path):
    sets: list[str] = []
    steps = {
        "optimizer.trials=4": 4,
        "optimizer.trials=6": 2,
        "search.train.lr={loguniform: [1.0e-5, 1.0]}": 0,
        "optimizer.trials=9": 3,
        "objective={metric: tokens_per_s, mode: max}": 0,
        "optimizer.trials=10": 1,
    }
    seen: set[str] = set()
    ends = []
    for step, expected in steps.items():
        sets.append(step)
        train = Formula()
        ends.append(go(study_files.load(tmp_path, *sets, text=SEARCHED), results, train))
        assert ends[-1].finished
        assert len(train.configs) == expected, step
        assert not seen & {config.to_json() for config in train.configs}
        seen |= {config.to_json() for config in train.configs}
    done = ends[-1]
    rates = [row.params["train.lr"] for row in done.ledger.rows()]
    assert max(rates) > 1e-1 or min(rates) < 1e-4, "the wider range is drawn from"
    written = done.ledger.read_study()
    assert written["spec"]["objectives"] == [{"metric": "tokens_per_s", "mode": "max"}]
    assert [(entry["low"], entry["high"]) for entry in written["space"]] == [(1e-5, 1.0)]


def test_a_finished_study_takes_another_objective_without_training(tmp_path: Path, results: Path):
    go(study_files.load(tmp_path, text=SEARCHED), results, Formula())
    train = Formula()
    other = study_files.load(tmp_path, "objective={metric: tokens_per_s}", text=SEARCHED)
    done = go(other, results, train)
    assert train.configs == []
    assert done.ledger.read_study()["spec"]["objectives"] == [{"metric": "tokens_per_s", "mode": "max"}]
    assert done.ledger.read_study()["finished_at"] is not None


@pytest.mark.parametrize(
    ("change", "key", "why"),
    [
        ("base.train.tokens=9_000", "base.train.tokens", "another base"),
        ("base.train.precision=bf16", "base.train.precision", "another base"),
        ("base.data.facts_entities=32", "base.data.facts_entities", "another base"),
        ("search.train.lr={loguniform: [1.0e-3, 1.0e-1]}", "search.train.lr", "it was {loguniform: [0.0001, 0.1]}"),
        ("search.train.lr={uniform: [1.0e-4, 1.0e-1]}", "search.train.lr", "may only grow"),
        ("search.train.weight_decay={uniform: [0, 1]}", "search.train.weight_decay", "was not searched"),
        ("search={train.weight_decay: {uniform: [0, 1]}}", "search.train.lr", "this key was searched"),
    ],
)
def test_a_change_that_makes_results_incomparable_is_refused_with_its_reason(
    change: str, key: str, why: str, tmp_path: Path, results: Path
):
    open_study(study_files.load(tmp_path, text=SEARCHED), results, resume=False)
    with pytest.raises(BadInput) as caught:
        open_study(study_files.load(tmp_path, change, text=SEARCHED), results, resume=True)
    assert f": {key}: changed: study grown exists with another " in str(caught.value)
    assert why in str(caught.value)


def test_a_refusal_names_the_line_of_the_file(tmp_path: Path, results: Path):
    open_study(study_files.load(tmp_path, text=SEARCHED), results, resume=False)
    narrower = SEARCHED.replace("1.0e-4", "1.0e-3")
    line = next(number for number, text in enumerate(narrower.splitlines(), start=1) if "train.lr" in text)
    with pytest.raises(BadInput, match=rf"study\.yaml:{line}: search\.train\.lr: changed"):
        open_study(study_files.load(tmp_path, text=narrower), results, resume=True)


@pytest.mark.parametrize(
    ("sets", "text", "why"),
    [
        (("ablation.baseline=best",), ARMS + SEARCH, "as the baseline"),
        (("ablation.tune_each_arm={trials: 2}",), ARMS, "which tuned its arms"),
        ((), ARMS, "you may have seen its arms' results"),
    ],
)
def test_an_objective_on_which_results_depend_cannot_change(
    sets: tuple[str, ...], text: str, why: str, tmp_path: Path, results: Path
):
    go(study_files.load(tmp_path, *sets, text=text), results, Formula())
    changed = study_files.load(tmp_path, *sets, "objective={metric: val_loss, mode: max}", text=text)
    with pytest.raises(BadInput, match=why):
        open_study(changed, results, resume=True)


def test_an_objective_that_stopped_trials_cannot_change(tmp_path: Path, results: Path):
    study = study_files.load(tmp_path, text=SEARCHED)
    ledger, _ = open_study(study, results, resume=False)
    (trial,) = preview(study, count=1)
    ledger.finish(study_files.row(trial, status="pruned", attempt=ledger.claim(trial.trial_id)))
    other = study_files.load(tmp_path, "objective={metric: tokens_per_s}", text=SEARCHED)
    with pytest.raises(BadInput, match="another objective, which stopped 1 trial early"):
        open_study(other, results, resume=True)


def test_exploratory_arms_allow_another_objective(tmp_path: Path, results: Path):
    go(study_files.load(tmp_path, text=ARMS), results, Formula())
    sets = ("objective={metric: tokens_per_s}", "ablation.exploratory=true")
    train = Formula()
    done = go(study_files.load(tmp_path, *sets, text=ARMS), results, train)
    assert train.configs == []
    spec = done.ledger.read_study()["spec"]
    assert (spec["objectives"][0]["metric"], spec["ablation"]["exploratory"]) == ("tokens_per_s", True)


CLAIM = "hypotheses=[{claim: it helps, arm: none, metric: val_loss, min_effect: 0.01}]"
TWO = CLAIM.replace("]", ", {claim: and much, arm: none, metric: val_loss, min_effect: 0.1}]")


def test_a_hypothesis_keeps_the_time_of_its_declaration(tmp_path: Path, results: Path):
    """Through a resumption, a rewriting of the finished study, and an extension."""
    ledger, _ = open_study(study_files.load(tmp_path, CLAIM, text=ARMS), results, resume=False)

    def declared() -> list[str | None]:
        return [entry.get("declared_at") for entry in ledger.read_study()["spec"]["hypotheses"]]

    assert declared() == [None], "with the study"
    open_study(study_files.load(tmp_path, TWO, text=ARMS), results, resume=True)
    assert declared()[0] is None
    at = declared()[1]
    assert at is not None
    assert ledger.read_study()["started_at"] < at
    go(study_files.load(tmp_path, TWO, text=ARMS), results, Formula())
    assert ledger.read_study()["finished_at"] is not None
    written = ledger.read_study()
    open_study(study_files.load(tmp_path, TWO, text=ARMS), results, resume=False)
    assert ledger.read_study() == written
    open_study(study_files.load(tmp_path, TWO.replace("]", ", {claim: c, arm: none, metric: val_loss, min_effect: 1}]"),
                                text=ARMS), results, resume=False)  # fmt: skip
    assert declared()[:2] == [None, at]
    assert at < str(declared()[2])
    with pytest.raises(BadInput, match="a declared one cannot change"):
        open_study(study_files.load(tmp_path, CLAIM, text=ARMS), results, resume=True)


def test_a_control_is_named_before_its_results(tmp_path: Path, results: Path):
    """Chosen after them it would always be seen."""
    open_study(study_files.load(tmp_path, text=ARMS), results, resume=False)
    named = "ablation.control=none"
    ledger, _ = open_study(study_files.load(tmp_path, named, text=ARMS), results, resume=True)
    assert ledger.read_study()["spec"]["ablation"]["control"] == "none"
    go(study_files.load(tmp_path, named, text=ARMS), results, Formula())
    with pytest.raises(BadInput, match=r"ablation\.control: changed: .* another positive control"):
        open_study(study_files.load(tmp_path, text=ARMS), results, resume=True)
    loose = study_files.load(tmp_path, "ablation.exploratory=true", text=ARMS)
    ledger, _ = open_study(loose, results, resume=True)
    assert ledger.read_study()["spec"]["ablation"]["control"] is None


def test_a_new_arm_may_become_the_control(tmp_path: Path, results: Path):
    go(study_files.load(tmp_path, text=ARMS), results, Formula())
    grown = study_files.load(tmp_path, "ablation.arms.blind={model.memory: blind}", "ablation.control=blind", text=ARMS)
    ledger, state = open_study(grown, results, resume=False)
    assert (state, ledger.read_study()["spec"]["ablation"]["control"]) == ("extended", "blind")


def test_a_study_of_before_there_were_controls_and_targets_goes_on(tmp_path: Path, results: Path):
    done = go(study_files.load(tmp_path, CLAIM, text=ARMS), results, Formula())
    old = done.ledger.read_study()
    assert old["spec"]["hypotheses"] == [
        {"claim": "it helps", "arm": "none", "metric": "val_loss", "min_effect": 0.01}
    ], "as earlier versions wrote it"
    del old["spec"]["ablation"]["control"]
    done.ledger.write_study(old)
    assert open_study(study_files.load(tmp_path, CLAIM, text=ARMS), results, resume=False)[1] == "finished"


@pytest.mark.parametrize("change", [{"min_effect": None}, {"target": 2.0}], ids=["of no kind", "of two kinds"])
def test_a_damaged_hypothesis_is_not_left_out_silently(change: dict[str, float | None], tmp_path: Path, results: Path):
    ledger, _ = open_study(study_files.load(tmp_path, CLAIM, text=ARMS), results, resume=False)
    study = ledger.read_study()
    study["spec"]["hypotheses"][0] |= change
    with pytest.raises(BadInput, match="a hypothesis has min_effect or target"):
        study_json.parse(study, place=ledger.place)
