"""The draws of a search in their order, one small file each. They let Optuna's journal be rebuilt, and a trial be
trained again that was cut off before its first checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ablate.records import json_files
from ablate.records.atomic_files import Unreadable
from ablate.records.store import Store

MOST_LOST = 10_000
"""Draws are numbered without gaps, but for those whose files were lost. A number that is further beyond the number of
files is damage: whoever counts up to it would count for hours."""


@dataclass(frozen=True)
class Draw:
    """One draw of a search. `number` counts from 0, repeats included. `params`: dotted key -> value. `trial_id` is ""
    where the values are not a valid configuration."""

    number: int
    trial_id: str
    params: Mapping[str, Any]

    @staticmethod
    def read(stored: Any) -> Draw:
        """Read a draw from JSON. Raises ValueError where it is not one."""
        try:
            return Draw(int(stored["number"]), str(stored["trial_id"]), dict(stored["params"]))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


def record(draw: Draw, *, store: Store) -> None:
    """Write a draw, before its trial is trained. Raises OSError where results/ cannot be written."""
    text = json.dumps(asdict(draw), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    store.replace(f"draws/{_file(draw.number)}", lambda tmp: tmp.write_text(text, encoding="utf-8"))


def recorded(store: Store) -> tuple[list[Draw], list[str]]:
    """Every readable draw, sorted by number, and `name: reason` for every other file. If the trial of a lost draw has
    ended, the trial's row has its values."""
    store.pull("draws")
    found, problems, names = [], [], store.names("draws")
    for name in names:
        try:
            draw = Draw.read(json_files.read(store.fetch(f"draws/{name}")))
            if name != _file(draw.number):
                raise ValueError(f"it holds draw {draw.number}")
            if not 0 <= draw.number < len(names) + MOST_LOST:
                raise ValueError(f"there are {len(names)} draws")
            found.append(draw)
        except (Unreadable, ValueError) as error:
            problems.append(f"draws/{name}: not readable as a draw ({error})")
    return sorted(found, key=lambda draw: draw.number), problems


def _file(number: int) -> str:
    return f"{number:06d}.json"
