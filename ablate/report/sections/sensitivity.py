"""What a study could have seen, in words: its positive control, and the noise floor of its A/A arms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ablate import formatting
from ablate.analyze.arms.hypotheses import Judged
from ablate.analyze.arms.paired import Effect
from ablate.report.render.document import Code, Span
from ablate.report.sections.findings import Findings, PerObjective
from ablate.spec.declared_test import MAX_EXACT

NO_CONTROL = "This study has no positive control: it cannot tell “no effect” from “could not see”."
WITHHELD = "the study did not see its positive control, so a missing difference says nothing"


def sensitivity_in_words(findings: Findings) -> tuple[Span, ...]:
    """Whether the study saw its positive control; empty in a study without one, and before its first trial ended."""
    found = findings.sensitivity
    if found is None or not findings.progress.final:
        return ()
    effect, name = found.effect, Code(found.effect.arm)
    if not found.known:
        share = formatting.count(effect.n, "completed seed")
        return ("Sensitivity: not known yet. The positive control ", name, f" shares {share} with the baseline.")
    difference, places = effect.difference, formatting.decimals_for(effect.difference.sd)
    unit = findings.primary.unit
    tail = f" ({'exact' if effect.n <= MAX_EXACT else 'sign-flip'} p {formatting.p_value(effect.p_exact)})."
    if found.seen:
        verb = "lowers" if difference.below_zero else "raises"
        low, high = sorted((abs(difference.low), abs(difference.high)))
        size = f"{formatting.fixed(abs(difference.mean), places)}{unit} {formatting.interval(low, high, places)}"
        return ("Sensitivity: seen. The positive control ", name, f" {verb} {effect.metric} by {size}{tail}")
    value = formatting.fixed(difference.mean, places, sign=True)
    span = formatting.interval(difference.low, difference.high, places, sign=True)
    text = f" differs in {effect.metric} by {value}{unit} {span}{tail} So a missing difference says nothing here."
    return ("Sensitivity: not seen. The positive control ", name, text)


def sensitivity_as_values(findings: Findings) -> dict[str, Any] | None:
    """The same for JSON; None in a study without a positive control. `seen` is None where it is not known yet."""
    found = findings.sensitivity
    if found is None:
        return None
    return {
        "control": found.effect.arm,
        "metric": found.effect.metric,
        "seen": found.seen if found.known else None,
        **difference_as_values(found.effect),
    }


def difference_as_values(effect: Effect) -> dict[str, Any]:
    """An arm's difference to the baseline for JSON, None for a number that is missing."""
    numbers = {
        "difference": effect.difference.mean,
        "low": effect.difference.low,
        "high": effect.difference.high,
        "p_exact": effect.p_exact,
    }
    return {"n": effect.n, **{name: value if math.isfinite(value) else None for name, value in numbers.items()}}


def control_notes(effects: Sequence[Effect]) -> list[str]:
    """The note of a table that has the positive control among its arms."""
    return [
        f"{effect.arm} is the positive control: it stands outside of Holm's family, its p exact is not adjusted, and "
        "its mde is at 0.05."
        for effect in effects
        if effect.control
    ]


def noise_floor(per: PerObjective) -> list[Effect]:
    """The A/A arms that have an interval: differences of this size arise without any cause."""
    return [effect for effect in per.checks if effect.n > 1]


def floor_notes(per: PerObjective) -> list[str]:
    """The noise floor as a table's note; empty without an A/A arm that has an interval."""
    found = []
    for effect in noise_floor(per):
        places = formatting.decimals_for(effect.difference.sd)
        span = formatting.interval(effect.difference.low, effect.difference.high, places, sign=True)
        value = formatting.fixed(effect.difference.mean, places, sign=True)
        found.append(f"Noise floor: the A/A arm {effect.arm}, which changes nothing, differs by {value} {span}.")
    return found


def verdict_in_words(judged: Judged) -> str:
    """`supported`; of a verdict that is withheld, also what it would have been."""
    if not judged.withheld:
        return judged.verdict
    return f"{judged.verdict} (its numbers alone say {judged.withheld}, but {WITHHELD})"
