"""The gate's queue: a trial is overtaken, but not for ever, whatever comes and whatever the nodes are."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.scheduling import placement
from ablate.scheduling.placement import PATIENCE, Gate, Need, Node
from tests.scheduling.test_placement import gate, offer, started


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


def test_a_card_is_kept_where_the_trial_can_run_and_no_other():
    book = Gate([Node.of("small", cpus=2, gpus=1), Node.of("large", cpus=8, gpus=1)])
    offer(book, a=0.2, b=0.2, c=0.2, d=0.2)
    assert started(book) == ["a", "b", "c", "d"]
    book.offer("four cores", Need(cpu=4, gpu=0.9))
    for turn in range(PATIENCE):
        offer(book, **{f"small{turn}": 0.2})
        assert started(book) == [f"small{turn}"]
        book.end(f"small{turn}")
    offer(book, e=0.2)
    assert started(book) == [], "the card beside eight cores is kept; beside two, both are taken"
    book.end("a")
    assert started(book) == ["e"], "the other card is open to all"
    book.end("c")
    book.end("d")
    assert started(book) == ["four cores"]


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
            workers=st.sampled_from([1, 1, 1, 2, 3]),
            host_gib=st.sampled_from([1.0, 4.0, 30.0]),
            busy=st.sampled_from([None, 0.2, 0.5, 0.9, 1.0]),
        ),
        hours=st.integers(1, 9),
    ),
    min_size=1,
    max_size=40,
)

SIZES = st.lists(st.tuples(st.sampled_from([2, 4, 7]), st.integers(0, 3)), min_size=1, max_size=3)
"""Cores and cards of every node."""


def cluster(sizes: Sequence[tuple[int, int]]) -> list[Node]:
    return [Node.of(f"node{n}", cpus=cpus, gpus=gpus, host_gib=16) for n, (cpus, gpus) in enumerate(sizes)]


@settings(deadline=None, max_examples=100)
@given(jobs=JOBS, sizes=SIZES, ahead=st.integers(1, 12), patience=st.integers(1, PATIENCE))
def test_whatever_comes_nothing_is_promised_twice_and_everybody_starts_in_time(
    jobs: Sequence[Job], sizes: Sequence[tuple[int, int]], ahead: int, patience: int
):
    """A queue is played through: `ahead` trials wait, hours pass. The oldest, once it was overtaken often enough, waits
    for those alone that run then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "PATIENCE", patience)
        play(jobs, sizes, ahead=ahead, patience=patience)


def play(jobs: Sequence[Job], sizes: Sequence[tuple[int, int]], *, ahead: int, patience: int) -> None:
    jobs = [job for job in jobs if Gate(cluster(sizes)).has_place_for(job.need)]
    book = Gate(cluster(sizes))
    queue = list(enumerate(jobs))
    ends: list[tuple[int, str]] = []
    bounds: dict[str, int] = {}
    clock, order = 0, []
    while queue or ends or book.waiting:
        while queue and book.waiting < ahead:
            number, job = queue.pop(0)
            book.offer(str(number), job.need)
        for start in iter(book.start, None):
            order.append(int(start.name))
            job = jobs[int(start.name)]
            assert start.gpu >= job.need.gpu
            assert start.name not in bounds or clock <= bounds[start.name]
            heapq.heappush(ends, (clock + job.hours, start.name))
        for node in book._nodes:
            assert all(card.free > -1e-6 for card in node.cards), "a card is held more than once"
            assert book._free_cpus(node) > -1e-6
            alone = len({name for name, _ in book._on(node)}) <= 1
            assert alone or book._free_host_gib(node) > -1e-6
        assert ends or not book.waiting, "somebody runs as long as somebody waits"
        for name, waiting in list(book._waiting.items())[:1]:
            if waiting.overtaken >= patience:
                bounds.setdefault(name, max(end for end, _ in ends))
        if ends:
            clock, name = heapq.heappop(ends)
            book.end(name)
    assert sorted(order) == list(range(len(jobs))), "everybody started"


@settings(deadline=None, max_examples=200)
@given(
    hours=st.lists(st.integers(1, 20), min_size=4, max_size=60),
    large=st.sampled_from([0.6, 0.8, 1.0]),
    cores=st.lists(st.sampled_from([2, 8]), min_size=1, max_size=4).filter(lambda cores: 8 in cores),
)
def test_a_large_trial_starts_when_those_that_ran_have_ended(hours: list[int], large: float, cores: list[int]):
    """However many small ones come, once it has been overtaken often enough it waits for running trials alone; nodes
    of a card each, of which some have too few cores for it."""
    book = Gate([Node.of(f"node{n}", cpus=each, gpus=1) for n, each in enumerate(cores)])
    ends: list[tuple[int, str]] = []
    queue = [(f"small{n}", Need(cpu=1, gpu=0.3), each) for n, each in enumerate(hours)]
    queue.insert(3 * len(cores) if len(queue) > 3 * len(cores) else 1, ("large", Need(cpu=4, gpu=large), 1))
    lengths = {name: each for name, _, each in queue}
    clock, bound = 0, math.inf
    while queue or ends or book.waiting:
        while queue and book.waiting < 4:
            name, need, _ = queue.pop(0)
            book.offer(name, need)
        for name in started(book):
            assert name != "large" or clock <= bound
            heapq.heappush(ends, (clock + lengths[name], name))
        if "large" in book._waiting and book._waiting["large"].overtaken >= PATIENCE and bound == math.inf:
            bound = max(end for end, _ in ends)
        assert ends, "somebody runs as long as somebody waits"
        clock, name = heapq.heappop(ends)
        book.end(name)
