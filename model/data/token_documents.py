"""A corpus as token ids: one flat array, and where each document starts. It takes four bytes a token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenDocuments:
    """D documents, each ended by EOS. `ids`: int32 [tokens]; document d is `ids[starts[d]:starts[d + 1]]`; `starts`:
    int64 [D + 1]. `facts`: int32 [tokens], for each token of an object the number of its fact, -1 for all others; None
    where nobody knows."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    facts: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, d: int) -> NDArray[np.int32]:
        return self.ids[self.starts[d] : self.starts[d + 1]]

    def first(self, count: int) -> TokenDocuments:
        """The first `count` documents."""
        end = self.starts[count]
        return TokenDocuments(
            self.ids[:end], self.starts[: count + 1], None if self.facts is None else self.facts[:end]
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, its EOS counted: int64 [D]."""
        return np.diff(self.starts)


def end_documents(token_ids: Sequence[Sequence[int]], *, eos_id: int) -> TokenDocuments:
    """Lists of ids as TokenDocuments. A list that ends in EOS (some corpora spell it out) gets no second one."""
    ended = [ids if ids and ids[-1] == eos_id else [*ids, eos_id] for ids in token_ids]
    lengths = np.fromiter(map(len, ended), dtype=np.int64, count=len(ended))
    ids = np.fromiter(chain.from_iterable(ended), dtype=np.int32, count=int(lengths.sum()))
    return TokenDocuments(ids, np.concatenate(([0], np.cumsum(lengths))))


def join(parts: Iterable[TokenDocuments]) -> TokenDocuments:
    """The documents of all parts, in order."""
    kept = list(parts)
    lengths = [part.lengths for part in kept]
    starts = np.concatenate(([0], np.cumsum(np.concatenate([np.zeros(0, dtype=np.int64), *lengths]))))
    ids = np.concatenate([np.zeros(0, dtype=np.int32), *(part.ids for part in kept)])
    return TokenDocuments(ids, starts.astype(np.int64))
