"""A trained bank read from its checkpoint: its entries as text, how often each was used, what changed since the start.

The bank at the start is computed again from the checkpoint's configuration, as the trainer computed it, so the data
files that it names must still exist. Use is what the run counted at its last validation. Only entries that are shown
are decoded; a search for a text decodes every entry once.

Letters: N entries, L tokens an entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from model.bank import initial_bank
from model.checkpoint import MODEL, STATE, Damaged, all_in, check_files, check_kinds, damage, read_state
from model.config import Config, ConfigError, ModelConfig, explain, missing_files
from model.data import load_documents
from model.data.tokenizer import Tokenizer, load_or_train
from model.evaluate.losses import bank_diversity

Ints = NDArray[np.int32]

_DECODED = 65_536  # entries turned into text at a time


@dataclass(frozen=True)
class Bank:
    """A bank now and at the start, int32 [N, L]. `used_N`, int32 [N]: how often each entry was selected in
    `window_tokens` tokens of validation text, in all layers; `window_tokens` is 0 before the first validation.
    `passed_over`: a line for each newer checkpoint that is damaged."""

    config: Config
    step: int
    tokenizer: Tokenizer
    now_NL: Ints
    start_NL: Ints
    used_N: Ints
    window_tokens: int
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """An entry as text. `rank` is its place among all entries by use, from 1; ties go by entry number."""

    rank: int
    entry: int
    count: int
    now: str
    start: str
    slots_changed: int


@dataclass(frozen=True)
class Summary:
    """The bank as a whole: shares of its entries or slots, mean number of different tokens in an entry."""

    entries: int
    tokens_per_entry: int
    window_tokens: int
    used_share: float
    changed_share: float
    slots_changed_share: float
    distinct_tokens: float
    distinct_tokens_at_start: float


def read_bank(path: Path) -> Bank:
    """The bank of `path`: a `step-N` folder, or a folder of such folders, of which it takes the newest whole one.

    Raises ConfigError where there is no checkpoint or only damaged ones, where it has no bank of tokens, or where a
    file of its configuration is missing or has changed; DataError for a broken data file. A checkpoint of an earlier
    version does not identify its data, which are then assumed to be unchanged.
    """
    passed_over: list[str] = []
    for folder in _checkpoints(path):
        try:
            bank = _read(folder)
        except Damaged as error:
            passed_over.append(damage(folder, error))
            continue
        return replace(bank, passed_over=tuple(passed_over))
    if passed_over:
        raise ConfigError("CHECKPOINT", path, "; ".join(passed_over), "train it again, or give another checkpoint")
    raise ConfigError("CHECKPOINT", path, "no checkpoint there", "give a step-N folder, or the folder that holds it")


def _checkpoints(path: Path) -> list[Path]:
    try:
        return [path] if (path / STATE).exists() else all_in(path)
    except OSError as error:
        hint = "give a step-N folder, or the folder that holds it"
        raise ConfigError("CHECKPOINT", path, f"cannot be read ({error.strerror})", hint) from error


def _read(folder: Path) -> Bank:
    """The bank of one checkpoint. Raises Damaged, and what `read_bank` raises."""
    check_kinds(folder)
    state = read_state(folder)
    try:
        config = Config.model_validate(state.config)
    except ValidationError as error:
        raise Damaged(f"{STATE} is not a checkpoint's state: {explain(error)}") from error
    if not config.model.stores_tokens:
        rule = f"trained with model.memory {config.model.memory}, which keeps no entries of tokens"
        raise ConfigError("CHECKPOINT", folder, rule, "give a checkpoint of a run with model.memory token or hybrid")
    now_NL, used_N, window_tokens = _read_entries(folder / MODEL, config.model)
    check_files(folder)
    for key, name in missing_files(config):
        raise ConfigError(key, name, "no such file, and the bank at the start is made from it", "put it back")
    documents = load_documents(config)
    if state.data_hash not in (documents.data_hash, None):
        rule = f"trained on other data ({state.data_hash}) than its configuration names now ({documents.data_hash})"
        raise ConfigError("CHECKPOINT", folder, rule, "put the files back as they were: its tokens come from them")
    tokenizer = load_or_train(config, documents)
    start_NL = initial_bank(config, documents.knowledge, tokenizer).rows
    return Bank(config, state.progress.step, tokenizer, now_NL, start_NL, used_N, window_tokens)


def _read_entries(path: Path, config: ModelConfig) -> tuple[Ints, Ints, int]:
    """(bank [N, L], uses [N], tokens in which they were counted). Raises Damaged."""
    try:
        with safe_open(path, framework="numpy") as tensors:
            now_NL, used_N = tensors.get_tensor("bank.tokens_NL"), tensors.get_tensor("bank.used_N")
            used_tokens = int(tensors.get_tensor("bank.used_tokens"))
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise Damaged(f"{path.name} is not a checkpoint's tensors: {error}") from error
    shape = (config.knowledge_num, config.knowledge_length)
    if now_NL.shape != shape or used_N.shape != shape[:1]:
        raise Damaged(f"{path.name} holds a bank {now_NL.shape} with uses {used_N.shape}, which must be {shape}")
    if now_NL.dtype.kind != "i" or now_NL.min() < 0 or now_NL.max() >= config.vocab_size:
        raise Damaged(f"{path.name} holds entries that are no tokens")
    return now_NL, used_N, used_tokens


def summarise_bank(bank: Bank) -> Summary:
    """The numbers of the whole bank."""
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


def select_entries(bank: Bank, *, find: str | None, top: int) -> tuple[list[Entry], int]:
    """The `top` most used entries whose text, now or at the start, contains `find` (whatever the case), and how many
    entries contain it."""
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
    """Which entries' text contains `find`, now or at the start; bool [N]. Decodes an unchanged entry once."""
    wanted = find.casefold()
    found_N = np.fromiter((wanted in text for text in _folded(bank.tokenizer, bank.now_NL)), dtype=bool)
    other = np.flatnonzero(~found_N & (bank.now_NL != bank.start_NL).any(axis=1))
    texts = _folded(bank.tokenizer, bank.start_NL[other])
    found_N[other] = np.fromiter((wanted in text for text in texts), dtype=bool, count=len(other))
    return found_N


def _folded(tokenizer: Tokenizer, rows_ML: Ints) -> Iterator[str]:
    for first in range(0, len(rows_ML), _DECODED):
        yield from (text.casefold() for text in tokenizer.decode_rows(rows_ML[first : first + _DECODED]))
