"""Reads `ablation.seeds` where it is a mapping, sequential seeds, and checks that the declared looks can decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablate import formatting
from ablate.spec import spending
from ablate.spec.designs import Arm
from ablate.spec.models import Ablation, SequentialSeeds
from ablate.spec.spending import MOST_LOOKS, Looks
from ablate.spec.tree import Tree

_KEY = "ablation.seeds"


def seeds(tree: Tree, written: dict[str, Any]) -> Mapping[str, Any]:
    """The fields `seeds` and `sequential` of the ablation where `seeds` is a mapping; none where it is a number."""
    given = tree.value("seeds", written)
    if not isinstance(given, dict):
        return {}
    sequential = tree.model(_KEY, SequentialSeeds, given)
    return {"seeds": sequential.most, "sequential": sequential}


def check(tree: Tree, ablation: Ablation, declared: SequentialSeeds, arms: Sequence[Arm]) -> None:
    """Raise BadInput unless there are at least two looks, not too many, and one at which the test can reject."""
    first, most, block = declared.first, declared.most, declared.block
    if most <= first:
        raise tree.bad(f"{_KEY}.most", most, f"not above first, {first}", f"raise it, or write seeds: {most}")
    if 1 + (most - first) / block > MOST_LOOKS:
        needed = -(-(most - first) // (MOST_LOOKS - 1))
        raise tree.bad(f"{_KEY}.step", block, f"more than {MOST_LOOKS} looks", f"raise it to {needed}")
    if ablation.factorial:
        rule = "its contrasts need every cell on every seed, and sequential seeds end arm by arm"
        raise tree.bad("ablation.factorial", "given", rule, f"write seeds: {most}, or leave the factorial out")
    claiming = sum(arm.design != "reseed" and arm.name != ablation.control for arm in arms)
    if not claiming:
        raise tree.bad(
            _KEY, "a mapping", "none of its arms claims anything that could be decided", f"write seeds: {most}"
        )
    if _can_reject(declared, most, claiming) or ablation.exploratory:
        return
    rule = f"the declared test cannot reject at any look, with {formatting.count(claiming, 'arm')}"
    enough = next((n for n in range(most + 1, 2 * most + 64, block) if _can_reject(declared, n, claiming)), 1_000)
    raise tree.bad(f"{_KEY}.most", most, rule, f"give {enough}, or set `exploratory: true`")


def _can_reject(declared: SequentialSeeds, most: int, arms: int) -> bool:
    sizes = spending.sizes(first=declared.first, most=most, step=declared.block)
    return Looks(sizes, declared.alpha, 0).first_that_can_reject(arms) is not None
