"""The n-gram floors agree with their slow twin, and know what they must."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import ngrams
from tests.oracles import ngrams as oracle

EOS = 2
texts = st.lists(st.lists(st.integers(3, 11), min_size=1, max_size=8), min_size=1, max_size=8)


@given(train=texts, val=texts, chunk=st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_ngram_floors_equal_the_formulas(train: list[list[int]], val: list[list[int]], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "_CHUNK", chunk)  # counting part by part changes nothing
        fast = ngrams.ngram_floors(train, val, vocab_size=12, eos_id=EOS)
    assert fast == pytest.approx(oracle.floors(train, val, vocab_size=12, eos_id=EOS), rel=1e-12)


def test_bigram_floor_knows_alternating_tokens_and_unigram_does_not() -> None:
    # Tokens 3 and 4 take turns: a bigram knows that and a unigram does not.
    train = [[3, 4] * 50] * 20
    unigram, bigram = ngrams.ngram_floors(train, train, vocab_size=8, eos_id=EOS)
    assert unigram == pytest.approx(math.log(2), abs=0.1)
    assert bigram < 0.15
