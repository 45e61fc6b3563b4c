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
    was trained on and in nothing else. `fact`: its place in the knowledge base.
    """

    prefix: str
    object: str
    candidates: tuple[str, ...]
    kind: Literal["seen", "heldout", "kb_only"]
    fact: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The object of a sentence: characters `begin` to `end`. `fact`: its place in the knowledge base."""

    fact: int
    begin: int
    end: int


@dataclass(frozen=True)
class World:
    """`train` and `val` are sentences, each a document; `val` and `probes` are in random order, so that their first few
    are a random sample; `knowledge` holds every fact, entity after entity. `train_answers` and `val_answers`: the
    object of each sentence."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    knowledge: tuple[Fact, ...]
    probes: tuple[Probe, ...]
    train_answers: tuple[Answer, ...]
    val_answers: tuple[Answer, ...]


def world(seed: int, *, entities: int, relations: int, objects: int, heldout: float, openings: int = 1) -> World:
    """Draw the world `seed`. `heldout` is the share of facts that only the knowledge base holds. Each relation has the
    same share, and each paraphrase is held out equally often, so training shows every paraphrase with other facts.
    Each sentence of the training text is told with so many `openings`; the first is none."""
    generator = np.random.default_rng(stream_seed(seed, "facts"))
    people = language.names(entities, generator=generator)
    knowledge: list[list[Fact]] = []
    train: list[tuple[str, Answer]] = []
    val: list[tuple[str, Answer]] = []
    probes: list[Probe] = []
    hidden = min(round(heldout * entities), entities - 1)
    for number, relation in enumerate(language.RELATIONS[:relations]):
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
            fact = int(entity) * relations + number
            if place < hidden:
                probes.append(Probe(asked, answer, candidates, "kb_only", fact))
                continue
            seen = prefixes[1 + int(generator.integers(len(prefixes) - 1))]
            probes += [Probe(asked, answer, candidates, "heldout", fact), Probe(seen, answer, candidates, "seen", fact)]
            val.append(_told(asked, answer, fact))
            told = (opening + prefix for prefix in prefixes for opening in language.OPENINGS[:openings])
            train += [_told(sentence, answer, fact) for sentence in told]
    val = [val[i] for i in generator.permutation(len(val))]
    return World(
        train=tuple(text for text, _ in train),
        val=tuple(text for text, _ in val),
        knowledge=tuple(fact for of_entity in zip(*knowledge, strict=True) for fact in of_entity),
        probes=tuple(probes[i] for i in generator.permutation(len(probes))),
        train_answers=tuple(answer for _, answer in train),
        val_answers=tuple(answer for _, answer in val),
    )


def _told(prefix: str, answer: str, fact: int) -> tuple[str, Answer]:
    """A sentence and its object. `answer` begins with a space."""
    return f"{prefix}{answer}.", Answer(fact, len(prefix) + 1, len(prefix) + len(answer))


def _fact(subject: str, predicate: str, thing: str) -> Fact:
    return Fact(f"{subject} {predicate} {thing}.", subject, predicate, thing)
