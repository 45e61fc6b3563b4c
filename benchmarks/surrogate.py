"""How many tokens the search needs to reach random search's best, on a loss surface interpolated from real runs.

    python -m benchmarks.surrogate [--json] [--quick] [--trials N] [--export STUDY]

The surface (benchmarks/_surface.py) is fitted to the committed runs of benchmarks/data/surrogate_runs.csv: `tiny` over
the four parameters of search_spaces/ema.yaml, the objective at every report. On it the suite's own search
(ablate.search with its samplers, its pruner and Optuna's journal) draws, reports and tells, one trial after the other,
for 200 seeds (50 with noise). Random search trains N trials whole (24, the default of optimizer.trials); a setting's
ratio is its tokens until a trial of its own has a final objective as good as the best of those, over the tokens of all
of them. A search that has not got there with as many tokens counts as 1. `smooth`: the surface as it is interpolated;
`measured`: with the runs' own noise in every value, under which random search's best is mostly luck, and no sampler can
learn luck. The runs are those of benchmarks/data/surrogate.yaml:

    python -m ablate.sweep benchmarks/data/surrogate.yaml --inline
    python -m benchmarks.surrogate --export results/surrogate
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tabulate import tabulate

from ablate.records.ledger import Ledger
from ablate.records.rows import TrialRow
from ablate.search.source import Search
from ablate.spec import study_file
from ablate.spec.models import Asha, EarlyStopping, Optimizer, Sampler, StudySpec
from ablate.trainers import Verdict
from ablate.trials.trial import Trial
from benchmarks import _surface
from benchmarks._surface import Surface

STUDY = Path(__file__).parent / "data" / "surrogate.yaml"
Noise = Literal["smooth", "measured"]
SEEDS: dict[Noise, int] = {"smooth": 200, "measured": 50}
"""Fewer with noise, where searches are long: a draw of the Gaussian process takes half a second."""
QUICK_SEEDS: dict[Noise, int] = {"smooth": 3, "measured": 3}
TRIALS = 24
THIRD = 1 / 3
OTHER = 1_000
"""Between the seeds of a search and of the random search that it is compared with."""


@dataclass(frozen=True)
class Setting:
    """A sampler and an early stopping as a study file may ask for them; `min_tokens` 0: none."""

    sampler: Sampler
    startup: int = 4
    min_tokens: int = 0
    reduction: int = 3

    @property
    def name(self) -> str:
        """As in the table."""
        startup = f" startup {self.startup}" if self.sampler in ("tpe", "gp") else ""
        stopped = f", asha {self.min_tokens:,} / {self.reduction}" if self.min_tokens else ""
        return f"{self.sampler}{startup}{stopped}"

    def of(self, study: StudySpec, *, trials: int, seed: int) -> StudySpec:
        """The study with this setting in it."""
        optimizer = Optimizer(sampler=self.sampler, startup=self.startup, trials=trials, seed=seed)
        asha = Asha(min_tokens=self.min_tokens, reduction=self.reduction) if self.min_tokens else None
        return replace(study, optimizer=optimizer, early_stopping=EarlyStopping(asha=asha) if asha else None)


SETTINGS = (
    Setting("random"),
    Setting("sobol"),
    Setting("tpe"),
    Setting("tpe", startup=8),
    Setting("gp"),
    Setting("random", min_tokens=120_000),
    *(Setting("tpe", min_tokens=tokens) for tokens in (50_000, 80_000, 100_000, 120_000)),
    *(Setting("tpe", min_tokens=120_000, reduction=reduction) for reduction in (2, 4)),
    Setting("gp", min_tokens=120_000),
)
QUICK_SETTINGS = (Setting("random"), Setting("tpe", min_tokens=120_000))


@dataclass(frozen=True)
class Line:
    """A setting's ratios over the seeds: their quartiles, the share of seeds that got there, the trials started."""

    setting: str
    noise: Noise
    lower: float
    median: float
    upper: float
    reached: float
    trials: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.surrogate", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="seconds: three seeds of two settings")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"of random search; default: {TRIALS}")
    parser.add_argument("--export", metavar="STUDY", type=Path, help="first make the runs those of results/STUDY")
    arguments = parser.parse_args(argv)
    if arguments.export:
        print(f"{_surface.export(arguments.export)} runs", file=sys.stderr)
    settings, seeds = (QUICK_SETTINGS, QUICK_SEEDS) if arguments.quick else (SETTINGS, SEEDS)
    lines = measure(settings, seeds=seeds, trials=arguments.trials)
    quality = surface()[0].quality()
    best = {noise: min((line for line in lines if line.noise == noise), key=attrgetter("median")) for noise in seeds}
    if arguments.json:
        answer = {
            "seeds": seeds,
            "trials": arguments.trials,
            "rungs": quality,
            "lines": [asdict(line) for line in lines],
        }
        print(json.dumps({**answer, "best": {noise: asdict(line) for noise, line in best.items()}}, indent=1))
        return 0
    print(f"The surface, from {len(_surface.read().params)} runs (nats a token):\n")
    print(tabulate(quality, headers="keys", floatfmt=".4f"))
    print(
        f"\nTokens until the best of {arguments.trials} random trials is reached, over those of all; "
        f"{' and '.join(f'{count} seeds {noise}' for noise, count in seeds.items())}:\n"
    )
    print(tabulate([asdict(line) for line in lines], headers="keys", floatfmt=".2f"))
    print("\nbest by its median:")
    for noise, line in best.items():
        verdict = "at most a third" if line.median <= THIRD else "no setting at a third"
        print(f"{noise}: {line.setting}, {line.median:.2f} ({verdict})")
    return 0


