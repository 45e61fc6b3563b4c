"""Typed columns and rows of pandas tables, for every analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from ablate.formatting import LARGEST


def rows(table: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """The rows where the mask is true, a copy."""
    return cast(pd.DataFrame, table.loc[mask])


def of_arm(trials: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The trials of one arm."""
    return rows(trials, trials["arm"] == arm)


def completed(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that used their whole budget."""
    return rows(trials, trials["status"] == "completed")


def floats(table: pd.DataFrame, column: str) -> np.ndarray:
    """A column as doubles, NaN where nothing was measured and where the measure left the numbers or is beyond LARGEST;
    all NaN where the
    trainer does not measure it at all."""
    if column not in table:
        return np.full(len(table), np.nan)
    values = np.asarray(cast(pd.Series, table[column]).to_numpy(dtype=float, na_value=np.nan))
    return np.where(np.abs(values) <= LARGEST, values, np.nan)


def texts(table: pd.DataFrame, column: str) -> list[str]:
    """A column as strings."""
    return [str(value) for value in table[column]]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries, in order."""
    return cast(list[dict[str, Any]], table.to_dict("records"))


def in_order(table: pd.DataFrame, *, keys: Sequence[Any]) -> pd.DataFrame:
    """The rows sorted by these keys, smallest first. Each key has one value for each row."""
    order = sorted(range(len(table)), key=lambda index: tuple(key[index] for key in keys))
    return cast(pd.DataFrame, table.iloc[order])
