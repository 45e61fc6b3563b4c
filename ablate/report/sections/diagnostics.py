"""Sections that every study has: what is missing, the memory, floors, failures, cost, samples, provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ablate import formatting
from ablate.analyze.basis.frames import completed, texts
from ablate.analyze.basis.stats import Interval
from ablate.analyze.cost import COLUMNS
from ablate.errors import BadInput
from ablate.escape import one_line
from ablate.report.render.document import Block, Cell, Code, Column, Section, Table, cell, interval_cell, notice, words
from ablate.report.sections.failures import failures_section
from ablate.report.sections.findings import Findings
from ablate.report.sections.run import sample_listings
from ablate.spec.designs import SEARCH
from ablate.study import lifecycle

SAMPLES = 4
GROUP = Column("group", "trials", number=False)


def missing_sections(findings: Findings) -> list[Section]:
    """What an unfinished study lacks and which files cannot be read; empty for a whole study."""
    progress = findings.progress
    problems = findings.data.problems
    if progress.whole and not problems:
        return []
    counts = (
        f"{formatting.count(progress.final, 'trial')} of {progress.planned} ended; "
        f"{len(progress.unfinished)} started and did not end; {progress.not_started} did not start."
    )
    blocks: list[Block] = [notice(counts)]
    if problems:
        blocks.append(
            notice(f"{formatting.count(len(problems), 'file')} could not be read and are left out of this report:")
        )
        blocks += [words(Code(one_line(problem, limit=400))) for problem in problems]
    if progress.unfinished:
        blocks.append(_unfinished(findings))
    if progress.whole:
        return [Section("What is missing", tuple(blocks))]
    study = findings.data.facts.study
    blocks += [words(why) for why in _not_begun(findings)]
    blocks.append(
        words(
            "If no process works on the study any more, resume it: the sweep's command with ",
            Code("--resume"),
            ". ",
            Code(f"python -m ablate.status {study}"),
            " shows its progress.",
        )
    )
    return [Section("What is missing", tuple(blocks))]


def _not_begun(findings: Findings) -> list[str]:
    """Why an ablation that starts from the search's best trial has no runs yet; empty for any other."""
    spec = findings.data.facts.spec
    begun = set(texts(findings.data.every_trial, "arm")) - {SEARCH}
    if spec.ablation is None or spec.ablation.baseline != "best" or begun:
        return []
    trials = findings.data.facts.points
    searched = [status for status in texts(findings.search, "status") if status != "unfinished"]
    if lifecycle.lacks_winner(baseline=spec.ablation.baseline, trials=trials, searched=searched):
        return [f"The ablation has not begun: {lifecycle.NO_WINNER}."]
    if len(searched) < trials:
        return ["The ablation starts from the search's best trial: its arms wait for the search to end."]
    return []


def _unfinished(findings: Findings) -> Table:
    rows = [
        (
            cell(entry.trial_id),
            Cell(f"{entry.tokens:,}", entry.tokens),
            Cell(f"{entry.budget:,}" if entry.budget else formatting.DASH, entry.budget or None),
            cell(entry.last_report or "none yet"),
        )
        for entry in findings.progress.unfinished
    ]
    return Table(
        label="unfinished",
        caption="Trials that started and have no final row: they run, or their process was killed.",
        columns=(
            Column("trial_id", "trial", number=False),
            Column("tokens_seen", "tokens seen"),
            Column("budget_tokens", "budget"),
            Column("last_report", "last report", number=False),
        ),
        rows=tuple(rows),
    )


def diagnostic_sections(findings: Findings) -> list[Section]:
    """The sections that every study has, each once it has content."""
    sections = []
    if findings.progress.completed and findings.data.measures_memory:
        sections += [
            Section("Does the model rely on its memory, and what is it worth?", tuple(_memory(findings))),
            _floors(findings),
        ]
    if findings.progress.final:
        sections += [failures_section(findings), _cost(findings)]
    return [*sections, *_samples(findings), Section("Provenance", (provenance_table(findings),))]


