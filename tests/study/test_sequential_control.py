"""With sequential seeds a positive control decides nothing: it gets as many seeds as any arm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ablate.spec.designs import BASELINE, Arm
from ablate.spec.models import Hypothesis
from ablate.spec.spending import Looks
from ablate.study import sequential_seeds

LOOKS = Looks((8, 12, 16), 0.05, 1)
ARMS = (Arm("known", {}, "arm", {}), Arm("asked", {}, "arm", {}))


@dataclass(frozen=True)
class Row:
    arm: str
    seed: int
    metrics: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    status: str = "completed"
    trial_id: str = ""


def rows(seeds: int, **effects: float) -> list[Row]:
    """The control's runs and the others', with a gain and some noise each."""
    return [
        Row(arm, seed, {"val_loss": 3 + 0.01 * ((7 * seed) % 11) - gain})
        for seed in LOOKS.seeds(seeds)
        for arm, gain in {BASELINE: 0.0, **effects}.items()
    ]


def test_the_control_is_decided_by_no_look_and_goes_on_with_the_others() -> None:
    about: dict[str, Any] = {"looks": LOOKS, "arms": ARMS, "metric": "val_loss", "hypotheses": ()}
    ended = rows(8, known=1.0, asked=0.0)
    alone = sequential_seeds.state(ended, **about, control="known")
    assert alone.reached == {"asked": 1}
    assert alone.decided == frozenset()
    assert alone.wanted("known") == alone.wanted(BASELINE) == alone.wanted("asked") == 12
    assert "known" in sequential_seeds.state(ended, **about).reached, "without being named it is an arm as any"


def test_a_hypothesis_about_the_control_or_a_target_decides_nothing() -> None:
    about: dict[str, Any] = {"looks": LOOKS, "arms": ARMS, "metric": "val_loss", "control": "known"}
    said = (
        Hypothesis(claim="it is known", arm="known", metric="val_loss", min_effect=0.1),
        Hypothesis(claim="it reaches three", arm="asked", metric="val_loss", target=3.0),
    )
    ended = rows(16, known=1.0, asked=0.5)
    with_them, without = (sequential_seeds.state(ended, **about, hypotheses=given) for given in (said, ()))
    assert with_them == without
