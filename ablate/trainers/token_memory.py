"""The built-in trainer: the token memory of `model`. The only module of `ablate` that imports `model`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError

from ablate.errors import BadInput, ParameterError
from ablate.trainers.protocol import STOP_S, Config, Cost, Description, Metric, Report, Result, Verdict
from model import api

_NOT_TUNED = ("seed", "reseed", "tokens", "epochs", "precision", "threads", "report_every", "checkpoint_every")

_DATA_KEYS = ("data.", "train.seed", "model.vocab_size")

DESCRIPTION = Description(
    name="token_memory",
    metrics=tuple(Metric(**asdict(metric)) for metric in api.METRICS),
    seed="train.seed",
    budget="train.tokens",
    budget_unit="tokens",
    budget_keys=("train.tokens", "train.epochs"),
    reseed="train.reseed",
    data_keys=_DATA_KEYS,
    size_keys=(
        *_DATA_KEYS, "train.tokens", "train.epochs", "train.batch_size", "train.accumulation_steps",
        "model.max_seq_len",
    ),
    curve="val_loss",
    objective="val_loss",
    later_keys=api.LATER_KEYS,
    most_epochs=api.MOST_EPOCHS,
    headlines=(
        "ce_loss", "val_loss", "val_bpb", "perplexity", "inference_loss", "fact_accuracy", "bank_use_nats", "eos_rate",
        "tokens_per_s", "peak_gib",
    ),
    sections={"model": "Model", "train": "Training", "data": "Data", "eval": "Evaluation"},
)  # fmt: skip


@dataclass(frozen=True)
class TokenMemory:
    """Implements `Trainer`."""

    @property
    def description(self) -> Description:
        """The description of the token memory."""
        return DESCRIPTION

    @property
    def keys(self) -> tuple[str, ...]:
        """All dotted keys of a configuration except `preset`, which cannot be overridden."""
        return api.KEYS

    @property
    def path_keys(self) -> tuple[str, ...]:
        """The keys of the data files and of the tokenizer."""
        return api.PATH_KEYS

    @property
    def environment_keys(self) -> tuple[str, ...]:
        """The engine, and the batch that ranks share."""
        return ("train.engine", "train.batch_size")

    @property
    def tuned_by_default(self) -> tuple[str, ...]:
        """The learning rate."""
        return ("train.lr",)

    @property
    def code_hash(self) -> str:
        """The files of `model/`, without its commands and its predictions of cost."""
        return api.code_hash()

    # ---- configurations

    def resolve(self, written: Mapping[str, Any]) -> Config:
        """A preset with the written values over it."""
        overrides = dict(written)
        if "preset" not in overrides:
            raise ParameterError("base.preset", "missing", "a study needs a preset", "add `preset: tiny` to base")
        preset = overrides.pop("preset")
        if not isinstance(preset, str):
            raise ParameterError("base.preset", preset, "not a text", "write `preset: tiny`")
        with _translated():
            return _config(api.resolve(preset, overrides))

    def override(self, config: Config, overrides: Mapping[str, Any]) -> Config:
        """A budget in tokens replaces a budget in epochs, and vice versa."""
        with _translated():
            return _config(api.override(_native(config), overrides))

    def read(self, config_json: str) -> Config:
        """Read what `Config.to_json` wrote."""
        try:
            return _config(api.from_json(config_json))
        except ValidationError as error:
            rule = f"its configuration is no longer valid ({error.errors()[0]['msg']})"
            raise ParameterError("config_json", "", rule, "check out the commit that trained it") from None

    def inert_keys(self, config: Config) -> Mapping[str, str]:
        """See `model.api.inert_keys`."""
        return api.inert_keys(_native(config))

    def unmeasured(self, config: Config) -> Mapping[str, str]:
        """See `model.api.unmeasured`."""
        return api.unmeasured(_native(config))

    def check_nuisance(self, key: str) -> None:
        """Allow keys of the section `train`, except those that set how long, how precisely and how often."""
        if not key.startswith("train.") or key.removeprefix("train.") in _NOT_TUNED:
            rule = "not a nuisance parameter of the training"
            raise ParameterError(key, "tuned", rule, "tune train.lr, train.weight_decay and the like")

    # ---- what it needs

    def check_data(self, config: Config) -> str:
        """Does not import torch."""
        with _translated():
            return api.check_data(_native(config))

    def missing_files(self, config: Config) -> list[tuple[str, str]]:
        """Look for the data files and the tokenizer."""
        return api.missing_files(_native(config))

    def check_environment(self, config: Config, *, workers: int) -> None:
        """Check for DeepSpeed and its launcher, and that the batch divides among the workers."""
        if config["train.engine"] == "deepspeed" and workers == 0:
            rule = "with resources.workers: 0 nothing starts its ranks"
            raise ParameterError("train.engine", "deepspeed", rule, "set resources.workers: 1, or use ddp")
        with _translated():
            api.check_packages(_native(config))
            api.check_ranks(_native(config), ranks=max(1, workers))

    def needs_process_group(self, config: Config) -> bool:
        """True with DeepSpeed."""
        return config["train.engine"] == "deepspeed"

    # ---- what it costs

    def cost(self, config: Config) -> Cost:
        """See `model.api.estimate`."""
        found = api.estimate(_native(config))
        active, flops, peak_gib = found.active_parameters, found.flops_per_token, found.peak_gib
        return Cost(active, flops, peak_gib, found.budget_tokens, parameters=found.parameters)

    def epoch(self, config: Config) -> int | None:
        """Known without files for the corpora that the model makes itself."""
        if any(config[key] for key in api.PATH_KEYS):
            return None
        return api.epoch_tokens(_native(config))

    def peak_gib(self, config: Config, *, ranks: int) -> float:
        """Traced on tensors without data, or read from a cache of earlier traces."""
        return api.footprint(_native(config), ranks=ranks).peak_gib

    def memory_class(self, config: Config) -> tuple[str, ...]:
        """Memory, precision, gradient checkpointing and the state of the bank."""
        keys = ("model.memory", "train.precision", "train.gradient_checkpointing", "model.ema_state")
        return tuple(str(config[key]) for key in keys)

    def calibration_budget(self, config: Config, *, reports: int) -> int:
        """In tokens. A report comes only with an update of the optimiser."""
        between = max(config["train.report_every"], config["train.accumulation_steps"])
        return reports * between * config["train.batch_size"] * config["model.max_seq_len"]

    @property
    def context_gib(self) -> float:
        """The CUDA context with the kernels that a step loads."""
        return api.CONTEXT_GIB

    @property
    def process_gib(self) -> float:
        """The interpreter with torch and what else a trial imports."""
        return api.PROCESS_GIB

    @property
    def worker_environment(self) -> Mapping[str, str]:
        """Let segments of the allocator grow in place, which wastes less memory."""
        return {} if any(name in os.environ for name in api.ALLOCATOR_VARIABLES) else dict(api.EXPANDABLE)

    # ---- training

    def train(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        """See `model.api.train`."""

        def tell(now: api.Report) -> api.Verdict:
            return api.Verdict(report(Report(**vars(now))))

        result = api.train(_native(config), tell, checkpoint_dir=checkpoint_dir)
        return Result(**{**vars(result), "verdict": Verdict(result.verdict)})

    stop_s = STOP_S

    def hold_to_share(self, share: float) -> None:
        """Set the limit of PyTorch's allocator."""
        api.hold_to_share(share)

    def failure_kind(self, error: BaseException) -> Literal["oom", "nan", "error"]:
        """See `model.api.failure_kind`."""
        return cast(Literal["oom", "nan", "error"], api.failure_kind(error))

    # ---- what a run leaves behind

    def output(self, checkpoint_dir: Path) -> str:  # noqa: ARG002 - the protocol's
        """A run prints to this process's streams."""
        return ""

    def checkpoint_text(self, checkpoint_dir: Path, *, top: int) -> list[dict[str, Any]]:
        """The entries of the bank: `entry`, `count`, `slots_changed`, `now`, `start`."""
        with _translated():
            return [asdict(entry) for entry in api.bank_excerpt(checkpoint_dir, top=top)]


@lru_cache(maxsize=4_096)
def _resolved(config_json: str) -> api.Config:
    return api.from_json(config_json)


def _native(config: Config) -> api.Config:
    return _resolved(config.to_json())


def _config(native: api.Config) -> Config:
    return Config(TokenMemory(), {"preset": native.preset, **api.read_overrides(native)})


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the model's exceptions into those of this package."""
    try:
        yield
    except api.ConfigError as error:
        raise ParameterError(error.key, error.value, error.rule, error.hint) from None
    except api.DataError as error:
        raise BadInput(f"{error.path}:{error.line}", "", "", error.rule, error.hint) from None
