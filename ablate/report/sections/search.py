"""The search: its best configuration, its trials, and the results by parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ablate import formatting
from ablate.analyze.basis.frames import completed, floats, in_order, of_arm, records, rows, texts
from ablate.analyze.search.slices import Slice
from ablate.analyze.search.space import Dimension, short, show
from ablate.report.render import figures
from ablate.report.render.document import Block, Cell, Code, Column, Figure, Section, Table, cell, notice, words
from ablate.report.sections.confirmed import confirmed_sections
from ablate.report.sections.findings import CURVES, Findings, PerObjective
from ablate.report.sections.importance import early_stopping_sections, importance_blocks
from ablate.report.sections.summary import search_decimals
from ablate.spec.designs import SEARCH
from ablate.spec.models import Objective

MEASURED = ("completed", "pruned")
SHOWN = 40  # most trials in the page's table; trials.csv has all
CAUTION = (
    "Exploratory: a search is not a designed experiment. It draws more points where it has found good values, and "
    "the other parameters vary too, so a group's mean is not the effect of its value."
)


def search_sections(findings: Findings) -> list[Section]:
    """Empty for a study without a search, and before its first trial has ended."""
    if not findings.data.space or findings.search.empty:
        return []
    sections = [_best(findings, per) for per in findings.per_objective]
    sections += confirmed_sections(findings)
    sections.append(Section("The trials of the search", tuple(_trials(findings))))
    sections += early_stopping_sections(findings)
    sections.append(Section("What each parameter did", (words(CAUTION),)))
    for per in findings.per_objective:
        sections += [_slice(findings, per, entry) for entry in per.slices]
    sections.append(Section("Parameter importance", tuple(importance_blocks(findings))))
    return sections


def _best(findings: Findings, per: PerObjective) -> Section:
    title = "Best configuration"
    if len(findings.per_objective) > 1:
        title += f" by {per.objective.metric}"
    if per.best is None:
        return Section(title, (words(f"No trial of the search completed with a {per.objective.metric}."),))
    base = findings.data.facts.spec.base
    lines = []
    for dimension in findings.data.space:
        chosen = per.best.params[dimension.key]
        held = base.get(dimension.key)
        edge = per.best.edges.get(dimension.key, "")
        place = f"{edge} edge" if edge in ("lower", "upper") else f"{edge} choice" if edge else "inside"
        texts = [(show(chosen), chosen), (_range(dimension), _range(dimension)), (place, place), (show(held), held)]
        lines.append((cell(dimension.key), *(Cell(text, value) for text, value in texts)))
    table = Table(
        label=findings.label(per, "best"),
        caption=f"Best configuration: trial {per.best.trial_id}, {per.objective.metric} "
        f"{formatting.fixed(per.best.value, search_decimals(per))}{per.unit}"
        f"{formatting.over_seeds(per.best.seeds, per.best.sd)}{_one_of(per.best.tied)}.",
        columns=(
            Column("parameter", "parameter", number=False),
            Column("best", "best value"),
            Column("range", "searched", number=False),
            Column("place", "place in the range", number=False),
            Column("base", "base value"),
        ),
        rows=tuple(lines),
    )
    blocks: list[Block] = [table]
    if per.best.edges:
        named = ", ".join(per.best.edges)
        far = "within 5% of the range on its own scale, or the first or last choice"
        blocks.append(notice(f"At the edge of what was searched ({far}): {named}. Widen the range before trusting it."))
    command = f"python -m ablate.rerun {findings.data.facts.study} --trial {per.best.trial_id} --verify"
    blocks.append(words("To train it again and compare every step: ", Code(command)))
    return Section(title, tuple(blocks))


def _one_of(tied: Sequence[str]) -> str:
    return f"; one of {len(tied)} trials that tie, the first by its id" if len(tied) > 1 else ""


def _range(dimension: Dimension) -> str:
    if dimension.kind == "choice":
        return "choice: " + ", ".join(show(value) for value in dimension.choices)
    low, high = (show(round(bound) if dimension.whole else bound) for bound in (dimension.low, dimension.high))
    return f"{dimension.kind}: {low} to {high}"


def _trials(findings: Findings) -> list[Block]:
    trials = _in_order(findings.search, findings.primary.objective)
    shown = trials.head(SHOWN)
    pers = findings.per_objective
    bold = {per.best.trial_id for per in pers if per.best is not None}
    several = findings.data.facts.spec.optimizer.seeds_per_trial > 1
    table = Table(
        label="trials",
        caption=(_POINTS if several else _TRIALS)
        + (f" The first {SHOWN} of {len(trials)}." if len(trials) > SHOWN else ""),
        columns=(
            Column("trial_id", "trial", number=False),
            *(Column(key, head) for key, head in _heads(findings.data.space)),
            *(column for per in pers for column in _objective_columns(per, several=several)),
            *([Column("seeds", "seeds (ended/planned)", number=False)] if several else []),
            Column("status", "status", number=False),
            Column("tokens_seen", "tokens seen"),
        ),
        rows=tuple(_trial_row(findings, row) for row in records(shown)),
        bold=frozenset(index for index, trial_id in enumerate(texts(shown, "trial_id")) if trial_id in bold),
    )
    blocks: list[Block] = [table]
    if findings.curves:
        blocks.append(_curves(findings))
    if findings.pareto:
        blocks += _pareto(findings)
    return blocks


_TRIALS = (
    "Trials of the search, best first. A pruned trial's objective is its last measurement, at the tokens it had seen; "
    "it is in no mean."
)
_POINTS = (
    "Points of the search, best first, each named by the trial of its first seed: mean and standard deviation over its "
    "seeds, and the tokens of all of them. A point with a failed seed, or one that has not ended, has no mean."
)


def _objective_columns(per: PerObjective, *, several: bool) -> list[Column]:
    metric = per.objective.metric
    if not several:
        return [Column(metric, per.label)]
    return [Column(metric, f"mean {per.label}"), Column(f"sd.{metric}", "sd")]


def _heads(space: Sequence[Dimension]) -> list[tuple[str, str]]:
    """(key, column head). The head is the key's last part, or the whole key where two parameters share that part."""
    last = [dimension.key.rsplit(".", 1)[-1] for dimension in space]
    heads = [name if last.count(name) == 1 else dimension.key for name, dimension in zip(last, space, strict=True)]
    return list(zip([dimension.key for dimension in space], heads, strict=True))


