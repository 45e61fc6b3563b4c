"""The synthetic world: what is held out stays out, and everything is a function of the seed."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from model.data import language
from model.data.facts import World, world

SIZES = {"entities": 40, "relations": 16, "objects": 5, "heldout": 0.2}


@pytest.fixture(scope="module")
def drawn() -> World:
    return world(0, **SIZES)


def test_the_seed_determines_the_world(drawn: World) -> None:
    assert world(0, **SIZES) == drawn
    other = world(1, **SIZES)
    assert {fact.sentence for fact in other.knowledge} != {fact.sentence for fact in drawn.knowledge}


def test_every_entity_has_one_object_for_every_relation(drawn: World) -> None:
    assert Counter((fact.subject, fact.predicate) for fact in drawn.knowledge).most_common(1)[0][1] == 1
    assert len({fact.subject for fact in drawn.knowledge}) == 40
    assert len(drawn.knowledge) == 40 * 16
    for fact in drawn.knowledge:
        assert fact.sentence == f"{fact.subject} {fact.predicate} {fact.object}."


def test_knowledge_is_split_into_trained_and_hidden_facts(drawn: World) -> None:
    trained, hidden = set(), set()
    told = set(drawn.train) | set(drawn.val)
    for fact in drawn.knowledge:
        relation = next(r for r in language.RELATIONS if r.predicate == fact.predicate)
        sentences = {f"{wording.format(s=fact.subject)} {fact.object}." for wording in relation.wordings}
        (trained if sentences & told else hidden).add(fact.sentence)
        if sentences & told:
            assert len(sentences & set(drawn.train)) == len(relation.wordings) - 1
            assert len(sentences & set(drawn.val)) == 1
            assert fact.sentence in drawn.train, "the canonical wording is never held out"
    assert len(hidden) == 16 * 8  # a fifth of each relation
    assert not set(drawn.train) & set(drawn.val)
    assert len(drawn.train) == len(set(drawn.train)) == 5 * len(trained)


def test_held_out_wordings_are_trained_with_other_facts(drawn: World) -> None:
    for relation in language.RELATIONS:
        for wording in relation.wordings:
            begin, end = wording.split("{s}")
            assert any(text.startswith(begin) and end in text for text in drawn.train)


def test_probes_match_their_kind(drawn: World) -> None:
    by_kind = defaultdict(list)
    for probe in drawn.probes:
        by_kind[probe.kind].append(f"{probe.prefix}{probe.object}.")
        assert probe.object in probe.candidates
        assert len(set(probe.candidates)) == 5
    assert sorted(by_kind["heldout"]) == sorted(drawn.val)
    assert set(by_kind["seen"]) <= set(drawn.train)
    assert not set(by_kind["kb_only"]) & (set(drawn.train) | set(drawn.val))
    assert len(by_kind["kb_only"]) == 16 * 8
    assert len(by_kind["seen"]) == len(by_kind["heldout"])
    canonical = {fact.sentence for fact in drawn.knowledge}
    assert not canonical & {sentence for asked in by_kind.values() for sentence in asked}


def test_no_two_relations_share_an_object_or_a_wording() -> None:
    objects = [thing for relation in language.RELATIONS for thing in language.objects(relation, count=300)]
    assert len(objects) == len(set(objects))
    wordings = [wording for relation in language.RELATIONS for wording in relation.wordings]
    assert len(wordings) == len(set(wordings)) == 16 * 6
    assert all(wording.count("{s}") == 1 and not wording.endswith(" ") for wording in wordings)


@pytest.mark.parametrize("heldout", [0.0, 0.99])
def test_the_smallest_world_has_training_text(heldout: float) -> None:
    tiny = world(0, entities=2, relations=1, objects=2, heldout=heldout)
    assert tiny.train
    assert tiny.val
    assert len(tiny.knowledge) == 2
