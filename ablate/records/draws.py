"""The draws of a search in their order, one small file each. They let Optuna's journal be rebuilt, and a trial be
trained again that was cut off before its first checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ablate.records.store import Store


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
    store.replace(f"draws/{draw.number:06d}.json", lambda tmp: tmp.write_text(text, encoding="utf-8"))


def recorded(store: Store) -> list[Draw]:
    """Every readable draw, sorted by number."""
    store.pull("draws")
    found = []
    for name in store.names("draws"):
        try:
            found.append(Draw.read(json.loads(store.fetch(f"draws/{name}").read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            continue  # if its trial has ended, the trial's row has the values
    return sorted(found, key=lambda draw: draw.number)
