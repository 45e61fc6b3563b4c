"""Runs hyperparameter searches and ablations of a model, records them, and writes a report.

In a notebook:

    >>> import ablate
    >>> ema = ablate.load("ema")            # a name under results/, a path, an s3:// or gs:// URL, or "latest"
    >>> ema.trials.sort_values("val_loss")  # pandas; ema.trials_arrow is the same as a pyarrow table
    >>> ema.history                         # a row a report
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ablate.study.dataset import StudyData

__all__ = ["load"]


def load(name_or_path: str | PathLike[str], results: str | PathLike[str] = "results") -> StudyData:
    """The trials and histories of a study, also while it runs. Raises BadInput where there is no such study."""
    from ablate.records import locations  # imports pandas and pyarrow, which workers do not need
    from ablate.study import lookup
    from ablate.study.dataset import read

    return read(lookup.find(str(name_or_path), results=locations.parse(str(results))))
