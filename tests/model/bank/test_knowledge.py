"""Sentences into rows of the bank: what each `kb_fit` keeps, and what is counted as kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bank import knowledge
from model.bank.knowledge import BankInit, KbFit, bank_rows, grid_cells
from model.config import resolve
from model.data import load_documents
from model.data.facts import Fact
from model.data.tokenizer import Tokenizer, load_or_train
from tests.oracles import layout as layout_oracle

FITS: tuple[KbFit, ...] = ("head", "tail", "chunk", "object_first")
LONG = Fact("Doka owns a Kibum.", "Doka", "owns a", "Kibum")  # Do|ka| owns| a| Kibum|.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    config = resolve("tiny", {})
    return load_or_train(config, load_documents(config), cache_dir=tmp_path_factory.mktemp("tokenizers"))


def bank(
    facts: list[Fact], tokenizer: Tokenizer, *, fit: KbFit, L: int, N: int = 16, layout: str = "order"
) -> BankInit:
    keys = {"model.knowledge_num": N, "model.knowledge_length": L, "model.kb_fit": fit, "model.kb_layout": layout}
    config = resolve("tiny", {**keys, "model.num_selected": 1}).model
    return bank_rows(facts, tokenizer, config=config, generator=np.random.default_rng(0))


def shown(made: BankInit, tokenizer: Tokenizer) -> list[str]:
    """The filled rows as text, padding as it is written."""
    return [tokenizer.decode(row.tolist(), skip_special=False) for row in made.rows[: made.filled]]


@pytest.mark.parametrize(
    ("fit", "L", "rows", "kept"),
    [
        ("head", 4, ["Doka owns a"], 0),
        ("head", 5, ["Doka owns a Kibum"], 1),
        ("tail", 3, [" a Kibum."], 1),
        ("chunk", 4, ["Doka owns a", " Kibum.<unk><unk>"], 1),
        ("object_first", 1, [" Kibum"], 1),
        ("object_first", 2, [" KibumDo"], 1),
        ("object_first", 4, [" KibumDoka owns"], 1),
        ("object_first", 5, [" KibumDoka owns a"], 1),
        ("object_first", 6, ["Doka owns a Kibum."], 1),
        ("object_first", 8, ["Doka owns a Kibum.<unk><unk>"], 1),
        ("head", 8, ["Doka owns a Kibum.<unk><unk>"], 1),
        ("tail", 8, ["Doka owns a Kibum.<unk><unk>"], 1),
        ("chunk", 8, ["Doka owns a Kibum.<unk><unk>"], 1),
    ],
)
def test_kb_fit_turns_a_sentence_into_rows(
    tokenizer: Tokenizer, fit: KbFit, L: int, rows: list[str], kept: float
) -> None:
    assert len(tokenizer.encode_one(LONG.sentence)) == 6
    made = bank([LONG], tokenizer, fit=fit, L=L)
    assert shown(made, tokenizer) == rows
    assert made.objects_kept == kept
    assert made.rows.dtype == np.int32
    assert made.rows.shape == (16, L)


def test_object_first_puts_the_subject_before_other_words(tokenizer: Tokenizer) -> None:
    fact = Fact("The home of Doka is in Kibum.", "Doka", "", "Kibum")
    assert shown(bank([fact], tokenizer, fit="object_first", L=4), tokenizer) == [" Kibum DokaThe"]


def test_the_object_is_the_last_occurrence_of_its_word(tokenizer: Tokenizer) -> None:
    fact = Fact("Kibum lives in Kibum.", "Kibum", "lives in", "Kibum")
    assert bank([fact], tokenizer, fit="tail", L=2).objects_kept == 1
    assert bank([fact], tokenizer, fit="head", L=4).objects_kept == 0


def test_an_object_of_several_tokens_is_kept_whole_or_not_at_all(tokenizer: Tokenizer) -> None:
    fact = Fact("Doka owns Rutifoguze.", "Doka", "owns", "Rutifoguze")
    needed = len(tokenizer.encode_one(" Rutifoguze"))
    assert needed > 1
    for L in range(1, needed + 3):
        kept = bank([fact], tokenizer, fit="object_first", L=L).objects_kept
        assert kept == float(needed <= L)


def test_objects_without_a_row_are_not_kept(tokenizer: Tokenizer) -> None:
    elsewhere = Fact("Doka owns a Kibum.", object="Lujom")
    assert bank([LONG, elsewhere, Fact("a.")], tokenizer, fit="object_first", L=8).objects_kept == 0.5
    assert bank([LONG] * 4, tokenizer, fit="object_first", L=8, N=1).objects_kept == 0.25
    assert bank([Fact("a.")], tokenizer, fit="head", L=8).objects_kept is None


@given(
    words=st.lists(st.lists(st.sampled_from(["Doka", "a", "owns", "in", "élan", "."]), min_size=1), max_size=12),
    L=st.integers(1, 6),
    batch=st.integers(1, 5),
)
@settings(deadline=None, max_examples=40)
def test_rows_equal_a_loop_over_sentences(tokenizer: Tokenizer, words: list[list[str]], L: int, batch: int) -> None:
    sentences = [" ".join(of_sentence) for of_sentence in words]
    encoded = [tokenizer.encode_one(sentence) for sentence in sentences]
    expected = {
        "head": [ids[:L] for ids in encoded],
        "tail": [ids[-L:] for ids in encoded],
        "chunk": [ids[i : i + L] for ids in encoded for i in range(0, len(ids), L)],
        "object_first": [ids[:L] for ids in encoded],  # without a known object all tokens are equal
    }
    for fit in FITS:
        for N in (4, 81):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(knowledge, "_BATCH", batch)
                made = bank([Fact(sentence) for sentence in sentences], tokenizer, fit=fit, L=L, N=N)
            padded = [ids + [tokenizer.pad_id] * (L - len(ids)) for ids in expected[fit]][:N]
            assert made.filled == len(padded)
            assert made.rows[: made.filled].tolist() == padded
            assert made.rows.shape == (N, L)
            assert (made.rows >= 0).all()
            assert (made.rows < tokenizer.size).all()


def test_unfilled_rows_are_random_and_seeded(tokenizer: Tokenizer) -> None:
    made = bank([LONG], tokenizer, fit="head", L=8, N=100)
    assert made.filled == 1
    assert len(np.unique(made.rows[1:])) > 300
    np.testing.assert_array_equal(made.rows, bank([LONG], tokenizer, fit="head", L=8, N=100).rows)
    empty = bank([], tokenizer, fit="head", L=8, N=4)
    assert empty.filled == 0
    assert empty.objects_kept is None


def test_grid_holds_the_rows_of_order_in_the_facts_cells(tokenizer: Tokenizer) -> None:
    """Every fact of a subject in one row, every one of a predicate in one column; the same rows, the same rest."""
    facts = [Fact(f"{s} {p} {o}.", s, p, o) for s in ("Doka", "Rutu", "Lo") for p, o in (("owns", "a"), ("is", "b"))]
    ordered, grid = (bank(facts, tokenizer, fit="head", L=8, layout=layout) for layout in ("order", "grid"))
    cells = [0, 1, 4, 5, 8, 9]
    np.testing.assert_array_equal(grid.rows[cells], ordered.rows[:6])
    np.testing.assert_array_equal(np.delete(grid.rows, cells, axis=0), ordered.rows[6:])
    assert (grid.filled, grid.objects_kept) == (ordered.filled, ordered.objects_kept) == (6, 1.0)


def test_grid_keeps_the_chunks_of_a_fact_together(tokenizer: Tokenizer) -> None:
    made = bank([LONG], tokenizer, fit="chunk", L=2, layout="grid", N=9)
    assert made.filled == 3
    assert [tokenizer.decode(row.tolist()) for row in made.rows[:3]] == ["Doka", " owns a", " Kibum."]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=16),
    st.integers(4, 5),
)
@settings(deadline=None, max_examples=200)
def test_grid_cells_equal_the_oracle(pairs: list[tuple[int, int]], n: int) -> None:
    """0 stands for a part that a fact does not have."""
    facts = [Fact("a.", f"s{s}" if s else "", f"p{p}" if p else "") for s, p in pairs]
    assert grid_cells(facts, n=n).tolist() == layout_oracle.cells(facts, n=n)


def test_grid_cells_of_a_full_grid_are_a_permutation() -> None:
    """Few predicates, so most columns are found by collision."""
    facts = [Fact("a.", f"s{s}", f"p{p}") for s in range(32_768) for p in range(8)]
    cells = grid_cells(facts, n=512)
    assert len(np.unique(cells)) == len(facts) == 512 * 512
