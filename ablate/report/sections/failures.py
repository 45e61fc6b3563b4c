"""The trials that did not complete, each with its reason, and the ends of the logs of failed ones."""

from __future__ import annotations

from collections import Counter

from ablate import formatting
from ablate.analyze.failures import Failure
from ablate.escape import last_lines, one_line
from ablate.report.render.document import Block, Cell, Column, Listing, Section, Table, cell
from ablate.report.sections.findings import Findings

FAILURES = 100  # most rows of the table: a long search prunes thousands
LOGS, LOG_LINES = 3, 50  # most logs shown for each status, and most lines of each


def failures_section(findings: Findings) -> Section:
    """A table of every trial that did not complete, and the ends of some logs."""
    cut = len(findings.failures) > FAILURES
    shown = (
        sorted(findings.failures, key=lambda entry: entry.status == "pruned")[:FAILURES] if cut else findings.failures
    )
    table = Table(
        label="failures",
        caption="Trials that did not complete, with their reasons."
        + (f" {FAILURES} of {len(findings.failures):,}, failed ones first; trials.csv has them all." if cut else ""),
        columns=(
            Column("trial_id", "trial", number=False),
            Column("arm", "arm", number=False),
            Column("seed", "seed"),
            Column("status", "end", number=False),
            Column("tokens_seen", "tokens seen"),
            Column("share", "of its budget"),
            Column("reason", "reason", number=False),
        ),
        rows=tuple(_failure_row(entry) for entry in shown),
        empty="Every trial that ended completed.",
    )
    return Section("Pruned and failed trials", (table, *_logs(findings)))


def _logs(findings: Findings) -> list[Block]:
    """The ends of the logs of the first failed trials of each status."""
    seen: Counter[str] = Counter()
    blocks: list[Block] = []
    for entry in findings.failures:
        text = findings.data.log(entry.trial_id, attempt=entry.attempt) if seen[entry.status] < LOGS else ""
        if text:
            seen[entry.status] += 1
            title = f"Last lines of logs/{entry.trial_id}-{entry.attempt}.txt ({entry.status})"
            blocks.append(Listing(title=title, text=last_lines(text, count=LOG_LINES)))
    return blocks


def _failure_row(entry: Failure) -> tuple[Cell, ...]:
    return (
        cell(entry.trial_id),
        cell(entry.arm),
        Cell(str(entry.seed), entry.seed),
        cell(entry.status),
        Cell(f"{entry.tokens:,.0f}", entry.tokens),
        Cell(formatting.share(entry.share), entry.share),
        Cell(one_line(entry.reason, limit=240), one_line(entry.reason, limit=2_000)),
    )
