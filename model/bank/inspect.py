"""`python -m model.bank CHECKPOINT`: a trained bank's entries as text, most used first, with what changed.

The bank at the start is made again from the checkpoint's configuration, as the trainer made it; so the data files that
it names must still be there. Use is what the run counted at its last validation. Only what is printed is decoded;
`--find` decodes every entry once.

Letters: N entries, L tokens an entry.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from tabulate import tabulate

from model.bank.knowledge import initial_bank
from model.checkpoint import DATA, MODEL, STATE, newest
from model.config.resolve import Config, ConfigError, missing_files
from model.data import corpus
from model.data.tokenizer import Tokenizer, load_or_train
from model.evaluate.losses import bank_diversity
from model.outcome import DataError

Ints = NDArray[np.int32]

_DECODED = 65_536  # entries turned into text at a time

EPILOG = """example:
  python -m model.bank results/single/0123456789ab
  python -m model.bank results/ema/checkpoints/0123456789ab --find river --top 50"""


@dataclass(frozen=True)
class Bank:
    """A bank now and at the start, int32 [N, L], and how often each entry was selected in `window_tokens` tokens of
    validation text, all layers together: `used_N`, int32 [N]. `window_tokens` is 0 before the first validation."""

    config: Config
    step: int
    tokenizer: Tokenizer
    now_NL: Ints
    start_NL: Ints
    used_N: Ints
    window_tokens: int


@dataclass(frozen=True)
class Entry:
    """One line of the answer. `rank` is the place among all entries by use, from 1; equal use by entry number."""

    rank: int
    entry: int
    count: int
    now: str
    start: str
    slots_changed: int


@dataclass(frozen=True)
class Summary:
    """The whole bank: shares of its entries or slots, different tokens an entry (mean)."""

    entries: int
    tokens_per_entry: int
    window_tokens: int
    used_share: float
    changed_share: float
    slots_changed_share: float
    distinct_tokens: float
    distinct_tokens_at_start: float


def read(path: Path) -> Bank:
    """The bank of `path`: a `step-N` folder, or one that holds such folders (the newest is taken).

    Raises ConfigError where there is no checkpoint, no bank of tokens in it, or a file of its configuration has gone or
    holds something else than the run read; DataError for a broken data file. A checkpoint of an earlier version does
    not say what it read, and is taken to have read the same.
    """
    folder = path if (path / STATE).is_file() else newest(path)
    if folder is None:
        raise ConfigError(
            "CHECKPOINT", path, "no checkpoint there", "give a step-N folder, or the folder that holds it"
        )
    config, step, data_hash = _read_state(folder / STATE)
    if not config.model.stores_tokens:
        rule = f"trained with model.memory {config.model.memory}, which keeps no entries of tokens"
        raise ConfigError("CHECKPOINT", folder, rule, "give a checkpoint of a run with model.memory token or hybrid")
    for key, name in missing_files(config):
        raise ConfigError(key, name, "no such file, and the bank at the start is made from it", "put it back")
    now_NL, used_N, window_tokens = _read_entries(folder / MODEL)
    documents = corpus.load(config)
    if data_hash not in (documents.data_hash, None):
        rule = f"trained on other data ({data_hash}) than its configuration names now ({documents.data_hash})"
        raise ConfigError("CHECKPOINT", folder, rule, "put the files back as they were: its tokens are theirs")
    tokenizer = load_or_train(config, documents)
    start_NL = initial_bank(config, documents.knowledge, tokenizer).rows
    if start_NL.shape != now_NL.shape:
        raise ConfigError("CHECKPOINT", folder, f"{MODEL} holds a bank {now_NL.shape}", f"it must be {start_NL.shape}")
    return Bank(config, step, tokenizer, now_NL, start_NL, used_N, window_tokens)


def _read_state(path: Path) -> tuple[Config, int, str | None]:
    """(configuration, step, hash of the data; None where an earlier version wrote it)."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        data_hash = str(state[DATA]) if DATA in state else None
        return Config.model_validate(state["config"]), int(state["progress"]["step"]), data_hash
    except (OSError, ValueError, LookupError, TypeError, ValidationError):
        raise ConfigError("CHECKPOINT", path, "not a checkpoint's state", "give a folder that a run wrote") from None


