"""The protocol of a trainer, for a function or a command of the user's."""

# ruff: noqa: ARG002 - the signatures are the protocol's

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ablate.errors import ParameterError, nearest
from ablate.trainers.own import command, files, function
from ablate.trainers.own.meters import Meters
from ablate.trainers.own.reporting import OWN_FOLDER, NotFinite, Reporting
from ablate.trainers.own.settings import BUDGET, MEASURED, RESEED, SEED, Settings
from ablate.trainers.own.trial import Trial
from ablate.trainers.protocol import STOP_S, Config, Cost, Description, Metric, Report, Result
from ablate.trainers.recorded import flatten

NAME = "own"
"""Its name in `trainers.TRAINERS` and in study.json."""

_share = 0.0
"""Of a GPU's memory that this process's trials may take; 0 for all of it."""


@dataclass(frozen=True)
class OwnTrainer:
    """Implements `Trainer`. It holds the section `trainer:` of the study file."""

    settings: Settings

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> OwnTrainer:
        """The trainer that study.json describes."""
        return cls(Settings.model_validate(dict(kept)))

    @property
    def description(self) -> Description:
        """Its metrics in the order of the study file, then those that the suite measures."""
        return self._description

    @cached_property
    def _description(self) -> Description:
        settings = self.settings
        own = [
            Metric(name, "float", metric.unit, metric.better or "", f"reported by the trainer; the {metric.of} value")
            for name, metric in settings.metrics.items()
        ]
        known = [
            Metric(name, "float", settings.budget.unit + unit if unit == "/s" else unit, better, about)
            for name, (unit, better, about) in MEASURED.items()
            if name not in settings.metrics
        ]
        return Description(
            name=NAME,
            metrics=(*own, *known),
            seed=SEED,
            budget=BUDGET,
            budget_unit=settings.budget.unit,
            budget_keys=(BUDGET,),
            size_keys=(BUDGET,),
            reseed=RESEED,
            objective=next((name for name, metric in settings.metrics.items() if metric.better), ""),
            headlines=(*settings.metrics, "tokens_per_s", "peak_gib"),
            settings=settings.model_dump(mode="json", exclude_defaults=True),
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """The parameters, and what the suite sets."""
        return (*self.settings.parameters, BUDGET, SEED, RESEED)

    path_keys = ()
    environment_keys = ()
    context_gib = 0.0
    process_gib = 0.0

    @property
    def tuned_by_default(self) -> tuple[str, ...]:
        """The learning rate, where a parameter has its usual name."""
        return tuple(key for key in ("lr", "learning_rate") if key in self.settings.parameters)[:1]

    @property
    def code_hash(self) -> str:
        """Of the files as they are now: the user may edit them while a study runs."""
        return files.code_hash(self.settings)

    @property
    def stop_s(self) -> float:
        """A command has 30 seconds between SIGTERM and SIGKILL."""
        return command.STOP_S + 2.0 if self.settings.command else STOP_S

    # ---- configurations

    def resolve(self, written: Mapping[str, Any]) -> Config:
        """The defaults with the written values over them."""
        defaults = {**self.settings.parameters, BUDGET: self.settings.budget.value, SEED: 0, RESEED: 0}
        return self._checked({**defaults, **written})

    def override(self, config: Config, overrides: Mapping[str, Any]) -> Config:
        """`config` with other values."""
        return self._checked({**config.values, **overrides})

    def read(self, config_json: str) -> Config:
        """Read what `Config.to_json` wrote."""
        return self._checked(flatten(json.loads(config_json)))

    def _checked(self, values: Mapping[str, Any]) -> Config:
        return Config(self, {key: self._value(key, value) for key, value in values.items()})

    def _value(self, key: str, value: Any) -> Any:
        if key not in self.keys:
            raise ParameterError(key, value, "no such parameter in trainer.parameters", nearest(key, self.keys))
        if key in (BUDGET, SEED, RESEED):
            least = 1 if key == BUDGET else 0
            found = _whole(key, value)
            if not least <= found < 2**53:
                raise ParameterError(key, value, "out of range", f"must be at least {least}")
            return found
        return _typed(key, value, self.settings.parameters[key])

    def inert_keys(self, config: Config) -> Mapping[str, str]:
        """None is known; `ablate check` finds them."""
        return {}

    def unmeasured(self, config: Config) -> Mapping[str, str]:
        """None: what is declared must be reported."""
        return {}

    def check_nuisance(self, key: str) -> None:
        """Allow all but the seed and the budget."""
        if key in (BUDGET, SEED, RESEED):
            raise ParameterError(key, "tuned", "not a nuisance parameter", "tune the learning rate and the like")

    # ---- what it needs

    def check_data(self, config: Config) -> str:
        """Read the data files."""
        return files.data_hash(self.settings)

    def missing_files(self, config: Config) -> list[tuple[str, str]]:
        """Look for the data files."""
        return files.missing(self.settings)

    def check_environment(self, config: Config, *, workers: int) -> None:
        """A command starts its own processes."""
        if self.settings.command and workers > 1:
            rule = f"the suite starts workers of a function, not of a command (resources.workers: {workers})"
            raise ParameterError("command", self.settings.command[0], rule, "put torchrun into the command")

    def needs_process_group(self, config: Config) -> bool:
        """Only where there are several workers."""
        return False

    # ---- what it costs

    def cost(self, config: Config) -> Cost:
        """The budget alone is known."""
        peak = self.settings.peak_gib
        return Cost(None, None, peak if isinstance(peak, float) else 0.0, config[BUDGET])

    def epoch(self, config: Config) -> int | None:
        """Not known."""
        return None

    def peak_gib(self, config: Config, *, ranks: int) -> float:
        """What the study file says. Raises ParameterError where it says `measure` and nothing was measured."""
        peak = self.settings.peak_gib
        if isinstance(peak, str):
            rule = "`gpu: auto` divides the GPU by it, and it is not measured yet"
            raise ParameterError("trainer.peak_gib", peak, rule, "give GiB, or set resources.gpu, such as 0.5")
        return peak

    def memory_class(self, config: Config) -> tuple[str, ...]:
        """The parameters that are not fractions: sizes, counts, names and switches. A learning rate takes no memory."""
        values = {key: config[key] for key in self.settings.parameters}
        return tuple(f"{key}={value}" for key, value in values.items() if not isinstance(value, float))

    def calibration_budget(self, config: Config, *, reports: int) -> int:
        """How often a trainer reports is not known, so a tenth of the budget."""
        return max(reports, config[BUDGET] // 10)

    @property
    def worker_environment(self) -> Mapping[str, str]:
        """None of its own."""
        return {}

    # ---- training

    def train(self, config: Config, report: Callable[[Report], Any], *, checkpoint_dir: Path) -> Result:
        """Run the user's code; its folder is `checkpoint_dir`."""
        settings, meters = self.settings, Meters()
        checkpoint_dir = checkpoint_dir.absolute()  # the user's code has another current folder
        checkpoint_dir.mkdir(parents=True, exist_ok=True)
        data_hash = self.check_data(config)
        with meters.sampling():
            reporting = Reporting(
                settings,
                budget=config[BUDGET],
                folder=checkpoint_dir,
                tell=report,
                meters=meters,
                keeps=function.rank() == 0,
            )
            trial = Trial(
                params={key: config[key] for key in settings.parameters},
                seed=_seed(config[SEED], config[RESEED]),
                data_seed=config[SEED],
                budget=config[BUDGET],
                folder=checkpoint_dir,
                attempt=reporting.state.attempt,
            )
            if settings.function is not None:
                function.run(settings.function, trial, reporting, at=Path(settings.at), share=_share)
            else:
                command.run(settings, trial, reporting, at=Path(settings.at), share=_share, meters=meters)
            metrics = reporting.end()
        return Result(
            verdict=reporting.verdict,
            step=reporting.state.progress,
            tokens_seen=reporting.state.progress,
            budget_tokens=config[BUDGET],
            data_hash=data_hash,
            device=meters.device(),
            metrics=metrics,
            data_digest=reporting.state.digest,
        )

    def hold_to_share(self, share: float) -> None:
        """Kept until the user's code has imported PyTorch."""
        global _share
        _share = share

    def failure_kind(self, error: BaseException) -> Literal["oom", "nan", "error"]:
        """By the exception's type: PyTorch's, JAX's and Python's own."""
        if isinstance(error, NotFinite):
            return "nan"
        out = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
        out = out or "CUDA out of memory" in str(error) or getattr(error, "out_of_memory", False)
        return "oom" if out else "error"

    # ---- what a run leaves behind

    def output(self, checkpoint_dir: Path) -> str:
        """What a command printed."""
        try:
            return (checkpoint_dir / OWN_FOLDER / "output.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def checkpoint_text(self, checkpoint_dir: Path, *, top: int) -> list[dict[str, Any]]:
        """It has no memory to show."""
        raise ParameterError("memory", "", "its trainer has none", "")


def _seed(seed: int, reseed: int) -> int:
    """The seed itself, or for an A/A arm another one that follows from both."""
    if not reseed:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {reseed}".encode()).digest()[:4], "big")


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value:
        raise ParameterError(key, value, "not a whole number", "write it like 16 or 1_024")
    return int(value)


def _typed(key: str, value: Any, default: Any) -> Any:
    """The value in its parameter's type, which is its default's."""
    if default is None:
        return value
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ParameterError(key, value, "not true or false, as its default is", "write true or false")
    elif isinstance(default, int):
        return _whole(key, value)
    elif isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ParameterError(key, value, "not a number, as its default is", "write it like 0.1")
        return float(value)
    elif not isinstance(value, str):
        raise ParameterError(key, value, "not a text, as its default is", "put it in quotes")
    return value
