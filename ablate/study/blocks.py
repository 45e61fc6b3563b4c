"""What sequential seeds may cost and can show, before they are trained: the looks, their levels, the trials."""

from __future__ import annotations

from dataclasses import dataclass

from ablate import formatting
from ablate.spec import declared_test, designs
from ablate.spec.models import StudySpec
from ablate.spec.spending import levels
from ablate.trials import plan


@dataclass(frozen=True)
class Blocks:
    """`sizes`: the seeds at each look; `levels`: its nominal level at Holm's first step, and `smallest_p` the smallest
    p of the declared test there. `least`, `most`: how many trials the arms and the baseline may take in all; the least
    is where every arm is decided at the first look that can decide all."""

    sizes: tuple[int, ...]
    levels: tuple[float, ...]
    smallest_p: tuple[float, ...]
    alpha: float
    family: int
    least: int
    most: int


def describe(spec: StudySpec) -> Blocks | None:
    """The blocks of a study; None where its number of seeds is fixed."""
    looks = plan.looks(spec)
    if looks is None or spec.ablation is None:
        return None
    arms = designs.expand(spec.ablation, spec.base)
    family, runs = designs.family(arms, control=spec.ablation.control), len(arms) + 1
    return Blocks(
        sizes=looks.sizes,
        levels=levels(looks.sizes, looks.alpha / family),
        smallest_p=tuple(declared_test.smallest_p(size) for size in looks.sizes),
        alpha=looks.alpha,
        family=family,
        least=runs * (looks.first_that_can_reject(family) or looks.most),
        most=runs * looks.most,
    )


def lines(blocks: Blocks) -> list[str]:
    """The blocks as lines for a terminal."""
    looks = "; ".join(
        f"{size} ({formatting.p_value(level)}{'' if smallest <= level else ', which no p reaches'})"
        for size, level, smallest in zip(blocks.sizes, blocks.levels, blocks.smallest_p, strict=True)
    )
    return [
        f"sequential seeds: error {blocks.alpha:g} over {formatting.count(len(blocks.sizes), 'look')} and"
        f" {formatting.count(blocks.family, 'arm')}; seeds at each look (nominal level at Holm's first step): {looks}",
        f"arms and baseline take at least {blocks.least} and at most {blocks.most} trials; the trials, tokens and hours"
        " of this plan are the most",
    ]
