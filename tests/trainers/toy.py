"""A second trainer, in plain Python: a walk down a parabola. It shares only the protocol with the token memory."""

# ruff: noqa: ARG002 - the signatures are the protocol's

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ablate.errors import ParameterError
from ablate.trainers import Config, Cost, Description, Metric, Report, Result, Verdict

DEFAULTS = {"lr": 0.1, "momentum": 0.0, "start": "far", "steps": 20, "luck": 0, "reports": 5}
STARTS = {"near": 1.0, "far": 4.0}

DESCRIPTION = Description(
    name="tests.trainers.toy:Toy",
    metrics=(
        Metric("height", "float", "m", "min", "height above the valley"),
        Metric("score", "float", "", "max", "1 / (1 + height)"),
    ),
    seed="luck",
    budget="steps",
    budget_keys=("steps",),
    headlines=("height",),
)


@dataclass(frozen=True)
class Toy:
    """Implements `Trainer`."""

    description = DESCRIPTION
    keys = tuple(DEFAULTS)
    path_keys = ()
    environment_keys = ()
    tuned_by_default = ("lr",)
    context_gib = 0.0
    process_gib = 0.0
    code_hash = "downhill"

    @property
    def worker_environment(self) -> Mapping[str, str]:
        return {}

    def resolve(self, written: Mapping[str, Any]) -> Config:
        return self._checked({**DEFAULTS, **written})

    def override(self, config: Config, overrides: Mapping[str, Any]) -> Config:
        return self._checked({**config.values, **overrides})

    def read(self, config_json: str) -> Config:
        return self._checked(json.loads(config_json))

    def _checked(self, values: Mapping[str, Any]) -> Config:
        for key, value in values.items():
            if key not in DEFAULTS:
                raise ParameterError(key, value, "unknown key", f"one of {', '.join(DEFAULTS)}")
            if isinstance(DEFAULTS[key], float) and not isinstance(value, (int, float)):
                raise ParameterError(key, value, "not a number", "write it like 0.1")
        if values["start"] not in STARTS:
            raise ParameterError("start", values["start"], "not a start", "use near or far")
        return Config(self, {key: type(DEFAULTS[key])(value) for key, value in values.items()})

    def unmeasured(self, config: Config) -> Mapping[str, str]:
        return {}

    def inert_keys(self, config: Config) -> Mapping[str, str]:
        return {}

    def check_nuisance(self, key: str) -> None:
        if key not in ("lr", "momentum"):
            raise ParameterError(key, "tuned", "not a nuisance parameter", "tune lr")

    def check_data(self, config: Config) -> str:
        return hashlib.sha256(str(config.seed).encode()).hexdigest()

    def missing_files(self, config: Config) -> list[tuple[str, str]]:
        return []

    def check_environment(self, config: Config, *, workers: int) -> None:
        pass

    def needs_process_group(self, config: Config) -> bool:
        return False

    def cost(self, config: Config) -> Cost:
        return Cost(active_parameters=1, flops_per_token=4.0, peak_gib=1e-6, budget=config["steps"])

    def epoch(self, config: Config) -> int | None:
        return None

    def peak_gib(self, config: Config, *, ranks: int) -> float:
        return 1e-6

    def memory_class(self, config: Config) -> tuple[str, ...]:
        return ("toy",)

    def calibration_budget(self, config: Config, *, reports: int) -> int:
        return reports * config["reports"]

    def train(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        checkpoint_dir.mkdir(parents=True, exist_ok=True)
        checkpoint = checkpoint_dir / "walk.json"
        noise = random.Random(config.seed).gauss(0, 0.05)
        step, x, speed = (
            json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, STARTS[config["start"]], 0.0)
        )
        losses: list[float] = []
        began = time.monotonic()
        verdict = Verdict.CONTINUE
        while step < config["steps"] and verdict is Verdict.CONTINUE:
            speed = config["momentum"] * speed - config["lr"] * x
            x, step = x + speed, step + 1
            losses.append(x * x)
            if step % config["reports"] == 0 or step == config["steps"]:
                if not x * x < 1e6:
                    raise ArithmeticError("it fell off")
                checkpoint.write_text(json.dumps((step, x, speed)))
                wall_s = time.monotonic() - began
                metrics = _measured(x, noise)
                now = Report(step, step, config["steps"], wall_s, config["lr"], losses, metrics)
                verdict, losses = report(now), []
        return Result(
            verdict, step, step, config["steps"], self.check_data(config), device="cpu", metrics=_measured(x, noise)
        )

    def hold_to_share(self, share: float) -> None:
        pass

    def failure_kind(self, error: BaseException) -> Literal["oom", "nan", "error"]:
        return "nan" if isinstance(error, ArithmeticError) else "error"

    stop_s = 8.0

    def output(self, checkpoint_dir: Path) -> str:
        return ""

    def checkpoint_text(self, checkpoint_dir: Path, *, top: int) -> list[dict[str, Any]]:
        raise ParameterError("memory", "", "a walk has no memory", "")


def _measured(x: float, noise: float) -> dict[str, float]:
    height = x * x + abs(noise)
    return {"height": height, "score": 1 / (1 + height)}
