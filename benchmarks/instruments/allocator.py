"""CUDA's caching allocator, simulated: how much it reserves for a sequence of blocks that are taken and given back.

After c10/cuda/CUDACachingAllocator.cpp (2.13): sizes are rounded up to 512 bytes; blocks up to 1 MiB come from
segments of 2 MiB, larger ones from segments of 20 MiB, those of 10 MiB and more from one of their own in steps of 2;
the best fit of what is free is split, and neighbours that are free are joined. With `expandable` a pool is one segment
that grows in pages (2 and 20 MiB), so that what is free at its end is never lost. Nothing is given back to the card, as
while there is enough of it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 2**20
BLOCK, SMALL, SMALL_SEGMENT, LARGE_SEGMENT, LARGE, STEP = 512, MIB, 2 * MIB, 20 * MIB, 10 * MIB, 2 * MIB


@dataclass
class _Piece:
    """A part of a segment: free or taken; its neighbours are in the same segment."""

    start: int
    size: int
    free: bool = True
    before: _Piece | None = None
    after: _Piece | None = None


class _Pool:
    """Segments of one kind. Addresses only order pieces of equal size."""

    def __init__(self, *, small: bool, expandable: bool) -> None:
        self.small, self.expandable = small, expandable
        self.reserved = 0
        self._free: list[tuple[int, int]] = []  # (size, start), ascending
        self._at: dict[int, _Piece] = {}
        self._end = 0
        self._last: _Piece | None = None

    def take(self, size: int) -> _Piece:
        """The best fit, split where enough is left."""
        place = bisect.bisect_left(self._free, (size, -1))
        piece = self._at[self._free[place][1]] if place < len(self._free) else self._grow(size)
        self._remove(piece)
        left = piece.size - size
        if left >= BLOCK if self.small or self.expandable else left > SMALL:
            rest = _Piece(piece.start + size, left, before=piece, after=piece.after)
            if piece.after is not None:
                piece.after.before = rest
            if self._last is piece:
                self._last = rest
            piece.after, piece.size = rest, size
            self._add(rest)
        piece.free = False
        return piece

    def give_back(self, piece: _Piece) -> None:
        """Free it, joined with what is free beside it."""
        piece.free = True
        if piece.after is not None and piece.after.free:
            self._remove(piece.after)
            self._join(piece, piece.after)
        if piece.before is not None and piece.before.free:
            self._remove(piece.before)
            first = piece.before
            self._join(first, piece)
            piece = first
        self._add(piece)

    def _grow(self, size: int) -> _Piece:
        if self.expandable:
            page = SMALL_SEGMENT if self.small else LARGE_SEGMENT
            there = self._last.size if self._last is not None and self._last.free else 0
            grown = -(-(size - there) // page) * page
            piece = _Piece(self._end, grown, before=self._last)
            if self._last is not None:
                self._last.after = piece
                if self._last.free:
                    self._remove(self._last)
                    first = self._last
                    self._join(first, piece)
                    piece = first
            self._last = piece
        else:
            grown = SMALL_SEGMENT if self.small else LARGE_SEGMENT if size < LARGE else -(-size // STEP) * STEP
            piece = _Piece(self._end, grown)
        self._end += grown
        self.reserved += grown
        self._add(piece)
        return piece

    def _join(self, first: _Piece, second: _Piece) -> None:
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        if self._last is second:
            self._last = first

    def _add(self, piece: _Piece) -> None:
        bisect.insort(self._free, (piece.size, piece.start))
        self._at[piece.start] = piece

    def _remove(self, piece: _Piece) -> None:
        del self._free[bisect.bisect_left(self._free, (piece.size, piece.start))]
        del self._at[piece.start]


def reserved(events: Iterable[tuple[int, int]], *, expandable: bool) -> int:
    """Bytes reserved at the end, which is the most: events are (block, bytes), 0 bytes giving the block back."""
    pools = {small: _Pool(small=small, expandable=expandable) for small in (True, False)}
    taken: dict[int, tuple[_Pool, _Piece]] = {}
    for block, size in events:
        if size:
            rounded = -(-size // BLOCK) * BLOCK
            pool = pools[rounded <= SMALL]
            taken[block] = pool, pool.take(rounded)
        elif block in taken:  # a block of no bytes is never taken
            pool, piece = taken.pop(block)
            pool.give_back(piece)
    return sum(pool.reserved for pool in pools.values())
