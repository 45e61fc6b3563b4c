"""Interim looks at an ablation's results, and which claims they make exploratory.

A p value holds for a number of seeds that was fixed before anyone saw results: adding seeds until something is
significant finds something (Armitage, McPherson and Rowe 1969).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ablate import formatting


@dataclass(frozen=True)
class Look:
    """A time at which results were shown. `planned_seeds`: how many seeds the study planned then. `shown`: arm -> the
    seeds on which it and the baseline were complete."""

    at: str
    planned_seeds: int
    shown: Mapping[str, tuple[int, ...]]

    @staticmethod
    def read(stored: Any) -> Look:
        """Read a look from JSON. Raises ValueError where it is not one."""
        try:
            at, shown = str(stored["at"]), {str(arm): tuple(map(int, s)) for arm, s in stored["shown"].items()}
            datetime.fromisoformat(at)
            return Look(at=at, planned_seeds=int(stored["planned_seeds"]), shown=shown)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


def peeked(looks: Sequence[Look], *, arms: Sequence[str], planned_seeds: int) -> dict[str, str]:
    """Arm -> why its p values are exploratory: the planned seeds changed after a look that showed the arm.

    A look at a running study changes nothing as long as the plan stays. To lower the number of seeds changes it too.
    """
    found: dict[str, str] = {}
    for look in sorted(looks, key=lambda look: look.at):
        if look.planned_seeds == planned_seeds:
            continue
        change = "added" if planned_seeds > look.planned_seeds else "removed"
        for arm in arms:
            if look.shown.get(arm):
                seen = formatting.count(len(look.shown[arm]), "seed")
                found.setdefault(
                    arm,
                    f"seeds were {change} ({look.planned_seeds} to {planned_seeds}) after its results on {seen} "
                    f"had been seen ({_minute(look.at)})",
                )
    return found


def hindsight(looks: Sequence[Look], *, arm: str, declared_at: str, ended: Sequence[str]) -> str:
    """Why a claim about an arm is exploratory: before `declared_at`, a report had shown the arm, or runs of it had
    ended (`ended`: the times). "" where neither had. Times are as in the ledger: ISO, UTC."""
    shown = [len(look.shown[arm]) for look in looks if look.shown.get(arm) and look.at < declared_at]
    before = sum(end < declared_at for end in ended)
    if not shown and not before:
        return ""
    seen = f"its results on {formatting.count(max(shown, default=0), 'seed')} had been seen"
    after = seen if shown else f"{before} of the arm's runs had ended"
    return f"declared ({_minute(declared_at)}) after {after}"


def _minute(at: str) -> str:
    return f"{at[:16].replace('T', ' ')} UTC"
