"""The chances of a study's verdicts before it is trained: whose spread they are from, and what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate import cli, sweep
from ablate.analyze.arms.simulated_power import Plan, chances, seeds_for
from ablate.analyze.basis.frames import floats, rows
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.spec.models import StudySpec
from ablate.study import foresight, power
from ablate.study.dataset import read
from tests import study_files, synthetic

ARMS = {"blind": {"model.memory": "blind"}, "token": {"model.memory": "token"}, "aa": {"reseed": True}}

FILE = """
study: planned
base: {preset: tiny, data: {corpus: facts}, model: {memory: none}}
ablation: {seeds: 8, control: token, arms: {blind: {model.memory: blind}, token: {model.memory: token}}}
hypotheses:
  - {claim: it helps, arm: blind, metric: val_loss, min_effect: 0.01}
  - {claim: it is good, arm: blind, metric: val_loss, target: 2.95}
"""


@pytest.fixture(scope="module")
def pilot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results") / "pilot"
    synthetic.ablated(root, ARMS, ran=8, differences={"token": -0.1})
    return root


def planned(folder: Path, text: str = FILE) -> StudySpec:
    return study_files.load(folder, text=text)


def sd_of(pilot: Path, arm: str) -> float:
    runs = read(pilot).trials.pivot(index="seed", columns="arm", values="val_loss")
    return float(np.std(floats(runs, arm) - floats(runs, "baseline"), ddof=1))


def test_chances_are_those_of_the_pilots_arm(tmp_path: Path, pilot: Path):
    gain, target = foresight.describe(planned(tmp_path), own=None, pilot=pilot)
    assert gain.spread.sd == pytest.approx(sd_of(pilot, "blind"))
    assert gain.spread.source == "8 pairs of blind in study pilot"
    plan = Plan(0.01, gain.spread.sd)
    for name, times in (("zero", 0.0), ("min_effect", 1.0), ("twice", 2.0)):
        assert [gain.chances[name]] == chances([plan], seeds=8, gain=times)
    assert [gain.seeds_needed] == seeds_for([plan], gain=2.0)
    runs = read(pilot).trials.query("arm == 'blind'")["val_loss"]
    assert target.spread.sd == pytest.approx(runs.std(ddof=1))
    assert target.margin == pytest.approx(2.95 - runs.mean())
    assert target.power == 1.0, "four standard deviations"
    assert target.seeds_needed == 7, "six seeds have no p below 0.01"


def test_an_arm_that_the_pilot_lacks_takes_its_widest(tmp_path: Path, pilot: Path):
    text = FILE.replace("blind", "vector")
    gain, target = foresight.describe(planned(tmp_path, text), own=None, pilot=pilot)
    widest = max(ARMS, key=lambda arm: sd_of(pilot, arm))
    assert gain.spread.source == f"8 pairs of {widest} in study pilot"
    assert target.spread.source == "8 runs of baseline in study pilot"
    assert target.margin == target.spread.sd, "the pilot knows nothing of this arm's mean"


def test_a_study_prefers_its_own_pairs(tmp_path: Path, pilot: Path):
    own = synthetic.ablated(tmp_path / "own", {"blind": ARMS["blind"]}, ran=4)
    trials = read(own.root).trials
    gain, _ = foresight.describe(planned(tmp_path), own=trials, pilot=pilot)
    assert gain.spread.source == "4 pairs of blind in this study"
    few = rows(trials, trials["seed"] < 3)
    gain, _ = foresight.describe(planned(tmp_path), own=few, pilot=pilot)
    assert gain.spread.source == "8 pairs of blind in study pilot", "two pairs are no spread"
    assert foresight.describe(planned(tmp_path), own=few, pilot=None) == ()


def test_hypotheses_without_a_spread_count_in_the_family(tmp_path: Path, pilot: Path):
    more = FILE + "  - {claim: it is fast, arm: blind, metric: fact_accuracy, min_effect: 0.01}\n"
    found = foresight.describe(planned(tmp_path, more), own=None, pilot=pilot)
    assert [entry.metric for entry in found] == ["val_loss", "val_loss"]
    plan = Plan(0.01, found[0].spread.sd)
    assert found[0].chances["twice"] == chances([plan, plan], seeds=8, gain=2.0)[0]
    assert "1 of 3 hypotheses have no such spread" in "\n".join(foresight.lines(found, seeds=8, hypotheses=3))


def test_a_pilot_that_says_nothing_is_bad_input(tmp_path: Path, pilot: Path):
    other = FILE.replace("val_loss", "fact_accuracy")
    with pytest.raises(BadInput, match="no arm of it has 3 pairs that differ in fact_accuracy"):
        foresight.describe(planned(tmp_path, other), own=None, pilot=pilot)
    without = FILE[: FILE.index("hypotheses")]
    with pytest.raises(BadInput, match="no hypotheses to plan for"):
        foresight.describe(planned(tmp_path, without), own=None, pilot=pilot)


def test_the_plan_names_the_control_and_how_to_know_more(tmp_path: Path):
    plan = power.describe(planned(tmp_path), earlier=None)
    assert plan is not None
    assert (plan.control, plan.family) == ("token", 1)
    text = "\n".join(power.lines(plan))
    assert "positive control: token, outside of Holm's family" in text
    assert foresight.HOW in text
    bare = power.describe(planned(tmp_path, FILE.replace("control: token, ", "")), earlier=None)
    assert bare is not None
    assert "positive control: none, so a missing difference will say nothing" in "\n".join(power.lines(bare))


def test_the_command_plans_with_a_pilot(tmp_path: Path, pilot: Path, capsys: pytest.CaptureFixture[str]):
    file = study_files.write(tmp_path, FILE)

    def run(*flags: str) -> str:
        results = str(pilot.parent)
        code = cli.guarded(lambda: sweep.main([str(file), "--results", results, "--dry-run", *flags]))
        assert code == cli.DONE
        return capsys.readouterr().out

    answer: dict[str, Any] = json.loads(run("--pilot", "pilot", "--json"))["ablation"]
    assert answer["control"] == "token"
    gain, target = answer["hypotheses"]
    assert set(gain["chances"]) == {"zero", "min_effect", "twice"}
    assert sum(gain["chances"]["twice"].values()) == pytest.approx(1)
    assert gain["spread"]["source"] == "8 pairs of blind in study pilot"
    assert (target["target"], target["chances"]) == (2.95, {})
    shown = run("--pilot", str(pilot))
    assert f"{gain['chances']['twice']['supported']:.0%}" in shown
    assert "for 80% supported at twice min_effect" in shown
    assert "better than the target 2.95" in shown
    assert foresight.HOW in run()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--pilot", "pilot"], "--pilot: pilot: it is for planning alone"),
        (["--dry-run", "--pilot", "pilt"], "did you mean pilot?"),
    ],
)
def test_a_bad_pilot_is_one_line(
    flags: list[str], expected: str, tmp_path: Path, pilot: Path, capsys: pytest.CaptureFixture[str]
):
    file = study_files.write(tmp_path, FILE)
    argv = [str(file), "--results", str(pilot.parent), *flags]
    assert cli.guarded(lambda: sweep.main(argv)) == cli.BAD_INPUT
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1


def test_a_spread_of_nothing_is_none(tmp_path: Path):
    ledger = Ledger(tmp_path / "still")
    ledger.write_study(synthetic.study_json(name="still", arms={"blind": ARMS["blind"]}, seeds=4))
    for seed in range(1, 5):
        for arm, params in {"baseline": {}, "blind": ARMS["blind"]}.items():
            synthetic.add_trial(ledger, arm=arm, seed=seed, params=params, measured=synthetic.metrics(val_loss=3.0))
    assert np.ptp(read(ledger.root).trials["val_loss"]) == 0
    with pytest.raises(BadInput, match="no arm of it has 3 pairs that differ"):
        foresight.describe(planned(tmp_path), own=None, pilot=ledger.root)
