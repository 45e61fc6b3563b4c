"""Where knowledge stands in the bank. `order`: row after row. `grid`: the bank is the n x n grid that product keys
address, so a fact's subject gives the row i and its predicate the column j, and a query has n + n things to learn
instead of N.

Letters: M rows of knowledge, n = sqrt(N), N cells; cell (i, j) is i*n + j, the index that retrieval gives it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.data.facts import Fact

Ints = NDArray[np.int64]


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