def _in_order(search: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """Completed trials best first, then pruned ones best first, then failed ones."""
    groups = [MEASURED.index(status) if status in MEASURED else 2 for status in search["status"]]
    costs = np.nan_to_num(objective.sign * floats(search, objective.metric), nan=np.inf)
    return in_order(search, keys=(groups, costs, texts(search, "trial_id")))


def _trial_row(findings: Findings, row: Mapping[str, Any]) -> tuple[Cell, ...]:
    trial_id = str(row["trial_id"])
    seeds = findings.data.facts.spec.optimizer.seeds_per_trial
    mark = "†" if findings.odd_ids.intersection([trial_id] if seeds == 1 else row["ids"]) else ""
    params = [dimension.read(row[dimension.column]) for dimension in findings.data.space]
    values = [
        (float(row[column.name]), search_decimals(per))
        for per in findings.per_objective
        for column in _objective_columns(per, several=seeds > 1)
    ]
    return (
        Cell(trial_id + mark, trial_id),
        *(Cell(short(value), value) for value in params),
        *(Cell(formatting.fixed(value, places), value) for value, places in values),
        *([cell(f"{row['ended']}/{seeds}")] if seeds > 1 else []),
        cell(f"failed: {row['failed']}" if seeds > 1 and row["failed"] else str(row["status"])),
        Cell(f"{int(row['tokens_seen']):,}", int(row["tokens_seen"])),
    )


def _curves(findings: Findings) -> Figure:
    best = findings.primary.best
    floors = findings.floors_of("best")
    levels = (floors.unigram, floors.bigram) if floors else None
    what = "Held-out loss" if findings.data.curve_metric == "val_loss" else findings.data.curve_metric
    lines = "; horizontal lines are the corpus's n-gram floors for the best trial" if levels else ""
    draw = partial(
        figures.draw_curves,
        findings.curves,
        label=findings.curve_label,
        best_id=best.trial_id if best else None,
        floors=levels,
    )
    return Figure(
        label="curves_search",
        caption=f"{what} over training of {_which_trials(findings)} of the search: the best bold; pruned trials dashed "
        f"and ended by a cross{lines}. On the right their second half, on its own scale.",
        alt=f"Learning curves of {len(findings.curves)} trials.",
        draw=draw,
    )


def _which_trials(findings: Findings) -> str:
    drawn, ended = len(findings.curves), len(of_arm(findings.data.trials, SEARCH))
    return "every trial" if ended <= CURVES else f"{drawn} of the {ended:,} trials, evenly chosen, and the best"


def _pareto(findings: Findings) -> list[Block]:
    by_id = {row["trial_id"]: row for row in records(findings.search)}
    pers = findings.per_objective
    table = Table(
        label="pareto",
        caption="Pareto set: the completed trials that no other beats. A trial beats another if it is at least as good "
        "in every objective and better in one.",
        columns=(
            Column("trial_id", "trial", number=False),
            *(Column(per.objective.metric, f"{per.label}, {per.objective.mode}") for per in pers),
        ),
        rows=tuple(
            (
                cell(str(row["trial_id"])),
                *(
                    Cell(
                        formatting.fixed(float(row[per.objective.metric]), search_decimals(per)),
                        row[per.objective.metric],
                    )
                    for per in pers
                ),
            )
            for row in (by_id[trial_id] for trial_id in findings.pareto)
        ),
    )
    metrics = [per.objective.metric for per in pers]
    done = completed(findings.search)
    done = rows(done, np.isfinite(floats(done, metrics[0]) + floats(done, metrics[1])))
    points = list(zip(floats(done, metrics[0]).tolist(), floats(done, metrics[1]).tolist(), strict=True))
    front = [trial_id in findings.pareto for trial_id in texts(done, "trial_id")]
    labels = (pers[0].label, pers[1].label)
    drawn = Figure(
        label="pareto",
        caption="The first two objectives of every completed trial; filled: the Pareto set"
        + (", computed over all objectives." if len(pers) > 2 else "."),
        alt=f"{len(points)} trials, {sum(front)} of them in the Pareto set.",
        draw=partial(figures.draw_pareto, points, front=front, labels=labels),
    )
    return [table, drawn]


def _slice(findings: Findings, per: PerObjective, entry: Slice) -> Section:
    dimension = next(dimension for dimension in findings.data.space if dimension.key == entry.key)
    metric = per.objective.metric
    places = search_decimals(per)
    lines = []
    for group in entry.groups:
        spread = f" ± {formatting.fixed(group.sd, places)}" if math.isfinite(group.sd) else ""
        lines.append(
            (
                cell(group.label),
                Cell(str(group.n), group.n),
                Cell(str(group.completed), group.completed),
                Cell(formatting.share(group.pruned_share), group.pruned_share),
                Cell(formatting.fixed(group.mean, places) + spread, group.mean),
                Cell(formatting.fixed(group.best, places), group.best),
                Cell(formatting.fixed(group.early, places), group.early),
            )
        )
    table = Table(
        label=findings.label(per, f"slice_{entry.key}"),
        caption=f"{entry.key} (exploratory): {metric} of the completed trials, mean ± standard deviation"
        + (
            f"; and the mean at {formatting.tokens(per.common.tokens)} tokens, the largest budget that every completed "
            "and pruned trial reached, of both together."
            if per.common
            else "."
        ),
        columns=(
            Column(entry.key, "value" if dimension.kind == "choice" else "range"),
            Column("n", "n"),
            Column("completed", "completed"),
            Column("pruned_share", "pruned"),
            Column("mean", "mean ± sd"),
            Column("best", "best"),
            Column("early", f"at {formatting.tokens(per.common.tokens)}" if per.common else "early"),
        ),
        rows=tuple(lines),
    )
    return Section(entry.key, (table, _scatter(findings, per, dimension)), sub=True)


def _scatter(findings: Findings, per: PerObjective, dimension: Dimension) -> Figure:
    points = {}
    for status in MEASURED:
        ended = rows(findings.search, findings.search["status"] == status)
        ended = rows(ended, np.isfinite(floats(ended, per.objective.metric)))
        if len(ended):
            values = [dimension.read(value) for value in ended[dimension.column]]
            points[status] = (values, floats(ended, per.objective.metric).tolist())
    return Figure(
        label=findings.label(per, f"slice_{dimension.key}"),
        caption=f"{dimension.key} and {per.objective.metric} (exploratory). Filled: completed; hollow: pruned, at "
        "their last measurement.",
        alt=f"Scatter of {per.objective.metric} over {dimension.key}.",
        draw=partial(figures.draw_slice, dimension, points=points, label=per.label),
    )
