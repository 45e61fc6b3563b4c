"""Packing loses nothing and cuts nothing that fits; batches are a pure function of (seed, step)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.batches import IGNORED, Batches, best_fit, fixed_rows
from model.data.token_documents import end_documents
from tests.oracles import best_fit as oracle

EOS, PAD = 2, 0
corpora = st.lists(st.integers(0, 30), min_size=1, max_size=40)
"""Lengths of documents, the EOS not counted."""


def distinct_tokens(lengths: list[int]) -> list[list[int]]:
    """Documents in which no token comes twice, so that each target tells where it is from."""
    ids = iter(range(3, 3 + sum(lengths)))
    return [[next(ids) for _ in range(length)] for length in lengths]


def epoch_targets(batches: Batches, *, seq_len: int) -> list[list[int]]:
    """The targets of each row of the first epoch of batches of one row."""
    rows = [batches.batch(step) for step in range(batches.rows_per_epoch)]
    for x, y in rows:
        assert x.shape == y.shape == (1, seq_len)
        assert x.dtype == y.dtype == np.int64
        kept = y[0] != IGNORED
        assert kept[: kept.sum()].all(), "padding stands at the end"
        assert x[0, 0] == EOS
        assert (x[0, 1 : kept.sum()] == y[0, : kept.sum() - 1]).all(), "x is y, one later"
        assert (x[0, kept.sum() :] == PAD).all()
    return [y[0][y[0] != IGNORED].tolist() for _, y in rows]


@given(lengths=corpora, seq_len=st.integers(1, 20), seed=st.integers(0, 9))
@settings(deadline=None)
def test_every_token_is_a_target_once_and_what_fits_stays_whole(lengths: list[int], seq_len: int, seed: int) -> None:
    documents = distinct_tokens(lengths)
    batches = Batches(documents, seq_len=seq_len, batch_size=1, seed=seed, eos_id=EOS, pad_id=PAD)
    rows = epoch_targets(batches, seq_len=seq_len)
    expected = Counter(token for document in documents for token in [*document, EOS])
    assert Counter(token for row in rows for token in row) == expected
    for document in documents:
        ended = [*document, EOS]
        pieces = [ended[i : i + seq_len] for i in range(0, len(ended), seq_len)]
        for piece in pieces:
            assert any(piece == row[i : i + len(piece)] for row in rows for i in range(len(row))), "a piece was cut"


@given(lengths=st.lists(st.integers(1, 12), max_size=60), capacity=st.integers(12, 30))
@settings(deadline=None)
def test_best_fit_equals_the_literal_algorithm(lengths: list[int], capacity: int) -> None:
    rows = best_fit(np.array(lengths, dtype=np.int64), capacity=capacity)
    filled = np.bincount(rows, weights=np.array(lengths, dtype=np.float64)).astype(int).tolist() if lengths else []
    assert sorted(filled) == oracle.row_sizes(lengths, capacity=capacity)


@given(lengths=corpora, batch_size=st.integers(1, 7), world=st.integers(1, 4), step=st.integers(0, 50))
@settings(deadline=None)
def test_a_batch_depends_on_its_step_only(lengths: list[int], batch_size: int, world: int, step: int) -> None:
    documents = distinct_tokens(lengths)
    arguments = {"seq_len": 8, "batch_size": batch_size, "seed": 3, "eos_id": EOS, "pad_id": PAD}
    walked = Batches(documents, **arguments)
    for earlier in range(step):
        walked.batch(earlier)
    x, y = walked.batch(step)
    resumed = Batches(documents, **arguments)
    for rank in range(world):
        x_rank, y_rank = resumed.rank_batch(step, rank=rank, world=world)
        np.testing.assert_array_equal(x_rank, x[rank::world])
        np.testing.assert_array_equal(y_rank, y[rank::world])
    np.testing.assert_array_equal(resumed.batch(step)[0], x)


def test_epochs_are_contiguous_and_shuffled() -> None:
    documents = distinct_tokens([7] * 10)
    batches = Batches(documents, seq_len=8, batch_size=4, seed=0, eos_id=EOS, pad_id=PAD)
    assert batches.rows_per_epoch == 10
    first_tokens = np.concatenate([batches.batch(step)[1][:, 0] for step in range(5)])
    first, second = first_tokens[:10].tolist(), first_tokens[10:].tolist()
    assert set(first) == set(second) == {document[0] for document in documents}
    assert first != second
    other = Batches(documents, seq_len=8, batch_size=4, seed=1, eos_id=EOS, pad_id=PAD)
    assert not np.array_equal(batches.batch(0)[1], other.batch(0)[1])


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (1, 3), (2, 5), (3, 8), (0.4, 1), (0.8, 2)])
def test_a_budget_in_epochs_is_a_number_of_steps(epochs: float, steps: int) -> None:
    batches = Batches(distinct_tokens([7] * 10), seq_len=8, batch_size=4, seed=0, eos_id=EOS, pad_id=PAD)
    assert batches.steps_for(epochs) == steps


@given(lengths=corpora, max_tokens=st.integers(1, 300))
@settings(deadline=None)
def test_fixed_rows_hold_the_first_whole_documents(lengths: list[int], max_tokens: int) -> None:
    documents = distinct_tokens(lengths)
    x, y, used, *_ = fixed_rows(documents, seq_len=8, eos_id=EOS, pad_id=PAD, max_tokens=max_tokens)
    targets = Counter(y[y != IGNORED].tolist())
    assert targets == Counter(token for document in documents[:used] for token in [*document, EOS])
    assert used == 1 or targets.total() <= max_tokens
    assert used == len(documents) or targets.total() + len(documents[used]) + 1 > max_tokens
    assert (x[:, 0] == EOS).all()


def test_a_document_that_ends_in_eos_gets_no_second_eos() -> None:
    ended = end_documents([[5, 6, EOS], [7], []], eos_id=EOS)
    assert [ended[d].tolist() for d in range(len(ended))] == [[5, 6, EOS], [7, EOS], [EOS]]
    assert ended.ids.dtype == np.int32
