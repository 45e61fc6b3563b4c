"""The grid's cells by walking: from a fact's own cell to its right neighbours, around, then to the next row."""

from __future__ import annotations

from collections.abc import Sequence

from model.data.facts import Fact


def cells(facts: Sequence[Fact], *, n: int) -> list[int]:
    """The cell of each fact."""
    subjects: list[str] = []
    predicates: list[str] = []
    for fact in facts:
        if fact.subject and fact.subject not in subjects:
            subjects.append(fact.subject)
        if fact.predicate and fact.predicate not in predicates:
            predicates.append(fact.predicate)
    taken: dict[int, int] = {}  # fact -> cell
    for m, fact in enumerate(facts):
        if fact.subject and fact.predicate:
            i, j = subjects.index(fact.subject) % n, predicates.index(fact.predicate) % n
            walk = [(i + down) % n * n + (j + right) % n for down in range(n) for right in range(n)]
            taken[m] = next(cell for cell in walk if cell not in taken.values())
    for m in range(len(facts)):
        if m not in taken:
            taken[m] = next(cell for cell in range(n * n) if cell not in taken.values())
    return [taken[m] for m in range(len(facts))]