def _memory(findings: Findings) -> list[Block]:
    rule = (
        "Reliance is what a trained model loses when its bank is disturbed: its rows permuted (bank_use_nats), its "
        "read set to zero, or its read replaced by the mean read, each as val_loss minus the undisturbed val_loss. A "
        "model can rely on what is worth nothing: it may lose more with wrong content than with none. A gain is "
        "credited to the memory only where the 95% interval of bank_use_nats lies above 0. "
    )
    if not findings.bank_use:
        return [words(rule + "No completed trial has a bank to permute.")]
    objective = findings.primary.objective
    has_worth = any(entry.worth is not None for entry in findings.bank_use)
    rule += (
        f"Worth is the paired difference in {objective.metric} to blind, the same layer without a memory."
        if has_worth
        else "What it is worth was not measured: no completed run has `memory: blind`, the same layer without a memory."
    )
    rows = []
    for entry in findings.bank_use:
        places = formatting.decimals_for(entry.use.sd if entry.use.n > 1 else abs(entry.use.mean))
        verdict = "yes" if entry.read else "not shown" if entry.use.n > 1 else "one trial: no interval"
        rows.append(
            (
                cell(_group(entry.group)),
                Cell(str(entry.use.n), entry.use.n),
                Cell(formatting.fixed(entry.use.mean, places, sign=True), entry.use.mean),
                interval_cell(entry.use.low, entry.use.high, places, sign=True),
                Cell(formatting.fixed(entry.zeroed, places, sign=True), entry.zeroed),
                Cell(formatting.fixed(entry.averaged, places, sign=True), entry.averaged),
                cell(verdict),
                *(_worth(entry.worth) if has_worth else ()),
            )
        )
    worth = (
        Column("worth", f"worth: {objective.metric} − blind"),
        Column("worth_interval", "95% interval", interval=True),
    )
    table = Table(
        label="bank_use",
        caption="Reliance on the memory, nats a token: val_loss with the bank's rows permuted (bank_use_nats), with "
        "the read set to zero, and with the read replaced by its mean, each minus val_loss."
        + f" Worth: {objective.metric} minus that of blind, paired by seed."
        * has_worth,
        columns=(
            GROUP,
            Column("n", "n"),
            Column("bank_use_nats", "rows permuted"),
            Column("interval", "95% interval", interval=True),
            Column("bank_zero_nats", "read zeroed"),
            Column("bank_mean_nats", "read averaged"),
            Column("read", "is it read?", number=False),
            *(worth if has_worth else ()),
        ),
        rows=tuple(rows),
    )
    return [words(rule), table]


def _worth(worth: Interval | None) -> tuple[Cell, Cell]:
    if worth is None or not worth.n:
        return Cell(formatting.DASH, None), interval_cell(math.nan, math.nan, 3)
    places = formatting.decimals_for(worth.sd if worth.n > 1 else abs(worth.mean))
    mean = Cell(formatting.fixed(worth.mean, places, sign=True), worth.mean)
    return mean, interval_cell(worth.low, worth.high, places, sign=True)


def _floors(findings: Findings) -> Section:
    rows = [
        (
            cell(_group(entry.group)),
            Cell(str(entry.n), entry.n),
            *(
                Cell(formatting.fixed(value, 3), value)
                for value in (entry.val_loss, entry.unigram, entry.below_unigram, entry.bigram, entry.below_bigram)
            ),
        )
        for entry in findings.floors
    ]
    table = Table(
        label="floors",
        caption="Held-out loss and what token frequencies (unigram) and token pairs (interpolated bigram) reach on "
        "the same text, nats a token. Below counts downwards from the floor: negative is worse than the floor.",
        columns=(
            GROUP,
            Column("n", "n"),
            Column("val_loss", "val_loss"),
            Column("unigram_floor", "unigram floor"),
            Column("below_unigram", "below it"),
            Column("bigram_floor", "bigram floor"),
            Column("below_bigram", "below it"),
        ),
        rows=tuple(rows),
        empty="No completed trial has floors.",
    )
    return Section("Against the corpus's n-gram floors", (table,))


