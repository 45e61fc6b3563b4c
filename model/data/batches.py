"""Documents into rows of T tokens, and rows into batches whose order is a pure function of (seed, epoch, position).

Best-fit decreasing packs the rows (Ding et al. 2024, arXiv 2404.10830, section 3): documents stay whole unless they are
longer than a row, no token is lost, and few positions are padding. A row is [EOS], then documents, each followed by its
EOS, with T targets in all: x = row[:-1], y = row[1:].

Letters: B rows in a batch, T `seq_len`, R rows in an epoch, P pieces (documents, or the parts of a long one).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.config import Config, reseeded, stream_seed
from model.data.token_documents import TokenDocuments, end_documents

IGNORED = -100
"""The target of a padded position: PyTorch's cross-entropy ignores it."""

_COPIED_PIECES = 65_536

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Rows:
    """R packed rows without their padding. `tokens`: int32; the targets of row r are `tokens[starts[r]:starts[r + 1]]`;
    `starts`: int64 [R + 1]. `facts`: of each token (TokenDocuments)."""

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    facts: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batch(self, rows_B: Sequence[int] | NDArray[np.int64], *, seq_len: int, eos_id: int, pad_id: int) -> Batch:
        """(x, y), int64 [B, T] each: rows `rows_B` with their padding, `pad_id` in x and IGNORED in y."""
        x_BT = np.full((len(rows_B), seq_len), pad_id, dtype=np.int64)
        y_BT = np.full((len(rows_B), seq_len), IGNORED, dtype=np.int64)
        x_BT[:, 0] = eos_id
        for b, r in enumerate(rows_B):
            targets = self.tokens[self.starts[r] : self.starts[r + 1]]
            x_BT[b, 1 : len(targets)] = targets[:-1]
            y_BT[b, : len(targets)] = targets
        return x_BT, y_BT

    def facts_of(self, rows_B: Sequence[int] | NDArray[np.int64], *, seq_len: int) -> NDArray[np.int64]:
        """The fact of each target that belongs to an object, -1 for every other: int64 [B, T]."""
        facts_BT = np.full((len(rows_B), seq_len), -1, dtype=np.int64)
        if self.facts is not None:
            for b, r in enumerate(rows_B):
                targets = self.facts[self.starts[r] : self.starts[r + 1]]
                facts_BT[b, : len(targets)] = targets
        return facts_BT