def measure(settings: tuple[Setting, ...], *, seeds: Mapping[Noise, int], trials: int) -> list[Line]:
    """A line for every setting, with noise and without; over as many processes as there are cores."""
    lines = []
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for noise, count in seeds.items():
            races = partial(race, settings, noise=noise, trials=trials)
            found_SA2 = np.array(list(pool.map(races, range(count))))
            lines += [_line(setting, noise, found_SA2[:, index]) for index, setting in enumerate(settings)]
    return lines


def _line(setting: Setting, noise: Noise, found_S2: np.ndarray) -> Line:
    ratio_S, trials_S = found_S2.T
    lower, median, upper = map(float, np.quantile(ratio_S, [0.25, 0.5, 0.75]))
    reached, trials = float((ratio_S < 1).mean()), float(np.median(trials_S))
    return Line(setting.name, noise, lower=lower, median=median, upper=upper, reached=reached, trials=trials)


@cache
def surface() -> tuple[Surface, StudySpec]:
    """The surface and the study of its runs; once a process."""
    study = study_file.load(STUDY)
    return Surface.of(_surface.read(), study.search), study


def race(settings: Sequence[Setting], seed: int, *, noise: Noise, trials: int) -> list[tuple[float, int]]:
    """For every setting, its ratio on this seed and the trials that it started."""
    whole = list(simulate(Setting("random"), seed=seed + OTHER, noise=noise, trials=trials))
    target, budget = min(value for _, value, _ in whole), sum(tokens for tokens, *_ in whole)
    return [_reach(target, budget, simulate(setting, seed=seed, noise=noise)) for setting in settings]


def _reach(target: float, budget: int, ends: Iterator[tuple[int, float, str]]) -> tuple[float, int]:
    spent = started = 0
    for tokens, value, status in ends:
        spent, started = spent + tokens, started + 1
        if spent > budget:
            break
        if status == "completed" and value <= target:
            return spent / budget, started
    return 1.0, started


def simulate(
    setting: Setting, *, seed: int, noise: Noise, trials: int = 10_000
) -> Iterator[tuple[int, float, Literal["completed", "pruned"]]]:
    """(tokens, last objective, how it ended) of trial after trial, as the suite's own search draws and stops them."""
    made, study = surface()
    with tempfile.TemporaryDirectory(dir=_shared_memory()) as folder:
        source = Search(setting.of(study, trials=trials, seed=seed), Ledger(Path(folder)))
        for trial in iter(source.ask, None):
            point_P = _surface.unit(study.search, trial.params)
            values_R = made.curve(point_P, noise=_draw(trial, seed) if noise == "measured" else None)
            # Without early stopping no report has an answer but CONTINUE: the last one is enough.
            first = 0 if setting.min_tokens else -1
            tokens, value = made.tokens_R[first], values_R[first]
            for tokens, value in zip(made.tokens_R[first:], values_R[first:], strict=True):
                if source.report(trial.trial_id, tokens=tokens, value=float(value)) is Verdict.STOP:
                    break
            status: Literal["completed", "pruned"] = "completed" if tokens == made.tokens_R[-1] else "pruned"
            source.tell(_row(trial, status=status, value=float(value), tokens=tokens))
            yield tokens, float(value), status


def _draw(trial: Trial, seed: int) -> int:
    """Which real run's residuals a trial has: the same for the same point and seed."""
    return int(hashlib.sha256(f"{trial.trial_id} {seed}".encode()).hexdigest()[:8], 16)


def _row(trial: Trial, *, status: Literal["completed", "pruned"], value: float, tokens: int) -> TrialRow:
    now = datetime.now(UTC)
    metrics: Mapping[str, Any] = {surface()[1].objectives[0].metric: value}
    return TrialRow(
        study=trial.study, trial_id=trial.trial_id, arm=trial.arm, seed=trial.seed, status=status, error_kind=None,
        error=None, config_json="", params=trial.params, metrics=metrics, tokens_seen=tokens, budget_tokens=tokens,
        wall_s=0.0, attempt=1, started_at=now, finished_at=now, git_commit=None, data_hash=None, host="", device="",
    )  # fmt: skip


def _shared_memory() -> str | None:
    """A folder in memory where there is one: the journal is written at every report."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
