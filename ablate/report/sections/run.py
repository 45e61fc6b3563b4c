"""One trial in detail: configuration, progress, metrics against targets, bank, samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ablate import formatting
from ablate.analyze.basis.frames import floats, records
from ablate.analyze.search.space import show
from ablate.escape import one_line
from ablate.records.ledger import Ledger
from ablate.records.locations import Place
from ablate.report.render import figures
from ablate.report.render.document import Block, Cell, Code, Column, Figure, Listing, Section, Table, cell, words
from ablate.report.sections.findings import Findings
from ablate.spec.models import Objective
from ablate.trainers import Description, Metric, recorded

MILESTONES = 10  # lines of the table of progress
ENTRIES = 15  # lines of the table of bank entries
BANK = (
    "bank_", "coverage", "effective_entries", "read_entropy", "token_flip", "self_encode", "distinct_tokens",
    "ema_scale", "entries_updated", "objects_kept",
)  # fmt: skip


def configuration(findings: Findings, row: dict[str, Any]) -> list[Section]:
    """A table for each section of the configuration. Values that differ from the study's base are bold."""
    values, ours = recorded.values(str(row["config_json"])), findings.data.facts.spec.base
    words_before = ("Preset ", Code(str(values["preset"])), ". ") if "preset" in values else ()
    sections = [Section("Configuration", (words(*words_before, "Values that differ from the study's base are bold."),))]
    for prefix, title in (findings.data.trainer.sections or {"": "All"}).items():
        keys = [key for key in values if key in ours and key.startswith(prefix and f"{prefix}.")]
        differs = [values[key] != ours[key] for key in keys]
        table = Table(
            label=f"{row['trial_id']}_config_{prefix}",
            caption=f"{title}: every key, its value, and the study's base value where it differs.",
            columns=(
                Column("parameter", "parameter", number=False),
                Column("value", "value", number=False),
                Column("base", "base", number=False),
            ),
            rows=tuple(
                (
                    cell(key.removeprefix(f"{prefix}.")),
                    Cell(show(values[key]), values[key]),
                    cell(show(ours[key]) if other else ""),
                )
                for key, other in zip(keys, differs, strict=True)
            ),
            bold=frozenset(index for index, other in enumerate(differs) if other),
        )
        sections.append(Section(title, (table,), sub=True))
    return sections


def progress(findings: Findings, row: dict[str, Any], reports: pd.DataFrame) -> list[Block]:
    """When it ran, some of its reports, and its learning curve."""
    took = formatting.duration(float(row["wall_s"]))
    start, end = (f"{pd.Timestamp(row[name]):%Y-%m-%d %H:%M:%S}" for name in ("started_at", "finished_at"))
    times = f"Attempt {int(row['attempt'])} ran from {start} to {end} UTC; all its attempts trained for {took}."
    if reports.empty:
        return [words(times), words("It reported nothing.")]
    known, metric = findings.data.trainer, findings.data.curve_metric
    shown = [name for name in ("ce_loss", "val_loss", "tokens_per_s") if name in known.by_name] or known.headlines[:3]
    floors = (number(row, "unigram_floor"), number(row, "bigram_floor"))
    chosen = np.unique(np.linspace(0, len(reports) - 1, min(MILESTONES, len(reports))).round().astype(int))
    lines = [
        (
            Cell(str(int(entry["attempt"])), int(entry["attempt"])),
            Cell(f"{int(entry['step']):,}", int(entry["step"])),
            Cell(f"{int(entry['tokens_seen']):,}", int(entry["tokens_seen"])),
            Cell(formatting.duration(float(entry["wall_s"])), float(entry["wall_s"])),
            Cell(formatting.significant(float(entry["lr"]), digits=3), float(entry["lr"])),
            *(Cell(formatting.significant(number(entry, name)), number(entry, name)) for name in shown),
        )
        for entry in records(reports.iloc[chosen])
    ]
    table = Table(
        label=f"{row['trial_id']}_progress",
        caption=f"Progress: {len(lines)} of its {formatting.count(len(reports), 'report')}, evenly spaced.",
        columns=(
            Column("attempt", "attempt"),
            Column("step", "step"),
            Column("tokens_seen", "tokens seen"),
            Column("wall_s", "time"),
            Column("lr", "lr"),
            *(Column(name, "tokens/s" if name == "tokens_per_s" else name) for name in shown),
        ),
        rows=tuple(lines),
    )
    curve = Figure(
        label=f"{row['trial_id']}_curve",
        caption="Loss of every training step (thin), its mean over each report, and "
        + (
            "the held-out loss; horizontal lines are the corpus's n-gram floors."
            if np.isfinite(floors).all()
            else metric
        ),
        alt="Learning curve of the trial.",
        draw=partial(figures.draw_run, reports, metric=metric, label=findings.curve_label, floors=floors),
    )
    return [words(times), table, curve]


