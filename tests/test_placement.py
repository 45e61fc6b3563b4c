"""The gate: no card is promised twice, cores and host memory count, nobody waits for ever, time is shared."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.placement import PATIENCE, STEP, TURN, Gate, Need, Node, Start, rate


def gate(*, gpus: int = 1, cpus: float = 64, host_gib: float = math.inf, nodes: int = 1) -> Gate:
    return Gate([Node.of(f"node{n}", cpus=cpus, gpus=gpus, host_gib=host_gib) for n in range(nodes)])


def offer(to: Gate, **shares: float) -> None:
    """Trials of one core that need these shares of a card; its time is nobody's concern."""
    for name, share in shares.items():
        to.offer(name, Need(cpu=1, gpu=share))


def started(by: Gate) -> list[str]:
    """Everybody who starts now."""
    return [start.name for start in iter(by.start, None)]


def shares(of: Gate) -> list[list[float]]:
    """What is held of every card of the first node."""
    return [sorted(card.held.values()) for card in of._nodes[0].cards]


# ---- memory


def test_shares_add_up_to_a_card_and_no_more():
    book = gate()
    offer(book, a=0.1, b=0.2, c=0.7, d=0.1)
    assert started(book) == ["a", "b", "c"]
    book.end("b")
    assert started(book) == ["d"]


def test_best_fit_takes_the_fullest_card_that_still_has_the_share():
    book = gate(gpus=3)
    offer(book, a=0.5, b=0.7, c=0.4, d=0.3, e=0.6)
    assert started(book) == ["a", "b", "c", "d", "e"]
    assert shares(book) == [[0.4, 0.5], [0.3, 0.7], [0.6]]


def test_whole_cards_are_of_one_machine_and_idle():
    book = gate(gpus=2, nodes=2)
    offer(book, part=0.3, two=2.0, also=2.0)
    assert started(book) == ["part", "two"]
    book.end("part")
    assert started(book) == ["also"]


def test_all_workers_of_a_trial_start_or_none():
    book = gate(gpus=1, cpus=2, nodes=2)
    book.offer("pair", Need(cpu=2, gpu=1.0, workers=2))
    book.offer("another", Need(cpu=2, gpu=1.0, workers=2))
    assert started(book) == ["pair"]
    assert shares(book) == [[1.0]]
    book.end("pair")
    assert shares(book) == [[]]
    assert started(book) == ["another"]


# ---- cores and host memory


def test_cores_are_counted_on_each_machine():
    book = gate(gpus=0, cpus=3, nodes=2)
    for name in "abc":
        book.offer(name, Need(cpu=2, gpu=0))
    assert started(book) == ["a", "b"], "one core is left on each machine, and they do not add up"


def test_host_memory_is_counted_but_never_locks_a_lone_trial_out():
    book = gate(gpus=0, host_gib=5)
    for name in "ab":
        book.offer(name, Need(cpu=1, gpu=0, host_gib=3))
    book.offer("huge", Need(cpu=1, gpu=0, host_gib=50))
    assert started(book) == ["a"]
    book.end("a")
    assert started(book) == ["b"]
    book.end("b")
    assert started(book) == ["huge"], "predicted memory is a guess: alone, it is tried"


# ---- time


def test_a_card_is_shared_while_it_gets_more_done():
    assert rate([0.85]) == 0.85
    assert rate([0.85, 0.85]) / rate([0.85]) <= 1 / 0.85, "k trials of utilisation u gain at most 1/u together"
    assert rate([0.85, 0.85]) == pytest.approx(1 - TURN)
    book = gate()
    for name in "abc":
        book.offer(name, Need(cpu=1, gpu=0.1, busy=0.85))
    assert started(book) == ["a", "b"], "two gain 1.14 times; a third would gain nothing"
    idle = gate()
    for name in "abcde":
        idle.offer(name, Need(cpu=1, gpu=0.1, busy=0.3))
    assert started(idle) == ["a", "b", "c", "d"]


def test_a_trial_that_keeps_its_card_busy_stays_alone():
    book = gate()
    for name in "ab":
        book.offer(name, Need(cpu=1, gpu=0.1, busy=0.99))
    assert started(book) == ["a"]


def test_what_a_card_turns_out_to_do_counts_and_not_what_was_thought():
    book = gate()
    for name in "abc":
        book.offer(name, Need(cpu=1, gpu=0.1, busy=0.6))
    assert started(book) == ["a", "b"]
    assert book.learn("a", busy=0.4) == 0.2, "half of what two do"
    book.learn("b", busy=0.4)
    assert started(book) == ["c"]


def test_ray_is_led_past_a_card_whose_time_is_used_up():
    """Ray gives a share to the fullest card that has it: the share is made too large for the wrong one."""
    book = gate(gpus=2)
    book.offer("busy", Need(cpu=1, gpu=0.4, busy=1.0))
    book.offer("next", Need(cpu=1, gpu=0.2, busy=0.5))
    assert book.start() == Start("busy", 0.4)
    second = book.start()
    assert second is not None
    assert second.gpu == pytest.approx(0.6 + STEP)
    assert shares(book)[1] == [second.gpu]


