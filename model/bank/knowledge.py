"""Fills a bank: sentences of a knowledge base become rows of L tokens, and the other rows get random tokens.

With `kb_layout: order` the rows follow one another. With `grid` the bank is the n x n grid that product keys address: a
fact's subject gives the row i and its predicate the column j, so a query has n + n things to learn instead of N.

Letters: N `knowledge_num` rows, L `knowledge_length` tokens a row, S sentences, P their tokens, flat; M rows of
knowledge, n = sqrt(N); cell (i, j) is i*n + j, the index that retrieval gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.config import Config, ModelConfig, reseeded, stream_seed
from model.data import Fact
from model.data.tokenizer import Spans, Tokenizer

KbFit = Literal["head", "tail", "chunk", "object_first"]

_BATCH = 16_384  # sentences placed at a time: bounds the memory of the flat arrays
_REST = 3

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class BankInit:
    """`rows`: int32 [N, L]. `filled`: how many of them hold knowledge, with `order` the first ones. `objects_kept`:
    share of the sentences with an object whose object is whole in one row; None where no sentence has an object. An
    object is not kept where its sentence does not contain it, or where the bank was full before its sentence.
    `row_of_fact`: int64, the first row that each fact made, -1 where the bank was full before."""

    rows: NDArray[np.int32]
    filled: int
    objects_kept: float | None
    row_of_fact: Ints


def initial_bank(config: Config, facts: Sequence[Fact], tokenizer: Tokenizer) -> BankInit:
    """The bank of a run before its first step: a pure function of the configuration and the knowledge."""
    return bank_rows(
        facts if config.model.kb_init == "knowledge" else (),
        tokenizer,
        config=config.model,
        generator=np.random.default_rng(stream_seed(reseeded(config.train.seed, config.train.reseed), "bank")),
    )


def bank_rows(
    facts: Sequence[Fact],
    tokenizer: Tokenizer,
    *,
    config: ModelConfig,
    generator: np.random.Generator,
) -> BankInit:
    """The first `knowledge_num` rows that `facts` make, padded with `pad_id`; random ids in the others. The rows are in
    the order of the facts, or, with `kb_layout: grid`, in the cells of `grid_cells`.

    A sentence of at most L tokens is one row. `kb_fit` decides what a longer one becomes:

    - `head`: its first L tokens;  `tail`: its last L tokens;
    - `chunk`: as many rows as it needs, L tokens in each but the last;
    - `object_first`: L tokens in this order: those of the object, of the subject, of the predicate, all others; within
      each in the sentence's order.
    """
    N, L = config.knowledge_num, config.knowledge_length
    rows_NL = np.full((N, L), tokenizer.pad_id, dtype=np.int32)
    filled = kept = 0
    sources: list[Fact] = []  # of each row
    row_of_fact = np.full(len(facts), -1, dtype=np.int64)
    for first in range(0, len(facts), _BATCH):
        if filled == N:
            break
        batch = facts[first : first + min(_BATCH, N - filled)]  # a sentence makes at least one row
        spans = tokenizer.encode_spans([fact.sentence for fact in batch])
        role_P = _roles(batch, spans)
        row_P, column_P, made_S = _PLACES[config.kb_fit](spans.text, role_P, sentences=len(batch), L=L)
        row_P = row_P + filled
        inside_P = (row_P < N) & (column_P < L) & (column_P >= 0)
        rows_NL[row_P[inside_P], column_P[inside_P]] = spans.ids[inside_P]
        first_S = filled + np.cumsum(made_S) - made_S
        row_of_fact[first : first + len(batch)] = np.where(first_S < N, first_S, -1)
        kept += _objects_kept(spans.text, row_P, is_object_P=role_P == 0, inside_P=inside_P)
        sources += [fact for fact, made in zip(batch, made_S.tolist(), strict=True) for _ in range(made)]
        filled = min(N, len(sources))
    rows_NL[filled:] = generator.integers(tokenizer.size, size=(N - filled, L), dtype=np.int32)
    if config.kb_layout == "grid":
        cells_M = grid_cells(sources[:filled], n=math.isqrt(N))
        rest = np.setdiff1d(np.arange(N), cells_M)
        rows_NL[np.concatenate([cells_M, rest])] = rows_NL.copy()
        row_of_fact[row_of_fact >= 0] = cells_M[row_of_fact[row_of_fact >= 0]]
    objects = sum(bool(fact.object) for fact in facts)
    return BankInit(rows_NL, filled, kept / objects if objects else None, row_of_fact)


Places = tuple[Ints, Ints, Ints]
"""(row of each token, its column, rows of each sentence). A token with a column outside [0, L) is left out."""


def _head(text_P: Ints, role_P: Ints, *, sentences: int, L: int) -> Places:
    del role_P, L
    return text_P, _position(text_P, sentences=sentences), np.ones(sentences, np.int64)


def _tail(text_P: Ints, role_P: Ints, *, sentences: int, L: int) -> Places:
    del role_P
    over_S = np.maximum(0, np.bincount(text_P, minlength=sentences) - L)
    return text_P, _position(text_P, sentences=sentences) - over_S[text_P], np.ones(sentences, np.int64)


def _chunk(text_P: Ints, role_P: Ints, *, sentences: int, L: int) -> Places:
    del role_P
    position_P = _position(text_P, sentences=sentences)
    chunks_S = np.maximum(1, -(-np.bincount(text_P, minlength=sentences) // L))
    first_S = np.cumsum(chunks_S) - chunks_S
    return first_S[text_P] + position_P // L, position_P % L, chunks_S


def _object_first(text_P: Ints, role_P: Ints, *, sentences: int, L: int) -> Places:
    position_P = _position(text_P, sentences=sentences)
    too_long_S = np.bincount(text_P, minlength=sentences) > L
    by_role_P = np.lexsort((position_P, role_P, text_P))  # within a text by role
    rank_P = np.empty_like(position_P)
    rank_P[by_role_P] = position_P  # text_P is sorted, so a text's tokens stay in the same places
    return text_P, np.where(too_long_S[text_P], rank_P, position_P), np.ones(sentences, np.int64)


_PLACES: dict[KbFit, Callable[..., Places]] = {
    "head": _head,
    "tail": _tail,
    "chunk": _chunk,
    "object_first": _object_first,
}


def _position(text_P: Ints, *, sentences: int) -> Ints:
    """The position of each token in its sentence, from 0."""
    lengths_S = np.bincount(text_P, minlength=sentences)
    return np.arange(len(text_P)) - (np.cumsum(lengths_S) - lengths_S)[text_P]


def _roles(facts: Sequence[Fact], spans: Spans) -> Ints:
    """The part of the fact that each token belongs to: 0 object, 1 subject, 2 predicate, 3 none of them. int64 [P].

    A token belongs to a part if it covers a character of it, and to the first in this order where several share it. The
    object is searched from the sentence's end and the others from its beginning, because facts repeat words ("a sea
    bass is a bass").
    """
    role_P = np.full(len(spans.ids), _REST, dtype=np.int64)
    sought = (
        (2, [(fact.predicate, fact.sentence.find(fact.predicate)) for fact in facts]),
        (1, [(fact.subject, fact.sentence.find(fact.subject)) for fact in facts]),
        (0, [(fact.object, fact.sentence.rfind(fact.object)) for fact in facts]),
    )
    for role, places in sought:
        begin_S = np.array([begin for _, begin in places], dtype=np.int64)
        end_S = begin_S + np.array([len(part) if begin >= 0 else 0 for part, begin in places], dtype=np.int64)
        # An empty part has an empty span, and a missing part begins and ends before the sentence.
        overlaps_P = (spans.begin < end_S[spans.text]) & (spans.end > begin_S[spans.text])
        role_P[overlaps_P & (end_S > begin_S)[spans.text]] = role
    return role_P


def _objects_kept(text_P: Ints, row_P: Ints, *, is_object_P: NDArray[np.bool_], inside_P: NDArray[np.bool_]) -> int:
    """How many sentences have all tokens of their object in one row."""
    texts, needed = np.unique(text_P[is_object_P], return_counts=True)
    present_P = is_object_P & inside_P
    pairs, present = np.unique(np.stack([text_P[present_P], row_P[present_P]]), axis=1, return_counts=True)
    whole = present == needed[np.searchsorted(texts, pairs[0])]
    return len(np.unique(pairs[0][whole]))


def grid_cells(facts: Sequence[Fact], *, n: int) -> Ints:
    """The cell of each fact, int64 [M], M <= N, all different. `facts` holds the fact of each row, so a fact that makes
    several rows is in it several times.

    Subjects are numbered in order of appearance, and so are predicates. Subject s is in row s mod n and predicate p in
    column p mod n, so more than n of them share rows or columns evenly. Where a cell is taken, the fact goes to the
    next free cell to its right, around the row; where the row is full, to the next row. Facts without a subject or a
    predicate come last and take the free cells in order.
    """
    subjects = _numbers([fact.subject for fact in facts])
    predicates = _numbers([fact.predicate for fact in facts])
    placed = np.array([bool(fact.subject and fact.predicate) for fact in facts], dtype=bool)
    cells_M = np.full(len(facts), -1, dtype=np.int64)
    row_ahead = list(range(n))
    """For each row, a row at or after it (around) from which to search one that is not full. `columns_ahead` holds the
    same for the columns of a row."""
    columns_ahead: dict[int, list[int]] = {}
    left = dict.fromkeys(range(n), n)
    for m in np.flatnonzero(placed).tolist():
        i = _first_free(row_ahead, subjects[m] % n)
        ahead = columns_ahead.setdefault(i, list(range(n)))
        j = _first_free(ahead, predicates[m] % n)
        cells_M[m] = i * n + j
        left[i] -= 1
        ahead[j] = (j + 1) % n
        if not left[i]:
            row_ahead[i] = (i + 1) % n
            del columns_ahead[i]
    free = np.setdiff1d(np.arange(n * n), cells_M[placed])
    cells_M[~placed] = free[: int((~placed).sum())]
    return cells_M


def _first_free(ahead: list[int], start: int) -> int:
    """The first free place from `start` on, around; one must be free. It halves the paths that it follows, so that many
    collisions stay cheap."""
    place = start
    while ahead[place] != place:
        ahead[place] = ahead[ahead[place]]
        place = ahead[place]
    return place


def _numbers(names: Sequence[str]) -> list[int]:
    """Each name's number, in order of first appearance; 0 for the empty name."""
    known: dict[str, int] = {}
    return [known.setdefault(name, len(known)) if name else 0 for name in names]