def results(findings: Findings, row: dict[str, Any], reports: pd.DataFrame) -> list[Block]:
    """The main metrics, final and best, against their targets; then everything that was measured."""
    targets = findings.data.facts.spec.targets
    wanted = [*targets, *(entry.metric for entry in findings.data.objectives), *findings.data.trainer.headlines]
    by_name = findings.data.trainer.by_name
    names = [name for name in dict.fromkeys(wanted) if math.isfinite(number(row, name)) or name in targets]
    table = Table(
        label=f"{row['trial_id']}_targets",
        caption="Metrics against the study's targets. Best: over the reports and the end, where the metric has a "
        "better side.",
        columns=(
            Column("metric", "metric", number=False),
            Column("final", "final"),
            Column("best", "best"),
            Column("at", "at step"),
            Column("target", "target"),
            Column("reached", "reached", number=False),
        ),
        rows=tuple(_result(row, reports, by_name[name], targets.get(name, math.nan)) for name in names),
        empty="The trial measured nothing.",
    )
    known = findings.data.trainer.metrics
    rest = [metric for metric in known if metric.kind != "floats" and math.isfinite(number(row, metric.name))]
    everything = Table(
        label=f"{row['trial_id']}_metrics",
        caption="Everything that was measured at its end.",
        columns=(
            Column("metric", "metric", number=False),
            Column("value", "value"),
            Column("unit", "unit", number=False),
            Column("about", "what it is", number=False),
        ),
        rows=tuple(
            (
                cell(metric.name),
                Cell(formatting.significant(number(row, metric.name)), number(row, metric.name)),
                cell(metric.unit),
                cell(metric.about),
            )
            for metric in rest
        ),
        empty="The trial measured nothing.",
    )
    return [table, everything]


def _result(row: dict[str, Any], reports: pd.DataFrame, metric: Metric, target: float) -> tuple[Cell, ...]:
    name = metric.name
    final = number(row, name)
    best, step = final, math.nan
    if metric.better and name in reports:
        seen = Objective(metric=name, mode=metric.better).sign * floats(reports, name)
        if np.isfinite(seen).any():
            index = int(np.nanargmin(seen))
            best, step = float(floats(reports, name)[index]), float(floats(reports, "step")[index])
            if math.isfinite(final) and Objective(metric=name, mode=metric.better).sign * (final - best) < 0:
                best, step = final, math.nan
    bound = ("≤ " if metric.better == "min" else "≥ " if metric.better == "max" else "") + f"{target:g}"
    said = "" if math.isnan(target) else "yes" if reached(row, metric, target) else "no"
    return (
        Cell(f"{name} ({metric.unit})" if metric.unit else name, name),
        Cell(formatting.significant(final), final),
        Cell(formatting.significant(best) if metric.better else formatting.DASH, best if metric.better else math.nan),
        Cell(f"{step:,.0f}" if math.isfinite(step) else "end" if math.isfinite(final) else formatting.DASH, step),
        Cell(bound if math.isfinite(target) else "", target),
        cell(said),
    )


def reached(row: dict[str, Any], metric: Metric, target: float) -> bool:
    """Whether a metric reached its target. A metric without a better side must equal it."""
    value, better = number(row, metric.name), metric.better
    return value <= target if better == "min" else value >= target if better == "max" else value == target


def bank_use(row: dict[str, Any], trainer: Description) -> list[Block]:
    """What was measured of the bank's content and use. One trial has no interval, so no gain is credited to it."""
    memory = recorded.values(str(row["config_json"])).get("model.memory", "none")
    names = [
        metric
        for metric in trainer.metrics
        if metric.name.startswith(BANK) and metric.kind != "floats" and math.isfinite(number(row, metric.name))
    ]
    if not names:
        return [words(f"Memory: {memory}. It has no bank that was measured.")]
    table = Table(
        label=f"{row['trial_id']}_bank",
        caption="The bank's content and how it is read. One trial has no interval: no gain is credited to the memory.",
        columns=(
            Column("metric", "metric", number=False),
            Column("value", "value"),
            Column("about", "what it is", number=False),
        ),
        rows=tuple(
            (
                cell(f"{metric.name} ({metric.unit})" if metric.unit else metric.name),
                Cell(formatting.significant(number(row, metric.name)), number(row, metric.name)),
                cell(metric.about),
            )
            for metric in names
        ),
    )
    return [words(f"Memory: {memory}."), table]


def bank_content(study_dir: Place, trial_id: str) -> Block:
    """The most used bank entries of its checkpoint as text, now and at the start, or why they cannot be shown."""
    ledger = Ledger(study_dir)
    found = recorded.checkpoint_text(ledger.trainer, ledger.checkpoint_dir(trial_id), top=ENTRIES)
    if found.why_not:
        return words(f"Its entries cannot be shown as text: {one_line(found.why_not, limit=300)}.")
    return Table(
        label=f"{trial_id}_entries",
        caption=f"The {len(found.entries)} most used entries, most used first: how often all layers together selected "
        "them in the last validation; their text now and at the start. `python -m model.bank` shows the others.",
        columns=(
            Column("entry", "entry"),
            Column("count", "selected"),
            Column("slots_changed", "slots changed"),
            Column("now", "now", number=False),
            Column("start", "at the start", number=False),
        ),
        rows=tuple(
            (
                Cell(str(entry["entry"]), entry["entry"]),
                Cell(f"{entry['count']:,}", entry["count"]),
                Cell(str(entry["slots_changed"]), entry["slots_changed"]),
                cell(one_line(entry["now"], limit=200)),
                cell(one_line(entry["start"], limit=200)),
            )
            for entry in found.entries
        ),
    )


def number(row: dict[str, Any], name: str) -> float:
    """A column of a trial's row as a number; NaN where it is empty or missing."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float | np.number) else math.nan


def sample_listings(kept: Sequence[Mapping[str, Any]]) -> list[Listing]:
    """Prompts with their continuations."""
    return [
        Listing(
            title=f"Sample {index}, " + ("ended by itself" if sample["ended"] else "cut at its length"),
            text=f"{one_line(sample['prompt'], limit=1_000)} ▸ {one_line(sample['continuation'], limit=2_000)}",
        )
        for index, sample in enumerate(kept, start=1)
    ]
