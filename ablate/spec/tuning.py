"""Fair tuning: every arm and the baseline are tuned over the same space. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ablate.errors import ParameterError
from ablate.spec.distributions import Distribution, Range
from ablate.spec.models import TuneEachArm
from ablate.trainers import Config, check_key

FACTOR = 8.0
"""A parameter that `search` does not name is tuned log-uniformly from its base value / FACTOR to its value * FACTOR."""


def space(tune: TuneEachArm, base: Config, search: Mapping[str, Distribution]) -> dict[str, Distribution]:
    """Nuisance parameter -> its distribution. Raises ParameterError for a key that cannot be tuned."""
    return {key: _distribution(key, base, search) for key in tune.over}


def _distribution(key: str, base: Config, search: Mapping[str, Distribution]) -> Distribution:
    check_key(base.trainer, key)
    base.trainer.check_nuisance(key)
    if key in search:
        return search[key]
    value = base[key]
    if not isinstance(value, float) or value <= 0:
        rule = f"no default range around {value}, which is not a real number above 0"
        raise ParameterError(key, "tuned", rule, f"give its range in `search`, e.g. {key}: {{int: [1, 8]}}")
    return Range("loguniform", value / FACTOR, value * FACTOR)
