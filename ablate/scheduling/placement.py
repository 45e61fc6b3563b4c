"""Decides which waiting trial starts next, and on which GPU. Pure: it records what is free and applies the rules.

Ray holds every share too, so GPU memory is never assigned twice even if this record is wrong. The gate decides which
trial enters Ray's queue and predicts where Ray will put it. Ray puts a share of a GPU on the fullest GPU that still has
it, which is best fit by memory and the rule here as well. Where a trial should avoid that GPU (its time is used up, or
it is reserved for an older trial), its share is made slightly larger than what is free there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

MAX_OVERTAKES = 8
"""After so many later trials have started before a waiting one, a GPU is reserved for it."""

TURN = 0.03
"""Share of a GPU's work that each further process costs where kernels take turns: cache refills, context switches.
An assumption, not a measurement; `benchmarks.gpu_check` measures pairs."""

STEP = 1e-4
"""The resolution of Ray's shares."""

_SLACK = 1e-9


@dataclass(frozen=True)
class Need:
    """What each of a trial's `workers` takes: CPU cores, host memory, and a share of a GPU (below 1) or whole GPUs.

    `busy`: the share of the time for which the trial, alone on a GPU, keeps it busy. None: the GPU's time is not
    counted (the user chose the share, or MPS runs, under which kernels do not take turns).
    """

    cpu: float
    gpu: float
    workers: int = 1
    host_gib: float = 0.0
    busy: float | None = None


@dataclass(eq=False)
class Card:
    """A GPU: the share that each trial holds, and how busy each keeps it. `label` is Ray's name of it, once known."""

    label: str = ""
    held: dict[str, float] = field(default_factory=dict)
    busy: dict[str, float | None] = field(default_factory=dict)

    @property
    def free(self) -> float:
        """The share that no trial holds."""
        return 1.0 - math.fsum(self.held.values())

    def gains(self, busy: float | None) -> bool:
        """Whether the GPU gets more work done with one more trial that is this busy."""
        there = [each for each in self.busy.values() if each is not None]
        return busy is None or not there or rate([*there, busy]) > rate(there)


@dataclass(eq=False)
class Node:
    """A machine and its resources for trials."""

    name: str
    cpus: float
    host_gib: float
    cards: list[Card]

    @classmethod
    def of(cls, name: str, *, cpus: float, gpus: int, host_gib: float = math.inf) -> Node:
        """An idle machine."""
        return cls(name, cpus, host_gib, [Card() for _ in range(gpus)])


@dataclass(frozen=True)
class Start:
    """A trial that starts now; each of its workers holds the share `gpu`, which is at least what it needs."""

    name: str
    gpu: float


@dataclass
class _Placement:
    """Where a worker runs."""

    node: Node
    cards: list[Card]
    share: float


@dataclass
class _Waiting:
    need: Need
    overtaken: int = 0


def rate(busy: Sequence[float]) -> float:
    """Work per second of a GPU that trials this busy share, relative to a GPU that is always busy.

    A trial alone keeps it busy for a share u of the time. Several take turns: their work adds up until the GPU is never
    idle (k trials gain at most 1/u), less `TURN` for every trial beyond the first.
    """
    return min(1.0, math.fsum(busy)) * (1.0 - TURN) ** max(0, len(busy) - 1)


