"""The one door to the model: a configuration class, the table of metrics, `train` and `estimate`.

`ablate` imports this module and nothing else of `model`. Importing it costs no torch; `train` brings torch in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from model.config import (
    KEYS,
    PATH_KEYS,
    PRESETS,
    Config,
    ConfigError,
    check_key,
    explain,
    from_json,
    missing_files,
    nearest,
    override,
    read_overrides,
    resolve,
    value_of,
)
from model.estimate import Estimate, estimate
from model.metrics import BY_NAME, METRICS, Metric
from model.outcome import DataError, NonFiniteLoss, Report, Result, Verdict
from model.streams import stream_seed

__all__ = [
    "BY_NAME", "KEYS", "METRICS", "PATH_KEYS", "PRESETS", "Config", "ConfigError", "DataError", "Estimate", "Metric",
    "NonFiniteLoss", "Report", "Result", "Verdict", "check_data", "check_key", "estimate", "explain", "failure_kind",
    "from_json", "missing_files", "nearest", "override", "read_overrides", "resolve", "stream_seed", "train",
    "value_of",
]  # fmt: skip


def train(config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
    """Train one configuration, whole, in this process.

    `report` is called on every rank at every report; rank 0's answer counts. A checkpoint found in `checkpoint_dir` is
    gone on from, bit for bit. Raises NonFiniteLoss when the loss leaves the numbers, DataError for a bad data file,
    and torch.OutOfMemoryError as torch raises it.
    """
    from model.train import run  # torch is imported here, so that a plan or a report never pays for it

    return run(config, report, checkpoint_dir=checkpoint_dir)


def check_data(config: Config) -> str:
    """Read every data file of the configuration once; returns the hash of what was read (part of a study's identity).

    Raises DataError with file and line for a line that is not JSON or has no text. Imports no torch.
    """
    from model.corpus import content_hash

    return content_hash(config)


def failure_kind(error: BaseException) -> str:
    """`oom`, `nan` or `error`: what kind of end an exception from `train` is."""
    if isinstance(error, NonFiniteLoss):
        return "nan"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "oom"
    return "error"
