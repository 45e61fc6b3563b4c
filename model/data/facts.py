"""A seeded synthetic world of facts, in which knowledge is measured exactly and guessing has a known cost.

Every entity has one object for each relation, drawn uniformly, so only the fact itself predicts it. A fact has six
wordings. A share of the facts is in the knowledge base only. Of every other fact one paraphrase is held out and the
others are training text: a model that answers the held-out one has learned the fact and not a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.config import stream_seed
from model.data import language


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence of a knowledge base. Parts that a file does not give are empty."""

    sentence: str
    subject: str = ""
    predicate: str = ""
    object: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question with known answers: `prefix + object + "."` is the sentence. `object` and all `candidates` (every
    object of the relation, including the right one) begin with a space, so that they have the tokens of running text.

    `seen`: the sentence was training text; `heldout`: the fact was, in other words; `kb_only`: only the knowledge base
    holds the fact. No probe uses the canonical wording, that of the knowledge base, so the three kinds differ in what
    was trained on and in nothing else.
    """

    prefix: str
    object: str
    candidates: tuple[str, ...]
    kind: Literal["seen", "heldout", "kb_only"]


@dataclass(frozen=True)
class World:
    """`train` and `val` are sentences, each a document; `val` and `probes` are in random order, so that their first few
    are a random sample; `knowledge` holds every fact, entity after entity."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    knowledge: tuple[Fact, ...]
    probes: tuple[Probe, ...]


def world(seed: int, *, entities: int, relations: int, objects: int, heldout: float) -> World:
    """Draw the world `seed`. `heldout` is the share of facts that only the knowledge base holds. Each relation has the
    same share, and each paraphrase is held out equally often, so training shows every paraphrase with other facts."""
    generator = np.random.default_rng(stream_seed(seed, "facts"))
    people = language.names(entities, generator=generator)
    knowledge: list[list[Fact]] = []
    train: list[str] = []
    val: list[str] = []
    probes: list[Probe] = []
    hidden = min(round(heldout * entities), entities - 1)
    for relation in language.RELATIONS[:relations]:
        things = language.objects(relation, count=objects)
        candidates = tuple(f" {thing}" for thing in things)
        answers = generator.integers(objects, size=entities)
        knowledge.append(
            [_fact(person, relation.predicate, things[answer]) for person, answer in zip(people, answers, strict=True)]
        )
        for place, entity in enumerate(generator.permutation(entities)):
            prefixes = [wording.format(s=people[entity]) for wording in relation.wordings]
            answer = candidates[answers[entity]]
            asked = prefixes.pop(1 + place % (len(prefixes) - 1))
            if place < hidden:
                probes.append(Probe(asked, answer, candidates, "kb_only"))
                continue
            seen = prefixes[1 + int(generator.integers(len(prefixes) - 1))]
            probes += [Probe(asked, answer, candidates, "heldout"), Probe(seen, answer, candidates, "seen")]
            val.append(f"{asked}{answer}.")
            train += [f"{prefix}{answer}." for prefix in prefixes]
    return World(
        train=tuple(train),
        val=tuple(val[i] for i in generator.permutation(len(val))),
        knowledge=tuple(fact for of_entity in zip(*knowledge, strict=True) for fact in of_entity),
        probes=tuple(probes[i] for i in generator.permutation(len(probes))),
    )


def _fact(subject: str, predicate: str, thing: str) -> Fact:
    return Fact(f"{subject} {predicate} {thing}.", subject, predicate, thing)