class Gate:
    """The waiting trials, oldest first, and what the running ones hold.

    A trial that fits may overtake older ones that do not fit, until one was overtaken `MAX_OVERTAKES` times. Then a GPU
    is reserved for that one, and it starts once the trials on that GPU have ended. If it waits for several GPUs or for
    cores, no later trial starts before it.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = list(nodes)
        self._waiting: dict[str, _Waiting] = {}
        self._running: dict[str, tuple[Need, list[_Placement]]] = {}
        self._reserved: tuple[str, Node, Card] | None = None

    @property
    def waiting(self) -> int:
        """The number of waiting trials."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """The number of running trials."""
        return len(self._running)

    def offer(self, name: str, need: Need, *, first: bool = False) -> None:
        """Add a waiting trial; `first` puts one that has waited before in front of all others."""
        assert name not in self._waiting, "a trial waits once"
        assert name not in self._running, "a trial that runs does not wait"
        later = dict(self._waiting) if first else {}
        if first:
            self._waiting.clear()
        self._waiting[name] = _Waiting(need)
        self._waiting |= later

    def start(self) -> Start | None:
        """Start the next trial that may start now, and record what it holds; None where there is none."""
        self._reserve_card()
        for position, (name, waiting) in enumerate(self._waiting.items()):
            if not self._place_trial(name, waiting.need):
                if waiting.overtaken >= MAX_OVERTAKES and self._reserved is None:
                    return None  # it waits for several GPUs or for cores, and later trials wait with it
                continue
            for earlier in list(self._waiting.values())[:position]:
                earlier.overtaken += 1
            del self._waiting[name]
            if self._reserved and self._reserved[0] == name:
                self._reserved = None
            _, placements = self._running[name]
            return Start(name, max((placement.share for placement in placements), default=0.0))
        return None

    def could_start(self, need: Need) -> bool:
        """Whether a trial with this need could start now, waiting trials aside."""
        fits = self._place_trial("", need)
        if fits:
            self.end("")
        return fits

    def end(self, name: str) -> None:
        """Free what an ended trial held."""
        _, placements = self._running.pop(name)
        _release(name, placements)

    def record_busy(self, name: str, *, busy: float) -> float:
        """Record that a running trial's GPU is busy for this share of the time. Returns the trial's part: an equal part
        for each trial on the GPU."""
        need, placements = self._running[name]
        cards = [card for placement in placements for card in placement.cards]
        part = busy / max((len(card.held) for card in cards), default=1)
        for card in cards:
            card.busy[name] = None if need.busy is None else part
        return part

    def card_of(self, name: str) -> int:
        """Number, over all machines, of the GPU that the record gives to the first worker of a running trial."""
        (_, (placement, *_)) = self._running[name]
        return next(number for number, (_, card) in enumerate(self._all_cards()) if card is placement.cards[0])

    def correct_card(self, name: str, *, node: str, card: str) -> None:
        """Correct the record: Ray put a trial, of one worker with a share of a GPU, on the GPU that it calls `card`.

        Ray may choose either of two equally full GPUs, and it chooses nodes by its own rules.
        """
        need, placements = self._running[name]
        there = next((each for each in self._nodes if each.name == node), None)
        if need.workers > 1 or not 0 < need.gpu < 1 or there is None:
            return
        assumed, (held,) = placements[0], placements[0].cards
        candidates = [each for each in there.cards if each.label == card]
        candidates += [each for each in (held, *there.cards) if not each.label and each in there.cards]
        if not candidates:
            return
        candidates[0].label = card
        if candidates[0] is held:
            return
        busy = held.busy[name]
        _release(name, placements)
        placement = _Placement(there, [candidates[0]], assumed.share)
        _hold(name, placement, need)
        placement.cards[0].busy[name] = busy
        self._running[name] = need, [placement]

    # ---- rules

    def _reserve_card(self) -> None:
        """Reserve a GPU for the oldest trial once it was overtaken too often: the freest on a node with its cores."""
        if self._reserved is not None or not self._waiting:
            return
        name, waiting = next(iter(self._waiting.items()))
        if waiting.overtaken < MAX_OVERTAKES or waiting.need.workers > 1 or not 0 < waiting.need.gpu < 1:
            return
        able = [found for found in self._all_cards() if found[0].cpus + _SLACK >= waiting.need.cpu]
        if able:
            self._reserved = name, *max(able, key=lambda found: found[1].free)

    def _place_trial(self, name: str, need: Need) -> bool:
        """Record places for all workers of a trial. False, and nothing recorded, where one of them finds no place."""
        placements: list[_Placement] = []
        self._running[name] = need, placements  # its next workers cannot take what its first ones hold
        for _ in range(need.workers):
            placement = self._place_worker(name, need)
            if placement is None:
                self.end(name)
                return False
            _hold(name, placement, need)
            placements.append(placement)
        return True

    def _place_worker(self, name: str, need: Need) -> _Placement | None:
        nodes = [node for node in self._nodes if self._has_room(node, name, need)]
        if need.gpu == 0:
            tightest = min(nodes, key=self._free_cpus, default=None)
            return tightest and _Placement(tightest, [], 0.0)
        if need.gpu >= 1:
            return next(self._whole_cards(nodes, name, count=round(need.gpu)), None)
        placements = [placement for node in nodes if (placement := self._share_of_a_card(node, name, need))]
        return min(placements, key=lambda placement: placement.cards[0].free, default=None)

    def _whole_cards(self, nodes: Iterable[Node], name: str, *, count: int) -> Iterator[_Placement]:
        for node in nodes:
            idle = [card for card in node.cards if not card.held and not self._is_reserved_for_another(card, name)]
            if len(idle) >= count:
                yield _Placement(node, idle[:count], float(count))

    def _share_of_a_card(self, node: Node, name: str, need: Need) -> _Placement | None:
        """The fullest GPU that the trial may use, with a share that is too large for fuller ones that it must avoid."""
        fitting = sorted((card for card in node.cards if card.free + _SLACK >= need.gpu), key=lambda card: card.free)
        share = need.gpu
        for card in fitting:
            if self._is_reserved_for_another(card, name) or not card.gains(need.busy):
                share = max(share, round(card.free + STEP, 4))
            elif card.free + _SLACK >= share:
                return _Placement(node, [card], share)
        return None

    def _is_reserved_for_another(self, card: Card, name: str) -> bool:
        return self._reserved is not None and self._reserved[2] is card and self._reserved[0] != name

    def _has_room(self, node: Node, name: str, need: Need) -> bool:
        """Whether the node has the cores and host memory, without those that the trial with the reserved GPU needs.

        A trial that is alone on the node may use all its memory: predicted memory is a guess and must not block it.
        """
        cpus, host_gib = self._free_cpus(node), self._free_host_gib(node)
        if self._reserved and self._reserved[0] != name and self._reserved[1] is node:
            waiting = self._waiting[self._reserved[0]].need
            cpus, host_gib = cpus - waiting.cpu, host_gib - waiting.host_gib
        alone = all(other == name for other, _ in self._workers_on(node))
        return cpus + _SLACK >= need.cpu and (alone or host_gib + _SLACK >= need.host_gib)

    def _free_cpus(self, node: Node) -> float:
        return node.cpus - math.fsum(need.cpu for _, need in self._workers_on(node))

    def _free_host_gib(self, node: Node) -> float:
        return node.host_gib - math.fsum(need.host_gib for _, need in self._workers_on(node))

    def _workers_on(self, node: Node) -> Iterator[tuple[str, Need]]:
        """The trial and the need of every worker on the node."""
        running = self._running.items()
        return ((name, need) for name, (need, places) in running for place in places if place.node is node)

    def _all_cards(self) -> Iterator[tuple[Node, Card]]:
        return ((node, card) for node in self._nodes for card in node.cards)


def _hold(name: str, placement: _Placement, need: Need) -> None:
    for card in placement.cards:
        card.held[name] = card.held.get(name, 0.0) + min(1.0, placement.share)
        card.busy[name] = need.busy


def _release(name: str, placements: Iterable[_Placement]) -> None:
    for card in (card for placement in placements for card in placement.cards):
        card.held.pop(name, None)
        card.busy.pop(name, None)