class Batches:
    """Endless training batches. `batch(step)` depends on the seed and the step only, so a resumed run reads the same.

    Documents are packed once, and each epoch shuffles the rows. So every epoch has the same R rows, any step is found
    without replaying the steps before it, and a budget in epochs is a number of steps known at the start. The price is
    that the documents of a row stay together in every epoch.
    """

    def __init__(
        self,
        documents: TokenDocuments | Sequence[Sequence[int]],
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        eos_id: int,
        pad_id: int,
    ) -> None:
        ended = _ended(documents, eos_id=eos_id)
        assert len(ended), "a corpus has documents"
        self._rows = pack(ended, seq_len=seq_len, generator=np.random.default_rng(stream_seed(seed, "packing")))
        self._seq_len, self._batch_size, self._seed = seq_len, batch_size, seed
        self._eos_id, self._pad_id = eos_id, pad_id

    @classmethod
    def of(cls, documents: TokenDocuments, *, config: Config, eos_id: int, pad_id: int) -> Batches:
        """The batches that a run of `config` trains on; `documents` are its training text."""
        seed = reseeded(config.train.seed, config.train.reseed)
        size = {"seq_len": config.model.max_seq_len, "batch_size": config.train.batch_size}
        return cls(documents, **size, seed=seed, eos_id=eos_id, pad_id=pad_id)

    @property
    def rows_per_epoch(self) -> int:
        """R, the same in every epoch."""
        return len(self._rows)

    @property
    def tokens_per_epoch(self) -> int:
        """Positions of R rows, padding included."""
        return self.rows_per_epoch * self._seq_len

    def steps_for(self, epochs: float) -> int:
        """The fewest steps, at least one, that read `epochs` times R rows."""
        return max(1, math.ceil(round(epochs * self.rows_per_epoch / self._batch_size, 9)))

    def batch(self, step: int) -> Batch:
        """(x, y) of a step (counted from 0), int64 [B, T] each. Batches are full: where an epoch ends within a batch,
        the first rows of the next epoch follow."""
        return self._read(range(step * self._batch_size, (step + 1) * self._batch_size))

    def rank_batch(self, step: int, *, rank: int, world: int) -> Batch:
        """This rank's rows of the batch: every `world`-th one, from `rank` on."""
        return self._read(range(step * self._batch_size, (step + 1) * self._batch_size)[rank::world])

    def rank_facts(self, step: int, *, rank: int, world: int) -> NDArray[np.int64]:
        """The fact of each target of `rank_batch` that belongs to an object, -1 for every other: int64 [B, T]."""
        positions = range(step * self._batch_size, (step + 1) * self._batch_size)[rank::world]
        return self._rows.facts_of(self._at(positions), seq_len=self._seq_len)

    def _read(self, positions: range) -> Batch:
        rows_B = self._at(positions)
        return self._rows.batch(rows_B, seq_len=self._seq_len, eos_id=self._eos_id, pad_id=self._pad_id)

    def _at(self, positions: range) -> list[int]:
        """The rows at these positions, which count rows from the start of the run."""
        R = len(self._rows)
        return [int(_epoch_order(self._seed, position // R, R)[position % R]) for position in positions]


class FixedRows(NamedTuple):
    """Validation text, int64 [R, T] each, and how many documents, from the first on, it holds. `facts`: of each target
    that belongs to an object the number of its fact, -1 for every other; None where nobody knows. `entries`: the bank's
    entries of these facts, for a model that is told them."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    documents_used: int
    facts: NDArray[np.int64] | None = None
    entries: NDArray[np.int64] | None = None


def fixed_rows(
    documents: TokenDocuments | Sequence[Sequence[int]], *, seq_len: int, eos_id: int, pad_id: int, max_tokens: int
) -> FixedRows:
    """The first whole documents of at most `max_tokens` targets together, at least one document. Not shuffled."""
    ended = _ended(documents, eos_id=eos_id)
    used = max(1, int(np.searchsorted(ended.starts[1:], max_tokens, side="right")))
    rows = pack(ended.first(used), seq_len=seq_len, generator=None)
    x_RT, y_RT = rows.batch(range(len(rows)), seq_len=seq_len, eos_id=eos_id, pad_id=pad_id)
    facts_RT = None if rows.facts is None else rows.facts_of(range(len(rows)), seq_len=seq_len)
    return FixedRows(x_RT, y_RT, used, facts_RT)


def pack(documents: TokenDocuments, *, seq_len: int, generator: np.random.Generator | None) -> Rows:
    """Every token of every document once, in as few rows of at most `seq_len` targets as best-fit decreasing finds.

    A document longer than a row is cut into full rows and a rest. A generator shuffles which documents of a length
    share a row, and their order in it; without one, packing keeps the documents' order where it can.
    """
    begins_P, lengths_P = _pieces(documents, seq_len=seq_len)
    if generator is not None:
        order_P = generator.permutation(len(begins_P))
        begins_P, lengths_P = begins_P[order_P], lengths_P[order_P]
    rows_P = best_fit(lengths_P, capacity=seq_len)
    by_row_P = np.argsort(rows_P, kind="stable")
    targets_R = np.bincount(rows_P, weights=lengths_P).astype(np.int64)
    tokens = _gather(documents.ids, begins_P[by_row_P], lengths_P[by_row_P])
    facts = None if documents.facts is None else _gather(documents.facts, begins_P[by_row_P], lengths_P[by_row_P])
    return Rows(tokens, np.concatenate(([0], np.cumsum(targets_R))), facts)


def best_fit(lengths_P: NDArray[np.int64], *, capacity: int) -> NDArray[np.int64]:
    """The row of each piece under best-fit decreasing: longest first, into the fullest row that has space for it.

    Rows with equal space are interchangeable, and so are pieces of equal length. So this loops over pairs (length,
    space), at most capacity^2, and places at once all pieces of one length that rows of one space take.
    """
    rows_P = np.empty(len(lengths_P), dtype=np.int64)
    with_space: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64) for _ in range(capacity + 1)]
    made = 0
    longest_first = np.argsort(-lengths_P, kind="stable")
    cuts = np.flatnonzero(np.diff(lengths_P[longest_first])) + 1
    for waiting in np.split(longest_first, cuts):
        if not len(waiting):
            continue
        length = int(lengths_P[waiting[0]])
        for space in range(length, capacity + 1):
            # After a row takes a piece it is the fullest that has space for the next: it is filled before another.
            each = space // length
            wanted = -(-len(waiting) // each)
            if space == capacity:
                with_space[space] = np.arange(made, made + wanted)
                made += wanted
            used, with_space[space] = with_space[space][:wanted], with_space[space][wanted:]
            placed = min(len(waiting), len(used) * each)
            if not placed:
                continue
            rows_P[waiting[:placed]] = np.repeat(used, each)[:placed]
            waiting = waiting[placed:]
            full, rest = divmod(placed, each)
            with_space[space - each * length] = np.append(with_space[space - each * length], used[:full])
            with_space[space - rest * length] = np.append(with_space[space - rest * length], used[full:])
            if not len(waiting):
                break
    return rows_P


def _ended(documents: TokenDocuments | Sequence[Sequence[int]], *, eos_id: int) -> TokenDocuments:
    return documents if isinstance(documents, TokenDocuments) else end_documents(documents, eos_id=eos_id)


def _pieces(documents: TokenDocuments, *, seq_len: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(begins, lengths), int64 [P]: each document, or the full rows and the rest that a longer one is cut into."""
    pieces_D = -(-documents.lengths // seq_len)
    document_P = np.repeat(np.arange(len(documents)), pieces_D)
    part_P = np.arange(len(document_P)) - np.repeat(np.cumsum(pieces_D) - pieces_D, pieces_D)
    begins_P = documents.starts[document_P] + part_P * seq_len
    return begins_P, np.minimum(seq_len, documents.starts[document_P + 1] - begins_P)


def _gather(ids: NDArray[np.int32], begins_P: NDArray[np.int64], lengths_P: NDArray[np.int64]) -> NDArray[np.int32]:
    """The slices `ids[begin : begin + length]`, concatenated; in parts, so that the index stays small."""
    ends_P = np.cumsum(lengths_P)
    gathered = np.empty(int(lengths_P.sum()), dtype=np.int32)
    for first in range(0, len(begins_P), _COPIED_PIECES):
        part = slice(first, first + _COPIED_PIECES)
        begins, lengths, ends = begins_P[part], lengths_P[part], ends_P[part]
        low, high = int(ends[0] - lengths[0]), int(ends[-1])
        gathered[low:high] = ids[np.repeat(begins - (ends - lengths), lengths) + np.arange(low, high)]
    return gathered


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs
def _epoch_order(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    order_R = np.random.default_rng(stream_seed(seed, f"data order/{epoch}")).permutation(rows)
    order_R.setflags(write=False)  # the cache shares it
    return order_R
