"""The gate: no card is promised twice, cores and host memory count, time is shared."""

from __future__ import annotations

import math

import pytest

from ablate.scheduling.placement import STEP, TURN, Gate, Need, Node, Start, rate


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


def test_workers_of_one_trial_do_not_share_what_only_one_of_them_can_have():
    alone = gate(gpus=0, cpus=1)
    alone.offer("four", Need(cpu=1, gpu=0, workers=4))
    assert started(alone) == []
    apart = gate(gpus=0, cpus=3, nodes=2)
    apart.offer("three", Need(cpu=2, gpu=0, workers=3))
    assert started(apart) == [], "a node has cores for one of them"
    beside = gate(gpus=0, cpus=8, host_gib=8)
    beside.offer("first", Need(cpu=1, gpu=0, host_gib=3))
    beside.offer("pair", Need(cpu=1, gpu=0, host_gib=3, workers=2))
    assert started(beside) == ["first"]
    beside.end("first")
    assert started(beside) == ["pair"]
    huge = gate(gpus=0, cpus=8, host_gib=8)
    huge.offer("huge", Need(cpu=1, gpu=0, host_gib=30, workers=2))
    assert started(huge) == ["huge"], "alone, it is tried"


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
