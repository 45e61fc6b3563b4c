"""The search as a whole: parameter importances, the two most important parameters together, and early stopping."""

from __future__ import annotations

from functools import partial

import numpy as np

from ablate import formatting
from ablate.analyze.basis.frames import completed, floats, rows
from ablate.analyze.search.importance import NEEDED, Importances
from ablate.analyze.search.rungs import ENOUGH, Rung
from ablate.report.render import figures
from ablate.report.render.document import Block, Cell, Column, Figure, Section, Table, cell, interval_cell, words
from ablate.report.sections.findings import Findings, PerObjective
from ablate.report.sections.summary import search_decimals


def importance_blocks(findings: Findings) -> list[Block]:
    """Importances with intervals, and the two most important parameters; one sentence while trials are too few."""
    blocks: list[Block] = []
    for per in findings.per_objective:
        found = per.importances
        if found.missing:
            more = formatting.count(found.missing, "more completed trial")
            text = f"Not shown: importances are given from {NEEDED} completed trials on, and {more} "
            blocks.append(words(f"{text}{'is' if found.missing == 1 else 'are'} needed ({found.completed} completed)."))
            break  # the number of trials is the same for every objective
        blocks += [*_importances(findings, per, found), *_interaction(findings, per, found)]
    return blocks


def _importances(findings: Findings, per: PerObjective, found: Importances) -> list[Block]:
    table = Table(
        label=findings.label(per, "importances"),
        caption=f"Parameter importances for {per.objective.metric} over {found.completed:,} completed trials "
        "(PED-ANOVA: how far the best tenth's values differ from all trials'), shares of 1 with 95% percentile "
        "bootstrap intervals over the trials. Exploratory.",
        columns=(
            Column("parameter", "parameter", number=False),
            Column("importance", "importance"),
            Column("interval", "95% interval", interval=True),
        ),
        rows=tuple(
            (
                cell(share.key),
                Cell(formatting.fixed(share.value, 2), share.value),
                interval_cell(share.low, share.high, 2),
            )
            for share in found.shares
        ),
    )
    drawn = Figure(
        label=findings.label(per, "importances"),
        caption=f"Parameter importances for {per.objective.metric} with 95% bootstrap intervals.",
        alt="Bars: " + ", ".join(f"{share.key} {share.value:.2f}" for share in found.shares) + ".",
        draw=partial(figures.draw_importances, found),
    )
    return [table, drawn]


def _interaction(findings: Findings, per: PerObjective, found: Importances) -> list[Block]:
    """The completed trials over the two most important parameters."""
    if len(found.shares) < 2:
        return []
    by_key = {dimension.key: dimension for dimension in findings.data.space}
    first, second = (by_key[share.key] for share in found.shares[:2])
    done = completed(findings.search)
    done = rows(done, np.isfinite(floats(done, per.objective.metric)))
    points = [([dimension.read(value) for value in done[dimension.column]]) for dimension in (first, second)]
    return [
        Figure(
            label=findings.label(per, "interaction"),
            caption=f"The two most important parameters together (exploratory): each completed trial at its "
            f"{first.key} and {second.key}, the darker the better its {per.objective.metric}; the star is the best.",
            alt=f"{len(done)} trials over {first.key} and {second.key}.",
            draw=partial(
                figures.draw_pair,
                (first, second),
                points=(points[0], points[1]),
                values=floats(done, per.objective.metric).tolist(),
                label=per.label,
                sign=per.objective.sign,
            ),
        )
    ]


def early_stopping_sections(findings: Findings) -> list[Section]:
    """What the audited trials show of early stopping; empty where none is audited."""
    if not findings.rungs:
        return []
    per, audited = findings.primary, max(rung.n for rung in findings.rungs)
    intro = (
        f"{formatting.count(audited, 'trial')} of the search were never pruned (audit_fraction): only they have a "
        "value both at each rung and at the end. A rule that ranks well has a rank correlation near 1; the regret is "
        "by how much the best audited trial beats the best one that the rule would have kept."
    )
    table = Table(
        label="audit",
        caption=f"Audited trials at each rung: Spearman's rank correlation of {per.objective.metric} there and at the "
        f"end, with its 95% bootstrap interval (from {ENOUGH} trials on); how many of them the rule would have "
        f"stopped; and its regret in {per.label}.",
        columns=(
            Column("tokens", "rung (tokens)"),
            Column("n", "audited"),
            Column("spearman", "rank correlation"),
            Column("interval", "95% interval", interval=True),
            Column("stopped", "would be stopped"),
            Column("regret", "regret"),
        ),
        rows=tuple(_rung(rung, places=search_decimals(per)) for rung in findings.rungs),
    )
    return [Section("What early stopping cost", (words(intro), table))]


def _rung(rung: Rung, *, places: int) -> tuple[Cell, ...]:
    return (
        Cell(f"{rung.tokens:,.0f}", rung.tokens),
        Cell(str(rung.n), rung.n),
        Cell(formatting.fixed(rung.spearman, 2), rung.spearman),
        interval_cell(rung.low, rung.high, 2),
        Cell(str(rung.stopped), rung.stopped),
        Cell(formatting.fixed(rung.regret, places), rung.regret),
    )
