"""Which waiting trials start on which card. Pure: a book of what is free, and the rules by which it is given away.

Ray holds every share that is written here, so a card's memory is never promised twice, whatever this book says; the
book decides who is let in front of Ray's queue, and where Ray will then put it. Ray gives a share of a card to the
fullest card that still has it, which is best fit by memory and the rule here as well. Where that card should be left
alone, its time being used up or an older trial waiting for it, the share is made just too large for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

PATIENCE = 8
"""So often may later trials start before a waiting one; then a card is kept free for it."""

TURN = 0.03
"""What every further process on a card costs all of them, where kernels take turns: caches refilled, contexts switched.
An assumption, not a measurement; `benchmarks.gpu_check` measures pairs."""

STEP = 1e-4
"""Ray counts shares in ten-thousandths."""

_SLACK = 1e-9


@dataclass(frozen=True)
class Need:
    """What each of a trial's `workers` takes: CPU cores, host memory, and of cards a share below 1, or whole ones.

    `busy` is the share of its time for which the trial keeps a card busy when it is alone there; None: the card's time
    is nobody's concern (a share that the user chose, or MPS, under which kernels do not take turns).
    """

    cpu: float
    gpu: float
    workers: int = 1
    host_gib: float = 0.0
    busy: float | None = None


@dataclass(eq=False)
class Card:
    """A card: which share every trial holds, and how busy it keeps it. `label` is what Ray calls it, once that was
    heard."""

    label: str = ""
    held: dict[str, float] = field(default_factory=dict)
    busy: dict[str, float | None] = field(default_factory=dict)

    @property
    def free(self) -> float:
        """The share that nobody holds."""
        return 1.0 - math.fsum(self.held.values())

    def gains(self, busy: float | None) -> bool:
        """Whether one more trial, this busy, gets more work done on the card than those that are there."""
        there = [each for each in self.busy.values() if each is not None]
        return busy is None or not there or rate([*there, busy]) > rate(there)


@dataclass(eq=False)
class Node:
    """A machine with what it has for trials."""

    name: str
    cpus: float
    host_gib: float
    cards: list[Card]

    @classmethod
    def of(cls, name: str, *, cpus: float, gpus: int, host_gib: float = math.inf) -> Node:
        """A machine on which nothing runs yet."""
        return cls(name, cpus, host_gib, [Card() for _ in range(gpus)])


@dataclass(frozen=True)
class Start:
    """A trial that starts now; `gpu` is the share that each of its workers holds, at least what it needs."""

    name: str
    gpu: float


@dataclass
class _Seat:
    """Where a worker runs."""

    node: Node
    cards: list[Card]
    share: float


@dataclass
class _Waiting:
    need: Need
    overtaken: int = 0


def rate(busy: Sequence[float]) -> float:
    """Work that a card gets done a second, of what one that is always busy would, with trials this busy sharing it.

    Alone, a trial keeps it busy for a share u of the time. Several take turns: their work adds up until the card is
    never idle (k trials gain at most 1/u), less `TURN` for every one beyond the first.
    """
    return min(1.0, math.fsum(busy)) * (1.0 - TURN) ** max(0, len(busy) - 1)


class Gate:
    """The waiting trials, oldest first, and what the running ones hold.

    Any trial that fits may overtake older ones that do not, until one has been overtaken `PATIENCE` times. Then a card
    is kept for it, so that it starts when those that run there now have ended; one that needs several keeps them all.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = list(nodes)
        self._waiting: dict[str, _Waiting] = {}
        self._running: dict[str, tuple[Need, list[_Seat]]] = {}
        self._kept: tuple[str, Node, Card] | None = None

    @property
    def waiting(self) -> int:
        """Trials that were offered and have not started."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Trials that have started and not ended."""
        return len(self._running)

    def offer(self, name: str, need: Need, *, first: bool = False) -> None:
        """Let a trial wait; `first`, before all others, is for one that has waited before."""
        assert name not in self._waiting, "a trial waits once"
        assert name not in self._running, "a trial that runs does not wait"
        later = dict(self._waiting) if first else {}
        if first:
            self._waiting.clear()
        self._waiting[name] = _Waiting(need)
        self._waiting |= later

    def start(self) -> Start | None:
        """The next trial that starts now, entered in the book; None where none should."""
        self._keep()
        for position, (name, waiting) in enumerate(self._waiting.items()):
            if not self._seat_all(name, waiting.need):
                if waiting.overtaken >= PATIENCE and self._kept is None:
                    return None  # it waits for several cards, or for cores: everybody waits with it
                continue
            for earlier in list(self._waiting.values())[:position]:
                earlier.overtaken += 1
            del self._waiting[name]
            if self._kept and self._kept[0] == name:
                self._kept = None
            _, seats = self._running[name]
            return Start(name, max((seat.share for seat in seats), default=0.0))
        return None

    def has_place_for(self, need: Need) -> bool:
        """Whether a trial that needs this could start now, were it not for those that wait."""
        fits = self._seat_all("", need)
        if fits:
            self.end("")
        return fits

    def end(self, name: str) -> None:
        """A trial has ended: what it held is free."""
        _, seats = self._running.pop(name)
        _leave(name, seats)

    def learn(self, name: str, *, busy: float) -> float:
        """The card of a running trial is busy for this share of the time; returns the trial's part, an equal one of all
        that share the card."""
        need, seats = self._running[name]
        cards = [card for seat in seats for card in seat.cards]
        part = busy / max((len(card.held) for card in cards), default=1)
        for card in cards:
            card.busy[name] = None if need.busy is None else part
        return part

    def card_of(self, name: str) -> int:
        """Number of the card, over all machines, on which the first worker of a running trial is thought to be."""
        (_, (seat, *_)) = self._running[name]
        return next(number for number, (_, card) in enumerate(self._all_cards()) if card is seat.cards[0])

    def found(self, name: str, *, node: str, card: str) -> None:
        """A trial of one worker with a share of a card runs on the card that Ray calls so: the book is put right.

        Of two equally full cards Ray may take either, and it picks nodes by rules of its own.
        """
        need, seats = self._running[name]
        there = next((each for each in self._nodes if each.name == node), None)
        if need.workers > 1 or not 0 < need.gpu < 1 or there is None:
            return
        assumed, (held,) = seats[0], seats[0].cards
        candidates = [each for each in there.cards if each.label == card]
        candidates += [each for each in (held, *there.cards) if not each.label and each in there.cards]
        if not candidates:
            return
        candidates[0].label = card
        if candidates[0] is held:
            return
        busy = held.busy[name]
        _leave(name, seats)
        seat = _Seat(there, [candidates[0]], assumed.share)
        _enter(name, seat, need)
        seat.cards[0].busy[name] = busy
        self._running[name] = need, [seat]

    # ---- rules

    def _keep(self) -> None:
        """Keep a card for the oldest trial once it was overtaken often enough: the freest on a node with its cores."""
        if self._kept is not None or not self._waiting:
            return
        name, waiting = next(iter(self._waiting.items()))
        if waiting.overtaken < PATIENCE or waiting.need.workers > 1 or not 0 < waiting.need.gpu < 1:
            return
        able = [found for found in self._all_cards() if found[0].cpus + _SLACK >= waiting.need.cpu]
        if able:
            self._kept = name, *max(able, key=lambda found: found[1].free)

    def _seat_all(self, name: str, need: Need) -> bool:
        """Enter places for all of a trial's workers in the book; False, and nothing entered, where there are not."""
        seats: list[_Seat] = []
        self._running[name] = need, seats  # what its first workers take is not there for the next ones
        for _ in range(need.workers):
            seat = self._seat(name, need)
            if seat is None:
                self.end(name)
                return False
            _enter(name, seat, need)
            seats.append(seat)
        return True

    def _seat(self, name: str, need: Need) -> _Seat | None:
        nodes = [node for node in self._nodes if self._has_room(node, name, need)]
        if need.gpu == 0:
            tightest = min(nodes, key=self._free_cpus, default=None)
            return tightest and _Seat(tightest, [], 0.0)
        if need.gpu >= 1:
            return next(self._whole_cards(nodes, name, count=round(need.gpu)), None)
        seats = [seat for node in nodes if (seat := self._share_of_a_card(node, name, need))]
        return min(seats, key=lambda seat: seat.cards[0].free, default=None)

    def _whole_cards(self, nodes: Iterable[Node], name: str, *, count: int) -> Iterator[_Seat]:
        for node in nodes:
            idle = [card for card in node.cards if not card.held and not self._is_kept_from(card, name)]
            if len(idle) >= count:
                yield _Seat(node, idle[:count], float(count))

    def _share_of_a_card(self, node: Node, name: str, need: Need) -> _Seat | None:
        """The fullest card that may be used, with a share for which Ray passes over those that may not."""
        fitting = sorted((card for card in node.cards if card.free + _SLACK >= need.gpu), key=lambda card: card.free)
        share = need.gpu
        for card in fitting:
            if self._is_kept_from(card, name) or not card.gains(need.busy):
                share = max(share, round(card.free + STEP, 4))
            elif card.free + _SLACK >= share:
                return _Seat(node, [card], share)
        return None

    def _is_kept_from(self, card: Card, name: str) -> bool:
        return self._kept is not None and self._kept[2] is card and self._kept[0] != name

    def _has_room(self, node: Node, name: str, need: Need) -> bool:
        """Whether the node has cores and host memory, those counted as taken that the trial waits for that a card is
        kept for. A trial that runs alone there has all the memory there is: a guess must not lock it out."""
        cpus, host_gib = self._free_cpus(node), self._free_host_gib(node)
        if self._kept and self._kept[0] != name and self._kept[1] is node:
            kept = self._waiting[self._kept[0]].need
            cpus, host_gib = cpus - kept.cpu, host_gib - kept.host_gib
        alone = all(other == name for other, _ in self._on(node))
        return cpus + _SLACK >= need.cpu and (alone or host_gib + _SLACK >= need.host_gib)

    def _free_cpus(self, node: Node) -> float:
        return node.cpus - math.fsum(need.cpu for _, need in self._on(node))

    def _free_host_gib(self, node: Node) -> float:
        return node.host_gib - math.fsum(need.host_gib for _, need in self._on(node))

    def _on(self, node: Node) -> Iterator[tuple[str, Need]]:
        """For every worker on the node its trial, and what it needs."""
        return ((name, need) for name, (need, seats) in self._running.items() for seat in seats if seat.node is node)

    def _all_cards(self) -> Iterator[tuple[Node, Card]]:
        return ((node, card) for node in self._nodes for card in node.cards)


def _enter(name: str, seat: _Seat, need: Need) -> None:
    for card in seat.cards:
        card.held[name] = card.held.get(name, 0.0) + min(1.0, seat.share)
        card.busy[name] = need.busy


def _leave(name: str, seats: Iterable[_Seat]) -> None:
    for card in (card for seat in seats for card in seat.cards):
        card.held.pop(name, None)
        card.busy.pop(name, None)
