"""Runs hyperparameter searches and ablations of a model, records them, and writes a report.

In a notebook:

    >>> import ablate
    >>> ema = ablate.load("ema")            # a name under results/, a path, an s3:// or gs:// URL, or "latest"
    >>> ema.trials.sort_values("val_loss")  # pandas; ema.trials_arrow is the same as a pyarrow table
    >>> ema.history                         # a row a report

In a training script of your own (docs/your-own-trainer.md):

    >>> def main(trial: ablate.Trial) -> None:       # a function: trial.report(step, val_loss=...)
    >>> ablate.report(step, val_loss=3.2)            # a command; outside of a study it prints
"""

from __future__ import annotations

import importlib
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.study.dataset import StudyData
    from ablate.trainers.own.emit import emit as report
    from ablate.trainers.own.trial import Trial, TrialStopped

__all__ = ["Trial", "TrialStopped", "load", "report"]


def load(name_or_path: str | PathLike[str], results: str | PathLike[str] = "results") -> StudyData:
    """The trials and histories of a study, also while it runs. Raises BadInput where there is no such study."""
    from ablate.records import locations  # imports pandas and pyarrow, which workers do not need
    from ablate.study import lookup
    from ablate.study.dataset import read

    return read(lookup.find(str(name_or_path), results=locations.parse(str(results))))


def __getattr__(name: str) -> Any:
    """What a user's script needs, imported when it is asked for. `report` is a package too, which can be called."""
    if name in ("Trial", "TrialStopped"):
        return getattr(importlib.import_module("ablate.trainers.own.trial"), name)
    if name == "report":
        return importlib.import_module("ablate.report")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
