"""`python -m model.bank CHECKPOINT`: a trained bank's entries as text, most used first, with what changed."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from model.config import ConfigError
from model.evaluate import Bank, read_bank, select_entries, summarise_bank
from model.outcome import DataError, full_disk

EPILOG = """example:
  python -m model.bank results/single/0123456789ab
  python -m model.bank results/ema/checkpoints/0123456789ab --find river --top 50"""


def render(bank: Bank, *, find: str | None, top: int) -> str:
    """The answer as text for a terminal."""
    summary = summarise_bank(bank)
    entries, matches = select_entries(bank, find=find, top=top)
    if summary.window_tokens:
        use = f"selected in {summary.window_tokens:,} validation tokens: {summary.used_share:.1%} of the entries"
    else:
        use = "use was not counted yet: this checkpoint is older than the run's first validation"
    slots = f"{summary.changed_share:.1%} of the entries, {summary.slots_changed_share:.1%} of the slots"
    distinct = f"{summary.distinct_tokens:.2f} now, {summary.distinct_tokens_at_start:.2f} at the start"
    lines = [
        f"bank at step {bank.step}: {summary.entries:,} entries of {summary.tokens_per_entry} tokens",
        use,
        f"changed since the start: {slots}",
        f"different tokens in an entry: {distinct}",
    ]
    if find is not None and not matches:
        return "\n".join([*lines, f"no entry contains {visible(find)}, now or at the start"])
    if find is not None:
        lines.append(f"entries whose text, now or at the start, contains {visible(find)}: {matches:,}")
    headers = ["rank", "entry", "times selected", "slots changed", "now", "at the start"]
    table = [[e.rank, e.entry, e.count, e.slots_changed, visible(e.now), visible(e.start)] for e in entries]
    return "\n".join([*lines, "", tabulate(table, headers=headers, disable_numparse=[4, 5])])


def visible(text: str) -> str:
    """The text in quotes on one line; characters that a terminal would not show are escaped as in Python."""
    shown = (c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)
    return f'"{"".join(shown)}"'


def as_json(bank: Bank, *, find: str | None, top: int) -> str:
    """The answer as JSON, with the texts unescaped."""
    entries, matches = select_entries(bank, find=find, top=top)
    answer: dict[str, Any] = {"step": bank.step, **asdict(summarise_bank(bank)), "matches": matches}
    return json.dumps(answer | {"rows": [asdict(entry) for entry in entries]}, indent=1)


_FIND = (
    "only entries whose text, now or at the start, contains TEXT; upper and lower case count as equal; where none does,"
    " the answer says so (exit 0)"
)


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m model.bank`."""
    made = argparse.ArgumentParser(
        prog="python -m model.bank",
        description="Print a trained bank's entries as text, most used first, and what changed since the start.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a step-N folder, or the folder holding it")
    made.add_argument("--find", metavar="TEXT", help=_FIND)
    made.add_argument("--top", metavar="N", type=int, default=20, help="how many entries to print; default: 20")
    made.add_argument("--json", action="store_true", help="print the answer as JSON")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command. Exit 0 done, also where no entry contains what is searched; 2 bad input, 130 a full disk."""
    arguments = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # in a locale of ASCII or Latin-1
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if arguments.top < 1:
            raise ConfigError("--top", arguments.top, "shows nothing", "give 1 or more")
        bank = read_bank(arguments.checkpoint)
        for note in bank.passed_over:
            print(f"{note}; step {bank.step} is shown", file=sys.stderr)
        print((as_json if arguments.json else render)(bank, find=arguments.find, top=arguments.top), flush=True)
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader (`| head`) has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(full_disk(error), file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
