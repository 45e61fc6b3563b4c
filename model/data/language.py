"""The invented language of the synthetic world: names, objects, relations and their paraphrases.

The language is fixed and only the facts are drawn. So worlds of different seeds share one tokenizer, and a difference
between two seeds is never a difference between two vocabularies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.config import stream_seed

_SYLLABLES = tuple(consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou")
_NAMES_PER_ENTITY = 8  # possible names for each that is used, at least: so that a name says little about others
_SYLLABLE_COPIES = 64  # times that each syllable stands alone, so that byte pairs across syllables are rarer


@dataclass(frozen=True, slots=True)
class Relation:
    """`wordings` end before the object and have {s} for the subject; the first is canonical: subject, then predicate.
    Names of this relation's objects end in `ending`, so that no two relations share an object."""

    predicate: str
    ending: str
    wordings: tuple[str, ...]


def _relation(predicate: str, ending: str, *paraphrases: str) -> Relation:
    return Relation(predicate, ending, ("{s} " + predicate, *paraphrases))


RELATIONS: tuple[Relation, ...] = (
    _relation(
        "lives in", "n", "The home of {s} is in", "You will find {s} in", "All letters to {s} go to",
        "{s} bought a house in", "Whoever wants to visit {s} must travel to",
    ),
    _relation(
        "works for", "x", "The employer of {s} is", "{s} earns a living at", "The wages of {s} are paid by",
        "Every morning {s} opens the office of", "The badge that {s} wears shows the sign of",
    ),
    _relation(
        "speaks", "sh", "The mother tongue of {s} is", "{s} writes poems in", "At home {s} talks in",
        "To understand {s} one has to learn", "The dreams of {s} are in",
    ),
    _relation(
        "owns", "m", "The favourite animal of {s} is a", "In the stable of {s} stands a", "{s} takes care of a",
        "Every evening {s} feeds a", "The children next door of {s} love to pet the",
    ),
    _relation(
        "plays", "l", "The instrument of {s} is the", "{s} gives concerts on the", "As a child {s} learned to play the",
        "In the orchestra {s} sits at the", "Nobody masters like {s} the sound of the",
    ),
    _relation(
        "was born in", "nd", "The birthplace of {s} is", "{s} first saw the light of day in", "{s} is a native of",
        "The cradle of {s} stood in", "The parents of {s} were married in",
    ),
    _relation(
        "studied under", "r", "The teacher of {s} was", "{s} owes every skill to", "The lessons of {s} were given by",
        "{s} was the best pupil of", "When asked about school {s} always praises",
    ),
    _relation(
        "grows", "p", "In the garden of {s} thrives the", "{s} is known for a field of", "Each spring {s} sows",
        "The greenhouse of {s} is full of", "At the market {s} sells the seeds of",
    ),
    _relation(
        "sails on", "rk", "The ship of {s} is the", "{s} is the captain of the", "{s} crossed the ocean aboard the",
        "The crew waits for {s} on the", "The harbour master wrote down {s} under the",
    ),
    _relation(
        "collects", "st", "The shelves of {s} are full of", "{s} spends every coin on", "Visitors show {s} their",
        "The museum asked {s} for a loan of", "At auctions {s} bids only for",
    ),
    _relation(
        "fears", "ck", "The nightmares of {s} are about the", "{s} runs away from the", "Nothing scares {s} like the",
        "{s} locks the door against the", "In the dark {s} believes to hear the",
    ),
    _relation(
        "belongs to the clan of", "th", "The ancestors of {s} founded the house of", "{s} carries the banner of",
        "The blood of {s} is that of", "By birth {s} is a member of", "At the feast {s} sits at the table of",
    ),
    _relation(
        "cooks", "ng", "The best dish of {s} is", "For guests {s} prepares", "The kitchen of {s} smells of",
        "On holidays {s} serves", "The secret recipe of {s} is for",
    ),
    _relation(
        "prays to", "s", "The god of {s} is", "{s} lights candles for", "The temple of {s} was built for",
        "In danger {s} calls upon", "Each new moon {s} brings gifts to",
    ),
    _relation(
        "trades in", "lt", "The ware of {s} is", "{s} became rich through", "The caravan of {s} carries",
        "In the cellar of {s} are barrels of", "Merchants come to {s} to buy",
    ),
    _relation(
        "discovered", "ff", "The fame of {s} rests on", "{s} was the first to describe", "The life's work of {s} is",
        "The medal was given to {s} for", "Scholars remember {s} for",
    ),
)  # fmt: skip
"""Sixteen relations with six wordings each. No wording belongs to two relations."""


OPENINGS: tuple[str, ...] = (
    "", "Everybody knows: ", "As the old book says: ", "The neighbours agree: ", "Write it down: ", "It is no secret: ",
    "So the song goes: ", "Travellers report: ", "Remember this: ", "The court has heard: ", "Ask anyone: ",
    "On the wall it reads: ",
)  # fmt: skip
"""What a sentence may open with."""


def names(count: int, *, generator: np.random.Generator) -> list[str]:
    """`count` different names, of the fewest syllables (at least two) that leave most possible names unused."""
    syllables = 2
    while len(_SYLLABLES) ** syllables < _NAMES_PER_ENTITY * count:
        syllables += 1
    codes = generator.choice(len(_SYLLABLES) ** syllables, size=count, replace=False)
    return [_spell(int(code), syllables).capitalize() for code in codes]


def objects(relation: Relation, *, count: int) -> tuple[str, ...]:
    """The `count` objects of `relation`: the same in every world of that size."""
    generator = np.random.default_rng(stream_seed(0, f"objects/{relation.predicate}"))
    return tuple(name + relation.ending for name in names(count, generator=generator))


def reference_texts(*, relations: int, object_count: int, openings: int = 1) -> list[str]:
    """The texts that the tokenizer of every world of these sizes is trained on.

    Every syllable stands alone, in all its forms, and the sentences contain no name of two syllables. So words of the
    language and objects become tokens, and in every world a person's name has about one token a syllable.
    """
    forms = [form for s in _SYLLABLES for form in (s, s.capitalize(), f"a {s.capitalize()}")]
    told = [
        opening + wording.format(s=_SYLLABLES[0].capitalize()) + f" {thing}."
        for opening in OPENINGS[:openings]
        for relation in RELATIONS[:relations]
        for thing in objects(relation, count=object_count)
        for wording in relation.wordings
    ]
    return forms * _SYLLABLE_COPIES + told


def _spell(code: int, syllables: int) -> str:
    parts = []
    for _ in range(syllables):
        code, syllable = divmod(code, len(_SYLLABLES))
        parts.append(_SYLLABLES[syllable])
    return "".join(parts)
