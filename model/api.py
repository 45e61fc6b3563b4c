"""The one door to the model: a configuration class, the table of metrics, `train`, `estimate` and `footprint`.

`ablate` imports this module and nothing else of `model`. Importing it costs no torch; `train` brings torch in, and so
does a `footprint` that is in no cache yet.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from model.config import (
    ALLOCATOR_VARIABLES,
    EXPANDABLE,
    KEYS,
    LATER_KEYS,
    PATH_KEYS,
    PRESETS,
    Config,
    ConfigError,
    check_key,
    check_packages,
    check_ranks,
    code_hash,
    explain,
    from_json,
    inert_keys,
    missing_files,
    nearest,
    override,
    read_overrides,
    resolve,
    stream_seed,
    value_of,
)
from model.cost import CONTEXT_GIB, PROCESS_GIB, Estimate, Footprint, estimate, footprint
from model.metrics import BY_NAME, METRICS, MOST_EPOCHS, Metric
from model.outcome import DataError, NonFiniteLoss, Report, Result, Verdict

if TYPE_CHECKING:
    from model.evaluate import Entry as BankEntry

__all__ = [
    "ALLOCATOR_VARIABLES", "BY_NAME", "CONTEXT_GIB", "EXPANDABLE", "KEYS", "LATER_KEYS", "METRICS", "MOST_EPOCHS",
    "PATH_KEYS", "PRESETS", "PROCESS_GIB", "Config", "ConfigError", "DataError", "Estimate", "Footprint", "Metric",
    "NonFiniteLoss", "Report", "Result", "Verdict", "bank_excerpt", "check_data", "check_key", "check_packages",
    "check_ranks", "code_hash", "epoch_tokens", "estimate", "explain", "failure_kind", "footprint", "from_json",
    "hold_to_share", "inert_keys", "missing_files", "nearest", "override", "read_overrides", "resolve",
    "stream_seed", "train", "unmeasured", "value_of",
]  # fmt: skip


def unmeasured(config: Config) -> dict[str, str]:
    """Metric -> why no run of the configuration measures it: the value of a key."""
    if config.data.corpus == "facts":
        return {}
    of_facts = [name for name in BY_NAME if name.startswith("fact_") or name in ("val_object_nats", "val_rest_nats")]
    return dict.fromkeys(of_facts, f"data.corpus is {config.data.corpus}")


def train(config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
    """Train one configuration in this process, from start to end.

    Every rank calls `report` at every report; rank 0's answer counts. Resumes, bit for bit, from a checkpoint that it
    finds in `checkpoint_dir`. Raises NonFiniteLoss when the loss becomes NaN or infinite, DataError for a bad data
    file, and torch.OutOfMemoryError as torch raises it.
    """
    code_hash()  # read before the code is imported, which may be edited while this process trains
    from model.trainer import Trainer  # imports torch, which a plan or a report does without

    return Trainer(config, checkpoint_dir=checkpoint_dir).run(report)


def hold_to_share(share: float) -> None:
    """Let this process take `share` of its GPU's memory and no more; torch raises OutOfMemoryError beyond it."""
    from model.device.meters import hold_to_share as hold  # imports torch

    hold(share, context_gib=CONTEXT_GIB)


def check_data(config: Config) -> str:
    """Read every data file of the configuration; return the hash of what was read (part of a study's identity).

    Raises DataError with file and line for a line that is not JSON or has no text, ConfigError for a tokenizer that
    does not fit the model or loses text. Imports no torch.
    """
    from model.data import content_hash  # imports numpy

    return content_hash(config)


def epoch_tokens(config: Config) -> int:
    """Positions of one pass over the training rows, padding included. Reads the corpus and tokenises it, without torch.

    Raises DataError as `check_data` does.
    """
    from model.data import Batches, load_documents  # imports numpy
    from model.data.tokenizer import load_or_train

    documents = load_documents(config)
    tokenizer = load_or_train(config, documents)
    ids = tokenizer.encode_documents(documents.train)
    return Batches.of(ids, config=config, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id).tokens_per_epoch


def bank_excerpt(checkpoint_dir: Path, *, top: int) -> list[BankEntry]:
    """The `top` most used entries of the newest checkpoint's bank, as text, with what changed since the start.

    Raises ConfigError where there is no checkpoint, where the newest one is damaged or has no bank of tokens, DataError
    where a data file that the bank at the start is made from is broken.
    """
    from model.evaluate import read_bank, select_entries  # imports torch

    bank = read_bank(checkpoint_dir)
    if bank.passed_over:  # an older bank is not what the run ended with
        hint = "python -m model.bank shows the one before"
        raise ConfigError("CHECKPOINT", checkpoint_dir, "; ".join(bank.passed_over), hint)
    return select_entries(bank, find=None, top=top)[0]


_OUT_OF_MEMORY = (
    "CUDA error: out of memory",  # torch.AcceleratorError
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
"""What torch's RuntimeError says where memory runs out outside of its CUDA allocator."""


def failure_kind(error: BaseException) -> str:
    """The kind of failure that an exception from `train` is: `oom`, `nan` or `error`."""
    if isinstance(error, NonFiniteLoss):
        return "nan"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "oom"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY):
        return "oom"
    return "error"