def _cost(findings: Findings) -> Section:
    headers = {
        "tokens_per_s": "tokens/s",
        "step_ms": "step (ms)",
        "ema_ms": "EMA update (ms)",
        "peak_gib": "peak memory (GiB)",
        "wall_s": "wall time",
    }
    rows = []
    for entry in findings.costs:
        shown = [formatting.significant(entry.medians[name], digits=3) for name in COLUMNS if name != "wall_s"]
        shown.append(formatting.duration(entry.medians["wall_s"]))
        rows.append(
            (
                cell(_group(entry.group)),
                Cell(str(entry.n), entry.n),
                *(Cell(text, entry.medians[name]) for text, name in zip(shown, COLUMNS, strict=True)),
                Cell(formatting.duration(entry.total_wall_s), entry.total_wall_s),
            )
        )
    table = Table(
        label="cost",
        caption="Cost: medians over the completed trials, and the wall time of all the group's trials together.",
        columns=(
            GROUP,
            Column("n", "n"),
            *(Column(name, headers[name]) for name in COLUMNS),
            Column("total_wall_s", "all trials"),
        ),
        rows=tuple(rows),
    )
    return Section("Cost", (table,))


def _samples(findings: Findings) -> list[Section]:
    """What the search's best trial wrote; in a study without a search, the first completed trial."""
    best = findings.primary.best
    trials = findings.data.trials
    done = texts(completed(trials), "trial_id")
    trial_id = best.trial_id if best else done[0] if done else None
    try:
        kept = findings.data.samples(trial_id)[:SAMPLES] if trial_id else []
    except BadInput as error:
        return [Section("What it writes", (notice(one_line(str(error), limit=400)),))]
    if trial_id is None or not kept:
        return []
    intro = words("Trial ", Code(trial_id), ". The text before ▸ is the prompt, held out from training.")
    return [Section("What it writes", (intro, *sample_listings(kept)))]


def provenance_table(findings: Findings, *, label: str = "provenance") -> Table:
    """Command, commit, data, machine, versions, and the study's plan."""
    facts = findings.data.facts
    source = facts.provenance
    commit = (source.git_commit or "not in a git repository") + (
        ", with uncommitted changes" if source.git_dirty else ""
    )
    versions = ", ".join(f"{name} {version}" for name, version in source.versions.items() if version)
    spec = facts.spec
    lines: list[tuple[str, Any]] = [
        ("study", facts.study),
        ("command", facts.command),
        ("started", facts.started_at),
        ("finished", _finished(findings)),
        ("commit", commit),
        *([("code", source.code_hash)] if source.code_hash else []),
        ("data", source.data_hash),
        ("device", source.device),
        ("machine", f"{source.host}, {source.platform}, Python {source.python}"),
        ("versions", versions),
        ("base", ", ".join(f"{key} = {spec.base[key]}" for key in ("preset", "data.corpus") if key in spec.base)),
    ]
    if facts.space:
        stop = (
            ", stopped early by " + _inline(spec.early_stopping.model_dump())
            if spec.early_stopping
            else ", no early stopping"
        )
        lines.append(
            ("search", f"{spec.optimizer.sampler}, {spec.optimizer.trials} trials, seed {spec.optimizer.seed}{stop}")
        )
    if spec.ablation:
        lines.append(
            (
                "ablation",
                f"{formatting.count(len(findings.data.arms), 'arm')} and the baseline,"
                f" {'at most ' if spec.ablation.looks else ''}{spec.ablation.seeds} seeds each",
            )
        )
    lines += [("mixed", str(entry)) for entry in findings.mixed]
    return Table(
        label=label,
        caption="Where these numbers come from.",
        columns=(Column("what", "what", number=False), Column("value", "value", number=False)),
        rows=tuple((cell(what), Cell(one_line(str(value), limit=400), str(value))) for what, value in lines),
    )


def _finished(findings: Findings) -> str:
    at, left = findings.data.facts.finished_at, findings.progress.left
    if at is None or not left:
        return at or "not finished"
    return f"not finished: {at} was, and {formatting.count(left, 'trial')} lost the result since or was added"


def _inline(tree: Mapping[str, Any]) -> str:
    """`asha (min_tokens 50000, reduction 3)`."""
    return ", ".join(
        f"{key} ({_inline(value)})" if isinstance(value, Mapping) else f"{key} {value}" for key, value in tree.items()
    )


def _group(group: str) -> str:
    return "best trial of the search" if group == "best" else group
