"""A trial: one configuration to train once, named by a hash of what it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ablate.trainers import Config


@dataclass(frozen=True)
class Trial:
    """One configuration to train once. `params` are the searched or overridden values under dotted keys."""

    trial_id: str
    study: str
    arm: str
    seed: int
    config: Config
    params: Mapping[str, Any]
    audited: bool | None = None
    """Whether a search's trial is left alone by early stopping; None for any other trial."""
    predicted_peak_gib: float | None = None
    """Of the card's memory, before it is corrected by what others like it took; None without a card."""
    gpu_fraction: float | None = None
    """What each of its workers holds of a card, or whole cards; None where nobody gave it any."""


def trial_id(arm: str, config: Config, seed: int) -> str:
    """12 hex digits that name this arm, whole configuration and seed; equal wherever and whenever it is computed."""
    text = json.dumps([arm, config.tree(), seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make(study: str, arm: str, config: Config, *, keys: Iterable[str]) -> Trial:
    """The trial of a configuration; `keys` are the searched or overridden ones."""
    seed = config.seed
    # Values as the configuration holds them: 1 given for a float is 1.0, so equal values are equal in the ledger too.
    return Trial(
        trial_id(arm, config, seed), study=study, arm=arm, seed=seed, config=config, params=config.chosen(keys)
    )
