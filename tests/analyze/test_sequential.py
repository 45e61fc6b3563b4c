"""Sequential seeds: which arms are decided at which look, and the report's intervals and p values over the looks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.analyze.arms import sequential
from ablate.analyze.arms.paired import effects
from ablate.analyze.arms.sequential import Claims, Values, Walk
from ablate.analyze.arms.sequential_effects import over_looks
from ablate.spec.declared_test import ALPHA
from ablate.spec.models import Objective
from ablate.spec.spending import Looks, levels
from benchmarks import inference
from tests.oracles import inference as oracle
from tests.oracles import spending

LOOKS = Looks((4, 7, 10, 12), ALPHA, first_seed=1)
LOSS = Objective(metric="val_loss", mode="min")


@pytest.fixture
def values() -> dict[str, dict[int, float]]:
    """`clear` is worse on every seed, `same` is as often better as worse."""
    rng = np.random.default_rng(1)
    control = {seed: float(rng.normal()) for seed in range(1, 13)}
    clear = {seed: value + 1 + 0.1 * float(rng.random()) for seed, value in control.items()}
    return {"baseline": control, "clear": clear, "same": {s: v + 0.1 * (-1) ** s for s, v in control.items()}}


def walk(values: Values, *arms: str, claims: Claims | None = None, **metrics: Values) -> Walk:
    claims = claims or Claims(tuple((arm, "val_loss") for arm in arms))
    return sequential.walk({"val_loss": values, **metrics}, claims=claims, looks=LOOKS, arms=arms)


def first(values: Values, count: int, *, of: str = "") -> dict[str, dict[int, float]]:
    """The first `count` seeds of every arm, or of one arm."""
    return {
        arm: {seed: value for seed, value in runs.items() if seed <= count or (of and arm != of)}
        for arm, runs in values.items()
    }


def test_the_adjusted_p_is_holms_over_sequential_ps(values: dict[str, dict[int, float]]):
    found = walk(values, "clear", "same")
    assert (found.reached, found.decided) == ({"clear": 3, "same": 4}, {"clear"})

    def p(arm: str, sizes: tuple[int, ...]) -> float:
        ps = [oracle.sign_flip_p([values[arm][s] - values["baseline"][s] for s in range(1, n + 1)]) for n in sizes]
        return spending.sequential_p(ps, lambda alpha: levels(LOOKS.sizes, alpha))

    expected = oracle.holm([p("clear", (4, 7, 10)), p("same", (4, 7, 10, 12))])
    trials = pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "val_loss": value, "status": "completed"}
            for arm, runs in first(values, 10, of="clear").items()
            for seed, value in runs.items()
        ]
    )
    shown = over_looks(effects(trials, objective=LOSS), trials, objective=LOSS, walk=found)
    assert [effect.p_holm for effect in shown] == pytest.approx(expected, rel=1e-3)
    assert shown[0].p_holm <= ALPHA < shown[1].p_holm
    differences = [values["clear"][seed] - values["baseline"][seed] for seed in range(1, 11)]
    level = 1 - levels(LOOKS.sizes, ALPHA)[2]
    low, high = stats.t.interval(level, 9, np.mean(differences), stats.sem(differences))
    assert (shown[0].difference.low, shown[0].difference.high) == pytest.approx((low, high))
    assert over_looks(effects(trials, objective=LOSS), trials, objective=LOSS, walk=None) == effects(
        trials, objective=LOSS
    )


@pytest.mark.parametrize("arm", ["baseline", "same"])
def test_a_look_waits_for_the_last_undecided_arm(arm: str, values: dict[str, dict[int, float]]):
    found = walk(first(values, 9, of=arm), "clear", "same")
    assert (found.reached, found.decided, found.next_size) == ({"clear": 2, "same": 2}, frozenset(), 10)
    assert {found.wanted(name) for name in ("baseline", "clear", "same")} == {10}


def test_a_decided_arm_is_not_waited_for(values: dict[str, dict[int, float]]):
    found = walk(first(values, 10), "clear", "same")
    assert (found.decided, found.wanted("clear"), found.wanted("same"), found.wanted("baseline")) == (
        {"clear"}, 10, 12, 12,
    )  # fmt: skip
    assert (found.possible("clear"), found.possible("baseline")) == (10, 12)
    alone = walk(first(values, 7), "clear")
    assert (alone.decided, alone.next_size) == (frozenset(), 10)
    ended = walk(first(values, 10), "clear")
    assert (ended.decided, ended.wanted("baseline"), ended.possible("baseline")) == ({"clear"}, 10, 10)


def test_a_hypothesis_holds_its_arm(values: dict[str, dict[int, float]]):
    same = {arm: dict.fromkeys(runs, 1.0) for arm, runs in values.items()}
    claims = Claims((("clear", "val_loss"),), (("clear", "speed"),))
    assert walk(values, "clear", claims=claims, speed=same).decided == frozenset()
    assert walk(values, "clear", claims=claims, speed=values).decided == {"clear"}


def test_a_hypothesis_about_the_objective_is_the_same_comparison(values: dict[str, dict[int, float]]):
    one = ("clear", "val_loss")
    found = walk(values, "clear", "same", claims=Claims((one, ("same", "val_loss")), (one, one)))
    assert (found.reached, found.decided) == ({"clear": 3, "same": 4}, {"clear"})


def test_a_run_without_a_value_drops_its_pair(values: dict[str, dict[int, float]]):
    values["clear"][3] = math.nan
    seeds = LOOKS.seeds(7)
    kept = [values["clear"][seed] - values["baseline"][seed] for seed in seeds if seed != 3]
    assert sequential.look_p(values, "clear", seeds) == oracle.sign_flip_p(kept)
    assert math.isnan(sequential.look_p({**values, "clear": dict.fromkeys(seeds, math.nan)}, "clear", seeds))


def test_the_simulation_finds_effects_with_fewer_runs():
    found = inference.sequential_design(inference.sequential_settings()["effect of 2 standard deviations"], studies=10)
    assert found.found == found.found_fixed == 1.0
    assert found.seeds < inference.LOOKS.most
    assert 0.5 < found.runs < 0.7
