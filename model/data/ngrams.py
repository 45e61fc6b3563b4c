"""The n-gram floors: the validation loss of counts alone, which a language model must beat to have learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.data.token_documents import TokenDocuments, end_documents

_CHUNK = 4_194_304  # training tokens counted at a time


def ngram_floors(
    train: TokenDocuments | Sequence[Sequence[int]],
    val: TokenDocuments | Sequence[Sequence[int]],
    *,
    vocab_size: int,
    eos_id: int,
) -> tuple[float, float]:
    """(unigram, bigram): cross-entropy of all validation tokens in nats a token, estimated on the training documents.

    EOS stands before and after every document and is predicted too. Unigram: add-one smoothing,
    p(v) = (c(v) + 1) / (n + V). Bigram: interpolated Witten-Bell (Chen and Goodman 1999, section 2.5),
    p(v|u) = (c(u,v) + t(u) p(v)) / (c(u) + t(u)), t(u) the number of different tokens seen after u; p(v) if it is 0.
    """
    before, after = _pairs(train, eos_id=eos_id)
    unigram_V = (np.bincount(after, minlength=vocab_size) + 1.0) / (len(after) + vocab_size)
    times_V = np.bincount(before, minlength=vocab_size)
    kinds, counts = _count_pairs(before, after, vocab_size=vocab_size)
    types_V = np.bincount(kinds // vocab_size, minlength=vocab_size)
    u, v = _pairs(val, eos_id=eos_id)
    unigram_P = unigram_V[v]
    pair_P = u.astype(np.int64) * vocab_size + v
    place_P = np.minimum(np.searchsorted(kinds, pair_P), len(kinds) - 1)
    count_P = np.where(kinds[place_P] == pair_P, counts[place_P], 0)
    seen_P = times_V[u] + types_V[u]  # 0 where nothing followed u in training
    interpolated_P = (count_P + types_V[u] * unigram_P) / np.maximum(1, seen_P)
    bigram_P = np.where(seen_P > 0, interpolated_P, unigram_P)
    return float(-np.log(unigram_P).mean()), float(-np.log(bigram_P).mean())


def _count_pairs(
    before: NDArray[np.int32], after: NDArray[np.int32], *, vocab_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(kinds, counts): every pair (u, v) that occurs, as the sorted number u * V + v, and how often. It counts the
    corpus part by part, so the table grows with the different pairs, not with the tokens."""
    kinds = counts = np.zeros(0, dtype=np.int64)
    for first in range(0, len(after), _CHUNK):
        part = slice(first, first + _CHUNK)
        new, times = np.unique(before[part].astype(np.int64) * vocab_size + after[part], return_counts=True)
        kinds, where = np.unique(np.concatenate((kinds, new)), return_inverse=True)
        counts = np.bincount(where, weights=np.concatenate((counts, times))).astype(np.int64)
    return kinds, counts


def _pairs(
    documents: TokenDocuments | Sequence[Sequence[int]], *, eos_id: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(context, token) of every position of all documents, EOS included. The EOS that ends a document is the context of
    the next one's first token, so the documents are one flat text after an EOS."""
    ended = documents if isinstance(documents, TokenDocuments) else end_documents(documents, eos_id=eos_id)
    return np.concatenate((np.array([eos_id], dtype=np.int32), ended.ids[:-1])), ended.ids
