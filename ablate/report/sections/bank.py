"""What a trial's bank holds at its end, as text: the part of an experiment record that reads a checkpoint."""

from __future__ import annotations

from ablate.escape import one_line
from ablate.records.ledger import Ledger
from ablate.records.locations import Place
from ablate.report.document import Block, Cell, Column, Table, cell, words
from ablate.trainers import recorded

SHOWN = 15


def bank_content(study_dir: Place, trial_id: str) -> Block:
    """The most used entries, now and at the start; or why they cannot be shown."""
    ledger = Ledger(study_dir)
    found = recorded.checkpoint_text(ledger.trainer.name, ledger.checkpoint_dir(trial_id), top=SHOWN)
    if found.why_not:
        return words(f"Its entries cannot be shown as text: {one_line(found.why_not, limit=300)}.")
    entries = found.entries
    return Table(
        label=f"{trial_id}_entries",
        caption=f"The {len(entries)} most used entries, most used first: times selected in the last validation, all "
        "layers together; their tokens as text now and at the start. `python -m model.bank` shows the others.",
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
            for entry in entries
        ),
    )
