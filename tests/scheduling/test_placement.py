"""The gate: no GPU is assigned twice, cores and host memory count, a GPU's time is shared."""

from __future__ import annotations

import math

import pytest

from ablate.scheduling.placement import STEP, TURN, Gate, Need, Node, Start, rate


def make_gate(*, gpus: int = 1, cpus: float = 64, host_gib: float = math.inf, nodes: int = 1) -> Gate:
    return Gate([Node.of(f"node{n}", cpus=cpus, gpus=gpus, host_gib=host_gib) for n in range(nodes)])


def offer(to: Gate, **shares: float) -> None:
    """Offer trials of one core that need these shares of a GPU; its time is not counted."""
    for name, share in shares.items():
        to.offer(name, Need(cpu=1, gpu=share))


def started(by: Gate) -> list[str]:
    """The trials that start now."""
    return [start.name for start in iter(by.start, None)]


def shares(of: Gate) -> list[list[float]]:
    """The shares held of every GPU of the first node."""
    return [sorted(card.held.values()) for card in of._nodes[0].cards]


# ---- memory


def test_shares_of_a_gpu_add_up_to_one_at_most():
    gate = make_gate()
    offer(gate, a=0.1, b=0.2, c=0.7, d=0.1)
    assert started(gate) == ["a", "b", "c"]
    gate.end("b")
    assert started(gate) == ["d"]


def test_a_share_goes_to_the_fullest_gpu_that_has_it():
    gate = make_gate(gpus=3)
    offer(gate, a=0.5, b=0.7, c=0.4, d=0.3, e=0.6)
    assert started(gate) == ["a", "b", "c", "d", "e"]
    assert shares(gate) == [[0.4, 0.5], [0.3, 0.7], [0.6]]


def test_whole_gpus_are_idle_and_of_one_machine():
    gate = make_gate(gpus=2, nodes=2)
    offer(gate, part=0.3, two=2.0, also=2.0)
    assert started(gate) == ["part", "two"]
    gate.end("part")
    assert started(gate) == ["also"]


def test_all_workers_of_a_trial_start_or_none():
    gate = make_gate(gpus=1, cpus=2, nodes=2)
    gate.offer("pair", Need(cpu=2, gpu=1.0, workers=2))
    gate.offer("another", Need(cpu=2, gpu=1.0, workers=2))
    assert started(gate) == ["pair"]
    assert shares(gate) == [[1.0]]
    gate.end("pair")
    assert shares(gate) == [[]]
    assert started(gate) == ["another"]


# ---- cores and host memory


def test_resources_are_counted_for_every_worker():
    alone = make_gate(gpus=0, cpus=1)
    alone.offer("four", Need(cpu=1, gpu=0, workers=4))
    assert started(alone) == []
    apart = make_gate(gpus=0, cpus=3, nodes=2)
    apart.offer("three", Need(cpu=2, gpu=0, workers=3))
    assert started(apart) == [], "each node has cores for one worker"
    beside = make_gate(gpus=0, cpus=8, host_gib=8)
    beside.offer("first", Need(cpu=1, gpu=0, host_gib=3))
    beside.offer("pair", Need(cpu=1, gpu=0, host_gib=3, workers=2))
    assert started(beside) == ["first"]
    beside.end("first")
    assert started(beside) == ["pair"]
    huge = make_gate(gpus=0, cpus=8, host_gib=8)
    huge.offer("huge", Need(cpu=1, gpu=0, host_gib=30, workers=2))
    assert started(huge) == ["huge"], "a trial alone on a node is tried"


def test_cores_are_counted_per_machine():
    gate = make_gate(gpus=0, cpus=3, nodes=2)
    for name in "abc":
        gate.offer(name, Need(cpu=2, gpu=0))
    assert started(gate) == ["a", "b"], "one core is left on each machine, not two on one"


def test_host_memory_is_counted_but_never_blocks_a_lone_trial():
    gate = make_gate(gpus=0, host_gib=5)
    for name in "ab":
        gate.offer(name, Need(cpu=1, gpu=0, host_gib=3))
    gate.offer("huge", Need(cpu=1, gpu=0, host_gib=50))
    assert started(gate) == ["a"]
    gate.end("a")
    assert started(gate) == ["b"]
    gate.end("b")
    assert started(gate) == ["huge"], "predicted memory is a guess, so a lone trial is tried"


# ---- time


def test_a_gpu_is_shared_while_that_gets_more_done():
    assert rate([0.85]) == 0.85
    assert rate([0.85, 0.85]) / rate([0.85]) <= 1 / 0.85, "trials of utilisation u gain at most 1/u"
    assert rate([0.85, 0.85]) == pytest.approx(1 - TURN)
    gate = make_gate()
    for name in "abc":
        gate.offer(name, Need(cpu=1, gpu=0.1, busy=0.85))
    assert started(gate) == ["a", "b"], "two get 1.14 times as much done; a third adds nothing"
    idle = make_gate()
    for name in "abcde":
        idle.offer(name, Need(cpu=1, gpu=0.1, busy=0.3))
    assert started(idle) == ["a", "b", "c", "d"]


def test_a_trial_that_keeps_its_gpu_busy_stays_alone():
    gate = make_gate()
    for name in "ab":
        gate.offer(name, Need(cpu=1, gpu=0.1, busy=0.99))
    assert started(gate) == ["a"]


def test_measured_busy_time_replaces_the_assumed_one():
    gate = make_gate()
    for name in "abc":
        gate.offer(name, Need(cpu=1, gpu=0.1, busy=0.6))
    assert started(gate) == ["a", "b"]
    assert gate.record_busy("a", busy=0.4) == 0.2, "half of what two trials keep busy"
    gate.record_busy("b", busy=0.4)
    assert started(gate) == ["c"]


def test_a_share_is_too_large_for_a_gpu_whose_time_is_used_up():
    """Ray gives a share to the fullest GPU that has it, so the share is raised above what is free there."""
    gate = make_gate(gpus=2)
    gate.offer("busy", Need(cpu=1, gpu=0.4, busy=1.0))
    gate.offer("next", Need(cpu=1, gpu=0.2, busy=0.5))
    assert gate.start() == Start("busy", 0.4)
    second = gate.start()
    assert second is not None
    assert second.gpu == pytest.approx(0.6 + STEP)
    assert shares(gate)[1] == [second.gpu]


def test_the_record_is_corrected_where_ray_chose_another_gpu():
    gate = make_gate(gpus=2)
    offer(gate, a=0.6)
    started(gate)
    gate.correct_card("a", node="node0", card="GPU-1")
    offer(gate, b=0.6)
    started(gate)
    gate.correct_card("b", node="node0", card="GPU-0")
    assert shares(gate) == [[0.6], [0.6]]
    gate.end("a")
    offer(gate, c=0.5)
    assert started(gate) == ["c"]
    gate.correct_card("c", node="node0", card="GPU-1")
    gate.correct_card("c", node="nowhere", card="GPU-1")
    assert shares(gate) == [[0.5], [0.6]]
    offer(gate, d=0.4)
    started(gate)
    gate.correct_card("d", node="node0", card="GPU-0")  # the record had it on the other GPU
    assert shares(gate)[1] == [0.4, 0.6]
