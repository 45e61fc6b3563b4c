"""Comparability: compared trials must have the same code, budget, data, and versions of torch and Ray.

The code is the hash of the trainer's files (`code_hash`). Rows of before there was one have only their commit.

A search's trials on one seed are compared with each other, an arm's run with the baseline's run on the same seed. Seeds
may differ in data and budget, because the seed draws the world of `facts`. A difference that the study asks for is
allowed: a searched batch size changes the budget a little, and an arm may change the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from ablate.analyze.basis.code import UNKNOWN, codes
from ablate.analyze.basis.frames import of_arm, rows, texts
from ablate.spec.designs import SEARCH
from ablate.trainers import Description


@dataclass(frozen=True)
class Mixed:
    """Trials of one comparison that differ from its majority in a column. `odd`: trial id -> its value."""

    comparison: str
    column: str
    usual: str
    odd: dict[str, str]

    def __str__(self) -> str:
        listed = ", ".join(f"{trial_id} ({value})" for trial_id, value in self.odd.items())
        return f"{self.column} is not the same throughout {self.comparison}: {self.usual} but for {listed}"


def mixed(trials: pd.DataFrame, *, varied: Iterable[str], trainer: Description) -> list[Mixed]:
    """The differences that make trials incomparable, among those whose numbers are compared (completed and pruned).

    `varied`: every key that the study searches or an arm overrides. `trainer` says which keys determine budget_tokens
    and data_hash: a study that varies such a key differs in that column on purpose.
    """
    keys = tuple(varied)
    compared = rows(trials, trials["status"].isin(["completed", "pruned"]))
    search, ablation = of_arm(compared, SEARCH), rows(compared, compared["arm"] != SEARCH)
    found = []
    for runs, comparison in ((search, "the search"), (ablation, "the ablation")):
        hashes, commits = _known(runs, "code_hash"), _known(runs, "git_commit")
        found.append(_odd(runs, comparison, "code_hash" if any(hashes) else "git_commit", codes(hashes, commits)))
        if any(_known(runs, "versions")):  # older ledgers have none
            found.append(_odd(runs, comparison, "versions"))
    for column, by_design in (("budget_tokens", trainer.size_keys), ("data_hash", trainer.data_keys)):
        if not any(key.startswith(by_design) for key in keys):
            several = len(set(search["seed"])) > 1
            found += [
                _odd(runs, f"seed {seed} of the search" if several else "the search", column)
                for seed, runs in search.groupby("seed")
            ]
            found += [_odd(runs, f"seed {seed} of the ablation", column) for seed, runs in ablation.groupby("seed")]
    # What was really consumed, where the trainer is the user's: it counts and reports by itself.
    if trainer.settings:
        completed = rows(ablation, ablation["status"] == "completed")
        for column in ("tokens_seen", "data_digest"):
            found += [_odd(runs, f"seed {seed} of the ablation", column) for seed, runs in completed.groupby("seed")]
    return [entry for entry in found if entry is not None]


def _known(runs: pd.DataFrame, column: str) -> list[str | None]:
    return [None if pd.isna(value) or value == "" else str(value) for value in runs[column]]


def _odd(runs: pd.DataFrame, comparison: str, column: str, values: Sequence[str] | None = None) -> Mixed | None:
    """The trials without the most frequent value (at a tie, the first one), or None where all agree. `values`: what
    stands for the column's."""
    values = [value or UNKNOWN for value in _known(runs, column)] if values is None else values
    if len(set(values)) < 2:
        return None
    usual = Counter(values).most_common(1)[0][0]
    odd = {trial_id: value for trial_id, value in zip(texts(runs, "trial_id"), values, strict=True) if value != usual}
    return Mixed(comparison=comparison, column=column, usual=usual, odd=odd)
