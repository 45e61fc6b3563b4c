"""Stand-ins for tests: a trainer that ends in a given way, and a source of a list of trials."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ablate.running.trial import by_trainer
from ablate.trainers import Config, Report, Result, Verdict
from ablate.trials.trial import Trial, trial_id
from model.api import NonFiniteLoss
from tests.study_files import resolve

Act = Literal[
    "complete", "until_stopped", "nan", "oom", "cuda_oom", "error", "killed_once", "killed", "silent", "frozen",
    "endless", "real", "oom_of_rank_0",
]  # fmt: skip
"""What a trial does. `until_stopped`: reports until a verdict or the file `release` ends it; `silent`: stops reporting;
`frozen`: stops its process (SIGSTOP); `endless`: each step reports one more minute of training; `real`: trains, and
waits for the file `release` after each report; `oom_of_rank_0`: rank 0 runs out of memory once."""

STEPS, TOKENS_A_STEP, BOUND_S, ENDLESS = 5, 100, 300.0, 10**9
REAL_BOUND_S = 500.0


@dataclass(frozen=True)
class FakeTrain:
    """A `Train` that plays an act: `acts` maps a trial's seed to its act.

    It writes its own checkpoint, so that a test sees whether a trial resumed or restarted, and its process id.
    """

    acts: Mapping[int, Act]
    folder: Path
    nvml: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Seed -> (GiB, per cent): the GPU memory and utilization that NVML would report for the trial."""

    def __call__(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        act, seed = self.acts[config["train.seed"]], config["train.seed"]
        if act == "real":
            return by_trainer(config, self._waiting(report), checkpoint_dir=checkpoint_dir)
        checkpoint = checkpoint_dir / "step"
        checkpoint_dir.mkdir(parents=True, exist_ok=True)
        checkpoint_dir.joinpath("pid").write_text(str(os.getpid()))
        step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        end = time.monotonic() + BOUND_S
        while step < STEPS or act in ("until_stopped", "silent", "frozen", "endless"):
            step += 1
            budget = ENDLESS if act in ("until_stopped", "endless") else STEPS
            now = _report(step, seed, budget=budget, step_s=60.0 if act == "endless" else 0.02)
            if seed in self.nvml:
                held, busy = self.nvml[seed]
                now = replace(now, metrics={**now.metrics, "nvml_used_gib": held, "gpu_util_pct": busy})
            verdict = report(now)
            checkpoint.write_text(str(step))
            if verdict is not Verdict.CONTINUE:
                return _result(step, verdict)
            if act == "nan":
                raise NonFiniteLoss(step, float("nan"))
            if act == "oom":
                raise MemoryError("out of memory in a test")
            if act == "oom_of_rank_0" and step == 1 and os.environ["RANK"] == "0":
                raise MemoryError("rank 0 is out of memory in a test")
            if act == "cuda_oom":
                import torch

                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            if act == "error":
                print("what a toy prints")
                raise ValueError("a toy error")
            if act == "killed" or (act == "killed_once" and step == 2):
                os.kill(os.getpid(), signal.SIGKILL)
            if act == "until_stopped" and self.folder.joinpath("release").exists():
                return _result(step, Verdict.CONTINUE)
            if act == "silent":
                print("\x1b[31msilent from now on\x1b[0m", flush=True)
                self.folder.joinpath("silent").touch()
                time.sleep(BOUND_S)
            if act == "frozen":
                self.folder.joinpath("frozen").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
            assert time.monotonic() < end, "the test did not end this trial"
            time.sleep(0.02)  # a step takes its time
        return _result(step, Verdict.CONTINUE)

    def _waiting(self, report: Callable[[Report], Verdict]) -> Callable[[Report], Verdict]:
        """`report`, after which the trial waits for the file `release`."""

        def wait(now: Report) -> Verdict:
            verdict, end = report(now), time.monotonic() + REAL_BOUND_S
            while not self.folder.joinpath("release").exists():
                assert time.monotonic() < end, "the test did not release this trial"
                time.sleep(0.05)
            return verdict

        return wait


def _report(step: int, seed: int, *, budget: int, step_s: float) -> Report:
    return Report(
        step=step,
        tokens_seen=step * TOKENS_A_STEP,
        budget_tokens=budget * TOKENS_A_STEP,
        wall_s=step * step_s,
        lr=1e-3,
        losses=[3.0 / step],
        metrics={"val_loss": 2.0 + seed + 1.0 / step},
    )


def _result(step: int, verdict: Verdict) -> Result:
    return Result(
        verdict=verdict,
        step=step,
        tokens_seen=step * TOKENS_A_STEP,
        budget_tokens=STEPS * TOKENS_A_STEP,
        data_hash="0" * 64,
        device="cpu",
        metrics={"val_loss": 2.0 + 1.0 / step},
        samples=[{"prompt": "once", "continuation": " upon a time", "ended": True}],
    )


def fake_trial(seed: int, *, study: str = "fake", arm: str = "search", **short: int) -> Trial:
    """A trial of the smallest preset. FakeTrain looks its act up by `seed`. `short`: values for keys of `train`."""
    config = resolve("tiny", {"train.seed": seed, **{f"train.{key}": value for key, value in short.items()}})
    return Trial(
        trial_id(arm, config, seed),
        study=study,
        arm=arm,
        seed=seed,
        config=config,
        params={"train.lr": config["train.lr"]},
    )


@dataclass
class ListSource:
    """A TrialSource of a list. `stop_at`: seed -> tokens at which the trial is pruned."""

    trials: list[Trial]
    stop_at: Mapping[int, int] = field(default_factory=dict)
    rows: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._waiting = deque(self.trials)
        self._seeds = {trial.trial_id: trial.seed for trial in self.trials}

    @property
    def total(self) -> int:
        return len(self.trials)

    def ask(self) -> Trial | None:
        return self._waiting.popleft() if self._waiting else None

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:
        assert value is not None
        seed = self._seeds[trial_id]
        return Verdict.STOP if seed in self.stop_at and tokens >= self.stop_at[seed] else Verdict.CONTINUE

    def tell(self, row: Any) -> None:
        self.rows.append(row)


class Scripted:
    """A trainer that plays the next act at every call, for any configuration."""

    def __init__(self, acts: list[Act], *, folder: Path) -> None:
        self._acts, self._folder = acts, folder
        self.asks = signal.SIGINT  # the signal that asks the study to stop
        self.configs: list[Config] = []

    def __call__(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        self.configs.append(config)
        act = self._acts.pop(0) if self._acts else "complete"
        if act == "until_stopped":
            os.kill(os.getpid(), self.asks)
        fake = FakeTrain({config["train.seed"]: act}, folder=self._folder)
        return fake(config, report, checkpoint_dir=checkpoint_dir)
