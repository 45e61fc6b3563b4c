"""The loss of objects and of all other text, and a run whose entries are handed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.api import Verdict, train
from model.config import resolve
from model.data import IGNORED, load_documents
from model.data.facts import world
from model.data.tokenizer import load_or_train
from model.evaluate.losses import text_loss
from model.trainer import Trainer
from tests.model.test_training import small


def test_an_answer_is_where_the_object_stands() -> None:
    drawn = world(3, entities=8, relations=3, objects=4, heldout=0.2, openings=3)
    for texts, answers in ((drawn.train, drawn.train_answers), (drawn.val, drawn.val_answers)):
        assert len(texts) == len(answers)
        for text, answer in zip(texts, answers, strict=True):
            fact = drawn.knowledge[answer.fact]
            assert text[answer.begin : answer.end] == fact.object
            assert fact.subject in text
    for probe in drawn.probes:
        assert probe.object == f" {drawn.knowledge[probe.fact].object}"


def test_openings_tell_the_same_facts_more_often() -> None:
    plain, more = (world(3, entities=8, relations=3, objects=4, heldout=0.2, openings=count) for count in (1, 4))
    assert (plain.val, plain.probes, plain.knowledge) == (more.val, more.probes, more.knowledge)
    assert set(plain.train) < set(more.train)
    assert len(set(more.train)) == 4 * len(plain.train)


def test_tokens_of_objects_are_marked(tmp_path: Path) -> None:
    config = small()
    documents = load_documents(config)
    tokenizer = load_or_train(config, documents, cache_dir=tmp_path)
    marked = tokenizer.encode_corpus(documents.train, documents.train_answers)
    assert np.array_equal(marked.ids, tokenizer.encode_documents(documents.train).ids)
    assert marked.facts is not None
    for d, answer in enumerate(documents.train_answers):
        facts = marked.facts[marked.starts[d] : marked.starts[d + 1]]
        object_ids = marked[d][facts >= 0].tolist()
        assert tokenizer.decode(object_ids).strip() == documents.knowledge[answer.fact].object
        assert set(facts.tolist()) == {-1, answer.fact}


def test_objects_and_the_rest_make_the_whole_loss(tmp_path: Path) -> None:
    trainer = Trainer(small(), checkpoint_dir=tmp_path)
    rows = trainer.evaluator.rows
    assert rows.facts is not None
    whole = text_loss(trainer.model, rows, batch_size=4)
    parts = whole.parts
    share = whole.object_tokens / whole.tokens
    assert 0 < share < 0.5
    mean = share * parts["val_object_nats"] + (1 - share) * parts["val_rest_nats"]
    assert mean == pytest.approx(whole.mean)
    # One position after the other.
    logits = trainer.model.logits(trainer.model(torch.from_numpy(rows.x)).hidden_BTD).log_softmax(dim=-1)
    costs = [
        -logits[r, t, rows.y[r, t]].item()
        for r, t in zip(*np.nonzero(rows.facts >= 0), strict=True)
        if rows.y[r, t] != IGNORED
    ]
    assert parts["val_object_nats"] == pytest.approx(sum(costs) / len(costs), rel=1e-5)


def test_a_corpus_without_facts_has_no_objects(tmp_path: Path) -> None:
    trainer = Trainer(small(data__corpus="pydoc"), checkpoint_dir=tmp_path)
    assert text_loss(trainer.model, trainer.evaluator.rows, batch_size=4).parts == {}


@pytest.mark.slow  # quick: test_an_oracle_hands_over_entries_where_it_knows_them
def test_a_run_with_an_oracle_answers_what_no_text_says(tmp_path: Path) -> None:
    """Short, so that without the oracle nothing would be known."""
    keys = {"model.read": "oracle", "model.ema": "off", "train.tokens": 81_920, "train.threads": 1,
            "data.facts_entities": 32, "eval.val_tokens": 2_048, "eval.fact_probes": 32}  # fmt: skip
    result = train(resolve("tiny", keys), lambda _: Verdict.CONTINUE, checkpoint_dir=tmp_path)
    object_nats, accuracy = result.metrics["val_object_nats"], result.metrics["fact_accuracy_kb_only"]
    assert isinstance(object_nats, float)
    assert isinstance(accuracy, float)
    assert object_nats < 2.0 < np.log(16)
    assert accuracy > 0.5