def _read_entries(path: Path) -> tuple[Ints, Ints, int]:
    """(bank [N, L], uses [N], tokens in which they were counted): the only place that knows their names."""
    try:
        with safe_open(path, framework="numpy") as tensors:
            used_tokens = int(tensors.get_tensor("bank.used_tokens"))
            return tensors.get_tensor("bank.tokens_NL"), tensors.get_tensor("bank.used_N"), used_tokens
    except (OSError, SafetensorError):
        raise ConfigError("CHECKPOINT", path, "not a checkpoint's tensors", "give a folder that a run wrote") from None


def summarise(bank: Bank) -> Summary:
    """The header's numbers."""
    changed_NL = bank.now_NL != bank.start_NL
    return Summary(
        entries=bank.now_NL.shape[0],
        tokens_per_entry=bank.now_NL.shape[1],
        window_tokens=bank.window_tokens,
        used_share=float((bank.used_N > 0).mean()),
        changed_share=float(changed_NL.any(axis=1).mean()),
        slots_changed_share=float(changed_NL.mean()),
        distinct_tokens=bank_diversity(torch.from_numpy(bank.now_NL)),
        distinct_tokens_at_start=bank_diversity(torch.from_numpy(bank.start_NL)),
    )


def select(bank: Bank, *, find: str | None, top: int) -> tuple[list[Entry], int]:
    """The `top` most used entries whose text, now or at the start, contains `find` (upper or lower case alike), and how
    many contain it in all."""
    by_use_N = np.argsort(-bank.used_N, kind="stable")
    rank_N = np.empty_like(by_use_N)
    rank_N[by_use_N] = np.arange(1, len(by_use_N) + 1)
    chosen_M = by_use_N if find is None else by_use_N[containing(bank, find)[by_use_N]]
    shown = chosen_M[:top]
    changed = (bank.now_NL[shown] != bank.start_NL[shown]).sum(axis=1)
    texts = zip(
        bank.tokenizer.decode_rows(bank.now_NL[shown]), bank.tokenizer.decode_rows(bank.start_NL[shown]), strict=True
    )
    entries = [
        Entry(int(rank_N[s]), int(s), int(bank.used_N[s]), now, start, int(slots))
        for s, (now, start), slots in zip(shown, texts, changed, strict=True)
    ]
    return entries, len(chosen_M)


def containing(bank: Bank, find: str) -> NDArray[np.bool_]:
    """Which entries' text contains `find`, now or at the start; bool [N]. An entry that has not changed is decoded
    once."""
    wanted = find.casefold()
    found_N = np.fromiter((wanted in text for text in _folded(bank.tokenizer, bank.now_NL)), dtype=bool)
    other = np.flatnonzero(~found_N & (bank.now_NL != bank.start_NL).any(axis=1))
    texts = _folded(bank.tokenizer, bank.start_NL[other])
    found_N[other] = np.fromiter((wanted in text for text in texts), dtype=bool, count=len(other))
    return found_N


def _folded(tokenizer: Tokenizer, rows_ML: Ints) -> Iterator[str]:
    for first in range(0, len(rows_ML), _DECODED):
        yield from (text.casefold() for text in tokenizer.decode_rows(rows_ML[first : first + _DECODED]))


def render(bank: Bank, *, find: str | None, top: int) -> str:
    """The answer as text for a terminal."""
    summary = summarise(bank)
    entries, matches = select(bank, find=find, top=top)
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
    if find is not None:
        lines.append(f"entries whose text, now or at the start, contains {visible(find)}: {matches:,}")
    headers = ["rank", "entry", "times selected", "slots changed", "now", "at the start"]
    table = [[e.rank, e.entry, e.count, e.slots_changed, visible(e.now), visible(e.start)] for e in entries]
    return "\n".join([*lines, "", tabulate(table, headers=headers, disable_numparse=[4, 5])])


def visible(text: str) -> str:
    """In quotes, on one line, every character that a terminal would not show as Python would escape it."""
    shown = (c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)
    return f'"{"".join(shown)}"'


def as_json(bank: Bank, *, find: str | None, top: int) -> str:
    """The same for machines; texts as they are."""
    entries, matches = select(bank, find=find, top=top)
    answer: dict[str, Any] = {"step": bank.step, **asdict(summarise(bank)), "matches": matches}
    return json.dumps(answer | {"rows": [asdict(entry) for entry in entries]}, indent=1)


_FIND = "only entries whose text, now or at the start, contains TEXT; upper and lower case count as equal"


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
    """The command. Exit 0 done, 2 bad input."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.top < 1:
            raise ConfigError("--top", arguments.top, "shows nothing", "give 1 or more")
        bank = read(arguments.checkpoint)
        print((as_json if arguments.json else render)(bank, find=arguments.find, top=arguments.top), flush=True)
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader (`| head`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
