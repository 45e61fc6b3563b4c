"""The simulated day: its physics, and that no policy gets more out of a card than there is."""

from __future__ import annotations

import pytest

from ablate.scheduling.placement import TURN, rate
from ablate.trainers import Config
from benchmarks import placement as day

GIB = {8: 3.0, 16: 4.0, 48: 13.0}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer trials, and peaks that take no time to predict, the largest more than half a card."""

    def peak_gib(config: Config) -> float:
        return GIB[config["train.batch_size"]]

    monkeypatch.setattr(day, "TRIALS", 60)
    monkeypatch.setattr(day, "predicted_gib", peak_gib)
    monkeypatch.setattr(day, "day", day.day.__wrapped__)  # nothing is kept of other sizes


def test_two_on_a_card_take_turns():
    """Alone, a job takes its hours; two that keep the card busy for more than all of the time slow each other down."""
    first, second = day.day(0)[:2]
    for busy, slower in ((0.4, 1.0), (0.8, 1.6)):
        jobs = [day.Job(job.trial, hours=2.0, busy=busy, peak_gib=1.0) for job in (first, second)]
        alone, both = day.Clock(1, TURN), day.Clock(1, TURN)
        alone.begin(jobs[0], card=0)
        alone.next_end()
        assert alone.hours == 2.0
        for job in jobs:
            both.begin(job, card=0)
        both.next_end()
        assert both.hours == pytest.approx(2.0 * slower / (1 - TURN))
        assert both.over_memory == 0
        # The gate's own rule says the same of the card's work: both jobs' busy hours over the time they took.
        assert 2 * 2.0 * busy / both.hours == pytest.approx(rate([busy, busy]))


def test_what_does_not_fit_is_counted():
    clock = day.Clock(1, TURN)
    for job in day.day(0)[:3]:
        clock.begin(day.Job(job.trial, hours=1.0, busy=0.5, peak_gib=10.0), card=0)
    assert clock.over_memory == 1


@pytest.mark.parametrize("cards", [1, 3])
def test_the_gate_fills_cards_and_never_beyond_their_memory(cards: int):
    found = day.compare(0, cards=cards)
    assert found["over_memory"] == 0
    assert found["best_slots"] == 1, "two of the largest are more than a card"
    assert found["constant"][2]["over_memory"] > 0
    assert 1.3 < found["ratio"] <= found["bound"]
    assert found["busy"] <= 1


def test_where_a_card_holds_many_of_the_largest_there_is_little_to_gain():
    """Two or three slots of any size keep a card busy for nearly all of its time; the bound says so."""
    found = day.compare(0, cards=1, card_gib=48.0)
    assert found["best_slots"] in (2, 3)
    assert found["over_memory"] == 0
    assert found["ratio"] <= found["bound"] < 1.2
