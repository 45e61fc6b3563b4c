"""What a search has drawn, in order: a small file a draw, so that Optuna's journal can be made anew and a trial that
was cut off before its first checkpoint is still known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ablate.records.store import Store


@dataclass(frozen=True)
class Draw:
    """One draw of a search. `number` counts from 0 and counts repeats too; `trial_id` is "" where the values did not
    go together; `params` are they, by dotted keys."""

    number: int
    trial_id: str
    params: Mapping[str, Any]

    @staticmethod
    def read(stored: Any) -> Draw:
        """A draw out of JSON. Raises ValueError where it is none."""
        try:
            return Draw(int(stored["number"]), str(stored["trial_id"]), dict(stored["params"]))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


def record(draw: Draw, *, store: Store) -> None:
    """Keep a draw, before anything is trained of it. Raises OSError where results/ cannot be written."""
    text = json.dumps(asdict(draw), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    store.replace(f"draws/{draw.number:06d}.json", lambda tmp: tmp.write_text(text, encoding="utf-8"))


def recorded(store: Store) -> list[Draw]:
    """Every draw that can be read, by number."""
    store.pull("draws")
    found = []
    for name in store.names("draws"):
        try:
            found.append(Draw.read(json.loads(store.fetch(f"draws/{name}").read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            continue  # its trial, if it has ended, is known from its row
    return sorted(found, key=lambda draw: draw.number)
