"""The search's winner on fresh seeds: the search's value, the fresh mean, the shrunken value, and whether it leads."""

from __future__ import annotations

import math

from ablate import formatting
from ablate.analyze.search.confirmed import Candidate, Confirmation
from ablate.report.render.document import Block, Cell, Column, Section, Table, cell, interval_cell, words
from ablate.report.sections.findings import Findings


def confirmed_sections(findings: Findings) -> list[Section]:
    """Empty where the search is not confirmed, and before the first fresh run has ended."""
    found = findings.confirmation
    if found is None:
        return []
    blocks: list[Block] = [words(verdict(findings, found)), _table(findings, found)]
    return [Section("The best trials on fresh seeds", tuple(blocks))]


def verdict(findings: Findings, found: Confirmation) -> str:
    """Whether the search's best trial is best on fresh seeds too, in words. `best` stays the search's trial."""
    winner, freshest, unit = found.winner, found.freshest, findings.primary.unit
    text = f"The search's best trial is {winner.trial_id}; best names it in every command. "
    if freshest is None or len(found.candidates) < 2:
        return text + "No second trial has fresh seeds yet, so its rank is not judged."
    if freshest is not winner:
        return text + (
            f"On fresh seeds trial {freshest.trial_id} has the better mean, by "
            f"{_number(-freshest.behind.mean, found)}{unit} {_interval(freshest, found, sign=-1)}: rank 1 is chance."
        )
    second = found.candidates[1]
    gap = f"{_number(second.behind.mean, found)}{unit} {_interval(second, found)}"
    if found.shown:
        return text + f"On fresh seeds it is best too, before the second, trial {second.trial_id}, by {gap}."
    return text + (
        f"On fresh seeds its lead over the second, trial {second.trial_id}, is {gap}, which does not exclude 0: "
        "rank 1 may be chance."
    )


def _table(findings: Findings, found: Confirmation) -> Table:
    per, confirm = findings.primary, findings.data.facts.spec.optimizer.confirm
    seeds = f" ({formatting.count(confirm.seeds, 'seed')} each)" if confirm else ""
    return Table(
        label="confirmed",
        caption=f"The search's best trials, trained again on fresh seeds{seeds}: {per.label}. The search's value is "
        "the best of many, so it flatters; the mean over fresh seeds, with its 95% t interval, does not. "
        f"{_shrunken(found)} Behind: how much worse than the search's best on the same fresh seeds, with p of the "
        "paired t test. Intervals are not adjusted for the number of trials.",
        columns=(
            Column("rank", "rank in the search"),
            Column("trial", "trial", number=False),
            Column("searched", "search's value"),
            Column("shrunken", "shrunken"),
            Column("n", "n"),
            Column("fresh", "fresh mean"),
            Column("interval", "95% interval", interval=True),
            Column("behind", "behind"),
            Column("behind_interval", "95% interval (behind)", interval=True),
            Column("p", "p (t)"),
            Column("failed", "failed"),
        ),
        rows=tuple(_row(one, found) for one in found.candidates),
    )


def _shrunken(found: Confirmation) -> str:
    if math.isnan(found.shrinkage):
        return (
            "A shrunken value is not given: how much of the search's value is luck is not known from so few values or "
            "fresh runs; more seeds in optimizer.confirm would say."
        )
    return (
        f"Shrunken: the search's value moved by {formatting.share(found.shrinkage)} towards the mean of the search's "
        "completed values (Efron and Morris 1975; standard deviation of a run "
        f"{_number(found.noise_sd, found)}, from the fresh seeds). It takes values for normal around one mean: where "
        "some trials are far worse, it moves too little."
    )


def _row(one: Candidate, found: Confirmation) -> tuple[Cell, ...]:
    places, first = _places(found), one is found.winner
    low, high = (math.nan, math.nan) if first else (one.behind.low, one.behind.high)
    return (
        Cell(str(one.rank), one.rank),
        cell(one.trial_id),
        *(Cell(formatting.fixed(value, places), value) for value in (one.searched, one.shrunken)),
        Cell(str(one.fresh.n), one.fresh.n),
        Cell(formatting.fixed(one.fresh.mean, places), one.fresh.mean),
        interval_cell(one.fresh.low, one.fresh.high, places),
        Cell(formatting.DASH if first else _number(one.behind.mean, found), one.behind.mean),
        interval_cell(low, high, places, sign=True),
        Cell(formatting.p_value(one.p), one.p),
        Cell(str(one.failed), one.failed),
    )


def _interval(one: Candidate, found: Confirmation, *, sign: int = 1) -> str:
    low, high = sorted((sign * one.behind.low, sign * one.behind.high))
    return f"(95% interval {formatting.interval(low, high, _places(found), sign=True)}, n = {one.behind.n})"


def _places(found: Confirmation) -> int:
    return formatting.decimals_for(found.noise_sd)


def _number(value: float, found: Confirmation) -> str:
    return formatting.fixed(value, _places(found))
