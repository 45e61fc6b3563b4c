"""A knowledge base becomes the bank's first contents: sentences into rows of L tokens, random tokens for what is left.

Where the rows stand: with `kb_layout: order` one after the other. With `grid` the bank is the n x n grid that product
keys address: a fact's subject gives the row i and its predicate the column j, so a query has n + n things to learn
instead of N.

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
    """`rows`: int32 [N, L]. `filled`: how many of them hold knowledge, in `order` the first ones. `objects_kept`: share
    of the sentences with an object whose object stands whole in a row; None where no sentence has one. An object that
    its sentence does not contain, or whose sentence found no row left, was not kept."""

    rows: NDArray[np.int32]
    filled: int
    objects_kept: float | None


def initial_bank(config: Config, facts: Sequence[Fact], tokenizer: Tokenizer) -> BankInit:
    """What the bank of a run holds before its first step: a pure function of the configuration and the knowledge."""
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
    """The first `knowledge_num` rows that `facts` make, padded with `pad_id`; random ids in the others. They stand in
    the facts' order, or, with `kb_layout: grid`, where `grid_cells` says.

    A sentence of at most L tokens is one row, as it stands. A longer one, by `kb_fit`:

    - `head`: its first L tokens;  `tail`: its last L tokens;
    - `chunk`: as many rows as it needs, L tokens each but for the last;
    - `object_first`: the L most telling tokens, in this order: those of the object, of the subject, of the predicate,
      all others; within each in the sentence's order.
    """
    N, L = config.knowledge_num, config.knowledge_length
    rows_NL = np.full((N, L), tokenizer.pad_id, dtype=np.int32)
    filled = kept = 0
    sources: list[Fact] = []  # of each row
    for first in range(0, len(facts), _BATCH):
        if filled == N:
            break
        batch = facts[first : first + min(_BATCH, N - filled)]  # a sentence makes a row at least
        spans = tokenizer.encode_spans([fact.sentence for fact in batch])
        role_P = _roles(batch, spans)
        row_P, column_P, made_S = _PLACES[config.kb_fit](spans.text, role_P, sentences=len(batch), L=L)
        row_P = row_P + filled
        inside_P = (row_P < N) & (column_P < L) & (column_P >= 0)
        rows_NL[row_P[inside_P], column_P[inside_P]] = spans.ids[inside_P]
        kept += _objects_kept(spans.text, row_P, is_object_P=role_P == 0, inside_P=inside_P)
        sources += [fact for fact, made in zip(batch, made_S.tolist(), strict=True) for _ in range(made)]
        filled = min(N, len(sources))
    rows_NL[filled:] = generator.integers(tokenizer.size, size=(N - filled, L), dtype=np.int32)
    if config.kb_layout == "grid":
        cells_M = grid_cells(sources[:filled], n=math.isqrt(N))
        rest = np.setdiff1d(np.arange(N), cells_M)
        rows_NL[np.concatenate([cells_M, rest])] = rows_NL.copy()
    objects = sum(bool(fact.object) for fact in facts)
    return BankInit(rows_NL, filled, kept / objects if objects else None)


Places = tuple[Ints, Ints, Ints]
"""(row of each token, its column, rows of each sentence). A column outside [0, L) is a token left out."""


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
    by_role_P = np.lexsort((position_P, role_P, text_P))  # of the same text, roles in order
    rank_P = np.empty_like(position_P)
    rank_P[by_role_P] = position_P  # text_P is sorted, so places of a text are the same before and after
    return text_P, np.where(too_long_S[text_P], rank_P, position_P), np.ones(sentences, np.int64)


_PLACES: dict[KbFit, Callable[..., Places]] = {
    "head": _head,
    "tail": _tail,
    "chunk": _chunk,
    "object_first": _object_first,
}


def _position(text_P: Ints, *, sentences: int) -> Ints:
    """Where in its sentence each token stands, from 0."""
    lengths_S = np.bincount(text_P, minlength=sentences)
    return np.arange(len(text_P)) - (np.cumsum(lengths_S) - lengths_S)[text_P]


def _roles(facts: Sequence[Fact], spans: Spans) -> Ints:
    """What each token is part of: 0 object, 1 subject, 2 predicate, 3 none of them. int64 [P].

    A token that touches a character of the part is of it; where parts share a token, the first in this order has it.
    The object is looked for from the sentence's end and the others from its beginning, since facts repeat themselves
    ("a sea bass is a bass").
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
        # An empty part has an empty span, and one that is missing begins and ends before the sentence.
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
    """The cell of each fact, int64 [M], M <= N, no two alike. `facts` holds a fact for each row (one that makes several
    rows stands there several times).

    Subjects are numbered as they come, and so are predicates; number s is in row s mod n, predicate p in column p mod
    n: where there are more than n they share rows as evenly as can be. A cell that is taken gives way to the next free
    one of its row, from its right neighbour on and around; a full row to the next row. Facts without a subject or a
    predicate come last, into the free cells in order.
    """
    subjects = _numbers([fact.subject for fact in facts])
    predicates = _numbers([fact.predicate for fact in facts])
    placed = np.array([bool(fact.subject and fact.predicate) for fact in facts], dtype=bool)
    cells_M = np.full(len(facts), -1, dtype=np.int64)
    row_ahead = list(range(n))
    """A row from which on (around) the first that is not full is to be found; likewise a column in its row."""
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
    """The first free place from `start` on, around; paths are halved on the way, so many collisions stay cheap. There
    must be one."""
    place = start
    while ahead[place] != place:
        ahead[place] = ahead[ahead[place]]
        place = ahead[place]
    return place


def _numbers(names: Sequence[str]) -> list[int]:
    """Each name's number, in order of first appearance; the empty name has none of its own (0)."""
    known: dict[str, int] = {}
    return [known.setdefault(name, len(known)) if name else 0 for name in names]