def test_the_book_is_put_right_when_a_trial_is_found_elsewhere():
    book = gate(gpus=2)
    offer(book, a=0.6)
    started(book)
    book.found("a", node="node0", card="GPU-1")
    offer(book, b=0.6)
    started(book)
    book.found("b", node="node0", card="GPU-0")
    assert shares(book) == [[0.6], [0.6]]
    book.end("a")
    offer(book, c=0.5)
    assert started(book) == ["c"]
    book.found("c", node="node0", card="GPU-1")
    book.found("c", node="nowhere", card="GPU-1")
    assert shares(book) == [[0.5], [0.6]]
    offer(book, d=0.4)
    started(book)
    book.found("d", node="node0", card="GPU-0")  # the book thought of the other, of two that would do
    assert shares(book)[1] == [0.4, 0.6]


# ---- nobody waits for ever


def test_a_large_trial_is_passed_a_few_times_and_then_a_card_is_kept_for_it():
    book = gate(gpus=2)
    offer(book, a=0.5, b=0.5, c=0.5, large=0.8)
    assert started(book) == ["a", "b", "c"]
    for turn in range(PATIENCE):
        offer(book, **{f"small{turn}": 0.4})
        assert started(book) == [f"small{turn}"]
        book.end(f"small{turn}")
    offer(book, late=0.4)
    assert started(book) == [], "the emptier card is kept, and on the other one there is no room"
    book.end("a")
    assert started(book) == ["late"], "the other card is open to all"
    book.end("c")
    assert started(book) == ["large"]


@dataclass(frozen=True)
class Job:
    need: Need
    hours: int


JOBS = st.lists(
    st.builds(
        Job,
        need=st.builds(
            Need,
            cpu=st.sampled_from([1.0, 2.0, 4.0]),
            gpu=st.sampled_from([0.0, 0.1, 0.25, 0.3333, 0.5, 0.75, 0.9, 1.0]),
            host_gib=st.sampled_from([1.0, 4.0, 30.0]),
            busy=st.sampled_from([None, 0.2, 0.5, 0.9, 1.0]),
        ),
        hours=st.integers(1, 9),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(jobs=JOBS, gpus=st.integers(1, 3), nodes=st.integers(1, 2), ahead=st.integers(1, 12))
def test_whatever_comes_nothing_is_promised_twice_and_everybody_starts(
    jobs: Sequence[Job], gpus: int, nodes: int, ahead: int
):
    """A queue is played through: `ahead` trials wait, hours pass."""
    book = gate(gpus=gpus, cpus=4, host_gib=16, nodes=nodes)
    queue = list(enumerate(jobs))
    ends: list[tuple[int, str]] = []
    clock, order = 0, []
    while queue or ends or book.waiting:
        while queue and book.waiting < ahead:
            number, job = queue.pop(0)
            book.offer(str(number), job.need)
        for start in iter(book.start, None):
            order.append(int(start.name))
            job = jobs[int(start.name)]
            assert start.gpu >= job.need.gpu
            heapq.heappush(ends, (clock + job.hours, start.name))
        for node in book._nodes:
            assert all(card.free > -1e-6 for card in node.cards), "a card is held more than once"
            assert book._free_cpus(node) > -1e-6
            alone = sum(seat.node is node for _, seats in book._running.values() for seat in seats) <= 1
            assert alone or book._free_host_gib(node) > -1e-6
        assert ends, "somebody runs as long as somebody waits"
        clock, name = heapq.heappop(ends)
        book.end(name)
    assert sorted(order) == list(range(len(jobs))), "everybody started"


@settings(deadline=None, max_examples=60)
@given(
    hours=st.lists(st.integers(1, 20), min_size=4, max_size=60),
    large=st.sampled_from([0.6, 0.8, 1.0]),
    gpus=st.integers(1, 4),
)
def test_a_large_trial_starts_when_those_that_ran_have_ended(hours: list[int], large: float, gpus: int):
    """However many small ones come, once it has been overtaken often enough it waits for running trials alone."""
    book = gate(gpus=gpus)
    ends: list[tuple[int, str]] = []
    queue = [(f"small{n}", 0.3, each) for n, each in enumerate(hours)]
    queue.insert(3 * gpus if len(queue) > 3 * gpus else 1, ("large", large, 1))
    lengths = {name: each for name, _, each in queue}
    clock, bound = 0, math.inf
    while queue or ends or book.waiting:
        while queue and book.waiting < 4:
            name, share, _ = queue.pop(0)
            offer(book, **{name: share})
        for name in started(book):
            assert name != "large" or clock <= bound
            heapq.heappush(ends, (clock + lengths[name], name))
        if "large" in book._waiting and book._waiting["large"].overtaken >= PATIENCE and bound == math.inf:
            bound = max(end for end, _ in ends)
        assert ends, "somebody runs as long as somebody waits"
        clock, name = heapq.heappop(ends)
        book.end(name)
