"""Expands an ablation's designs into arms: named arms, leave-one-out, add-one-in, factorial cells, the A/A arm.

Pure. The plan and the dry run expand the designs here; study.json records the arms for the report.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ablate.trainers import Config

if TYPE_CHECKING:
    from ablate.spec.models import Ablation

Design = Literal["arm", "leave_one_out", "add_one_in", "factorial", "reseed"]

SEARCH, BASELINE = "search", "baseline"
"""Reserved arm names: the trials of the search, and the control of the ablation."""

TUNE, CALIBRATE = "tune.", "calibrate."
"""Prefixes of an arm's name in the rows of the trials that tune it, and of the trial that measures its speed."""

CONFIRM = "confirm."
"""Prefix of the id of a search's trial, in the rows of the trials that train it again on fresh seeds."""

MAX_CELLS = 1_000
"""Cells that a factorial may have; a study of more should search."""


@dataclass(frozen=True)
class Arm:
    """What one arm changes: `overrides` of the baseline under dotted keys.

    `levels`: factor -> level of a factorial's cell, as the configuration holds it; empty for the other designs.
    """

    name: str
    overrides: Mapping[str, Any]
    design: Design
    levels: Mapping[str, Any]


def expand(ablation: Ablation, base: Config) -> tuple[Arm, ...]:
    """All arms but the baseline: named arms, leave-one-out, add-one-in, factorial, each in the file's order.

    `base` is the baseline's configuration; the factorial's cell that equals it is left out. Raises ParameterError,
    keyed by the factor, where a level is not valid.
    """
    return (
        *(_named(name, written, base) for name, written in ablation.arms.items()),
        *(Arm(f"without_{name}", out, "leave_one_out", {}) for name, out in ablation.leave_one_out.items()),
        *(Arm(f"with_{name}", put_in, "add_one_in", {}) for name, put_in in ablation.add_one_in.items()),
        *_cells(ablation.factorial, base),
    )


def prefix(arm: Arm) -> str:
    """The prefix of an arm's keys in the study file, such as `ablation.leave_one_out.ema.`."""
    match arm.design:
        case "leave_one_out":
            return f"ablation.leave_one_out.{arm.name.removeprefix('without_')}."
        case "add_one_in":
            return f"ablation.add_one_in.{arm.name.removeprefix('with_')}."
        case "factorial":
            return "ablation.factorial."
        case "arm" | "reseed":
            return f"ablation.arms.{arm.name}."


def is_preparation(arm: str) -> bool:
    """Whether rows of this arm prepare the ablation (tuning, calibration) or confirm the search. No table of arms or of
    search trials has them."""
    return arm.startswith((TUNE, CALIBRATE, CONFIRM))


def family(arms: Sequence[Arm], *, control: str | None) -> int:
    """How many arms Holm corrects for: all but the A/A arms and the positive control, which are only checks; at
    least 1."""
    return max(1, sum(arm.design != "reseed" and arm.name != control for arm in arms))


def _named(name: str, written: Mapping[str, Any], base: Config) -> Arm:
    if "reseed" in written:
        reseed = base.trainer.description.reseed
        assert reseed is not None, "the reader refuses an A/A arm of a trainer that cannot reseed"
        return Arm(name, {reseed: base[reseed] + 1}, "reseed", {})
    return Arm(name, written, "arm", {})


def _cells(factorial: Mapping[str, list[Any]], base: Config) -> Iterator[Arm]:
    if not factorial:
        return
    for values in itertools.product(*factorial.values()):
        cell = dict(zip(factorial, values, strict=True))
        config = base.override(cell)
        if config != base:
            levels = {key: config[key] for key in factorial}
            yield Arm(cell_name(cell), cell, "factorial", levels)


def cell_name(cell: Mapping[str, Any]) -> str:
    """A cell's name, such as `knowledge_length-4.ema_state-sparse_cache`."""
    return ".".join(f"{key.rpartition('.')[2]}-{level}" for key, level in cell.items())
