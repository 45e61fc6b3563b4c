"""The gate's queue: a trial is overtaken a bounded number of times, for any trials and any nodes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.scheduling import placement
from ablate.scheduling.placement import MAX_OVERTAKES, Gate, Need, Node
from tests.scheduling.test_placement import make_gate, offer, started


def test_a_gpu_is_reserved_for_a_trial_that_was_overtaken_too_often():
    gate = make_gate(gpus=2)
    offer(gate, a=0.5, b=0.5, c=0.5, large=0.8)
    assert started(gate) == ["a", "b", "c"]
    for turn in range(MAX_OVERTAKES):
        offer(gate, **{f"small{turn}": 0.4})
        assert started(gate) == [f"small{turn}"]
        gate.end(f"small{turn}")
    offer(gate, late=0.4)
    assert started(gate) == [], "the emptier GPU is reserved, and the other one is full"
    gate.end("a")
    assert started(gate) == ["late"], "the other card is open to all"
    gate.end("c")
    assert started(gate) == ["large"]


def test_the_reserved_gpu_is_on_a_node_with_enough_cores():
    gate = Gate([Node.of("small", cpus=2, gpus=1), Node.of("large", cpus=8, gpus=1)])
    offer(gate, a=0.2, b=0.2, c=0.2, d=0.2)
    assert started(gate) == ["a", "b", "c", "d"]
    gate.offer("four cores", Need(cpu=4, gpu=0.9))
    for turn in range(MAX_OVERTAKES):
        offer(gate, **{f"small{turn}": 0.2})
        assert started(gate) == [f"small{turn}"]
        gate.end(f"small{turn}")
    offer(gate, e=0.2)
    assert started(gate) == [], "the GPU of the large node is reserved; the small node has no core left"
    gate.end("a")
    assert started(gate) == ["e"], "the other card is open to all"
    gate.end("c")
    gate.end("d")
    assert started(gate) == ["four cores"]


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
"""Cores and GPUs of every node."""


def cluster(sizes: Sequence[tuple[int, int]]) -> list[Node]:
    return [Node.of(f"node{n}", cpus=cpus, gpus=gpus, host_gib=16) for n, (cpus, gpus) in enumerate(sizes)]


@settings(deadline=None, max_examples=100)
@given(jobs=JOBS, sizes=SIZES, ahead=st.integers(1, 12), patience=st.integers(1, MAX_OVERTAKES))
def test_any_queue_starts_completely_in_bounded_time_and_without_overcommitment(
    jobs: Sequence[Job], sizes: Sequence[tuple[int, int]], ahead: int, patience: int
):
    """Simulates a queue of which `ahead` trials wait. The oldest, once it was overtaken too often, waits only for
    trials that run at that time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "MAX_OVERTAKES", patience)
        simulate(jobs, sizes, ahead=ahead, patience=patience)


def simulate(jobs: Sequence[Job], sizes: Sequence[tuple[int, int]], *, ahead: int, patience: int) -> None:
    jobs = [job for job in jobs if Gate(cluster(sizes)).could_start(job.need)]
    gate = Gate(cluster(sizes))
    queue = list(enumerate(jobs))
    ends: list[tuple[int, str]] = []
    bounds: dict[str, int] = {}
    clock, order = 0, []
    while queue or ends or gate.waiting:
        while queue and gate.waiting < ahead:
            number, job = queue.pop(0)
            gate.offer(str(number), job.need)
        for start in iter(gate.start, None):
            order.append(int(start.name))
            job = jobs[int(start.name)]
            assert start.gpu >= job.need.gpu
            assert start.name not in bounds or clock <= bounds[start.name]
            heapq.heappush(ends, (clock + job.hours, start.name))
        for node in gate._nodes:
            assert all(card.free > -1e-6 for card in node.cards), "a GPU is assigned twice"
            assert gate._free_cpus(node) > -1e-6
            alone = len({name for name, _ in gate._workers_on(node)}) <= 1
            assert alone or gate._free_host_gib(node) > -1e-6
        assert ends or not gate.waiting, "a trial runs as long as one waits"
        for name, waiting in list(gate._waiting.items())[:1]:
            if waiting.overtaken >= patience:
                bounds.setdefault(name, max(end for end, _ in ends))
        if ends:
            clock, name = heapq.heappop(ends)
            gate.end(name)
    assert sorted(order) == list(range(len(jobs))), "every trial started"


@settings(deadline=None, max_examples=200)
@given(
    hours=st.lists(st.integers(1, 20), min_size=4, max_size=60),
    large=st.sampled_from([0.6, 0.8, 1.0]),
    cores=st.lists(st.sampled_from([2, 8]), min_size=1, max_size=4).filter(lambda cores: 8 in cores),
)
def test_a_large_trial_starts_once_the_trials_that_ran_have_ended(hours: list[int], large: float, cores: list[int]):
    """Once it was overtaken too often it waits only for running trials, however many small ones are offered. Each node
    has a GPU; some have too few cores for it."""
    gate = Gate([Node.of(f"node{n}", cpus=each, gpus=1) for n, each in enumerate(cores)])
    ends: list[tuple[int, str]] = []
    queue = [(f"small{n}", Need(cpu=1, gpu=0.3), each) for n, each in enumerate(hours)]
    queue.insert(3 * len(cores) if len(queue) > 3 * len(cores) else 1, ("large", Need(cpu=4, gpu=large), 1))
    lengths = {name: each for name, _, each in queue}
    clock, bound = 0, math.inf
    while queue or ends or gate.waiting:
        while queue and gate.waiting < 4:
            name, need, _ = queue.pop(0)
            gate.offer(name, need)
        for name in started(gate):
            assert name != "large" or clock <= bound
            heapq.heappush(ends, (clock + lengths[name], name))
        if "large" in gate._waiting and gate._waiting["large"].overtaken >= MAX_OVERTAKES and bound == math.inf:
            bound = max(end for end, _ in ends)
        assert ends, "a trial runs as long as one waits"
        clock, name = heapq.heappop(ends)
        gate.end(name)
