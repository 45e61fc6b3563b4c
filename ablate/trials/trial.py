"""A trial: one configuration to train once. Its id is a hash of its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ablate.trainers import Config


@dataclass(frozen=True)
class Trial:
    """One configuration to train once. `params`: dotted key -> searched or overridden value."""

    trial_id: str
    study: str
    arm: str
    seed: int
    config: Config
    params: Mapping[str, Any]
    audited: bool | None = None
    """Whether early stopping ignores this trial of a search; None for any other trial."""
    predicted_peak_gib: float | None = None
    """Predicted peak of GPU memory, before corrections by measured trials; None without a GPU."""
    gpu_fraction: float | None = None
    """The share of a GPU, or the number of whole GPUs, that each worker holds; None where none was assigned."""


def trial_id(arm: str, config: Config, seed: int) -> str:
    """12 hex digits of a hash of arm, configuration and seed; the same on every machine and in every run."""
    text = json.dumps([arm, config.identity(), seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make(study: str, arm: str, config: Config, *, keys: Iterable[str]) -> Trial:
    """The trial of a configuration; `keys` are the searched or overridden ones."""
    seed = config.seed
    # Values as the configuration holds them (1 given for a float is 1.0), so that equal values are equal in the ledger.
    return Trial(
        trial_id(arm, config, seed), study=study, arm=arm, seed=seed, config=config, params=config.chosen(keys)
    )
