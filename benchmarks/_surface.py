"""A loss surface interpolated from real runs: what a run of any point of the space would have reported, rung by rung.

A Gaussian process a rung (the same tokens of every run): squared-exponential kernel with a length for every parameter,
a constant mean and noise, fitted by marginal likelihood under weak priors. Parameters come scaled to [0, 1], each as
its distribution measures it (log(1 - x) of a decay). What the process calls noise is given back as it was: a simulated
run is the process's mean plus the leave-one-out residuals of a real run, all rungs of the same one, scaled to the noise
of their rung. So neighbouring rungs err together, as they did.

P parameters, R rungs, N real runs, S simulated ones.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import linalg, optimize

from ablate.spec.distributions import Choice, Distribution

RUNS = Path(__file__).parent / "data" / "surrogate_runs.csv"

_LENGTHS, _NOISES = (0.1, 10.0), (1e-3, 10.0)  # bounds, of a length and of a standard deviation over the values' own
_STARTS = ((0.5, 1.0, 0.5), (1.5, 1.0, 0.2), (0.3, 0.7, 0.8))


@dataclass(frozen=True)
class Runs:
    """The real runs: their parameters by key, and the objective at every rung."""

    params: tuple[dict[str, float], ...]
    tokens_R: tuple[int, ...]
    values_NR: np.ndarray


def read(path: Path = RUNS) -> Runs:
    """The committed runs: a column a parameter (a dotted key), and one `val_loss@TOKENS` a rung."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    rungs = {int(name.partition("@")[2]): name for name in rows[0] if "@" in name}
    tokens_R = tuple(sorted(rungs))
    keys = [name for name in rows[0] if "." in name]
    return Runs(
        params=tuple({key: float(row[key]) for key in keys} for row in rows),
        tokens_R=tokens_R,
        values_NR=np.array([[float(row[rungs[tokens]]) for tokens in tokens_R] for row in rows]),
    )


def unit(search: Mapping[str, Distribution], params: Mapping[str, Any]) -> np.ndarray:
    """A point of the space as [P] numbers from 0 to 1. Choices must be numbers above 0; they are taken by logarithm."""
    return np.array([_unit(distribution, float(params[key])) for key, distribution in search.items()])


def _ends(choice: Choice) -> tuple[float, float]:
    numbers = [float(value) for value in choice.choices if isinstance(value, (int, float))]
    return min(numbers), max(numbers)


def _unit(distribution: Distribution, value: float) -> float:
    if isinstance(distribution, Choice):
        low, high, value = (math.log(v) for v in (*_ends(distribution), value))
    else:
        low, high = distribution.ends
        if distribution.kind == "one_minus_loguniform":
            low, high, value = (-math.log(1 - v) for v in (low, high, value))
        elif distribution.log:
            low, high, value = (math.log(v) for v in (low, high, value))
    return (value - low) / (high - low)


def export(study: Path, *, metric: str = "val_loss", path: Path = RUNS) -> int:
    """Write the completed runs of a study as `read` reads them; how many they are. No host and no path goes with it."""
    from ablate.study.dataset import read as read_study

    data = read_study(study)
    done = [row for row in data.trials_arrow.to_pylist() if row["status"] == "completed" and row["arm"] == "search"]
    keys = [dimension.key for dimension in data.space]
    curves: dict[str, dict[int, float]] = {}
    for report in data.history_arrow.select(["trial_id", "tokens_seen", metric]).to_pylist():
        curves.setdefault(report["trial_id"], {})[report["tokens_seen"]] = report[metric]
    rungs = sorted(set.intersection(*(set(curves[row["trial_id"]]) for row in done)))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*keys, "seed", "commit", "date", *(f"{metric}@{tokens}" for tokens in rungs)])
        for row in done:
            params = [f"{row['param.' + key]:.9g}" for key in keys]
            values = [f"{curves[row['trial_id']][tokens]:.6f}" for tokens in rungs]
            whence = [row["seed"], (row["git_commit"] or "")[:12], f"{row['finished_at']:%Y-%m-%d}"]
            writer.writerow([*params, *whence, *values])
    return len(done)


@dataclass(frozen=True)
class Process:
    """A Gaussian process fitted to values_N at points_NP. Lengths are in parts of the unit cube."""

    points_NP: np.ndarray
    values_N: np.ndarray
    lengths_P: np.ndarray
    signal: float
    noise: float

    @cached_property
    def _inverse_NN(self) -> np.ndarray:
        covariance = self._kernel(self.points_NP) + self.noise**2 * np.eye(len(self.points_NP))
        return linalg.cho_solve(linalg.cho_factor(covariance, lower=True), np.eye(len(covariance)))

    @cached_property
    def _mean(self) -> float:
        """The constant mean's least-squares estimate."""
        return float(self._inverse_NN.sum(axis=0) @ self.values_N / self._inverse_NN.sum())

    @cached_property
    def _weights_N(self) -> np.ndarray:
        return self._inverse_NN @ (self.values_N - self._mean)

    def _kernel(self, points_SP: np.ndarray) -> np.ndarray:
        scaled_SP, known_NP = points_SP / self.lengths_P, self.points_NP / self.lengths_P
        square_SN = ((scaled_SP[:, None] - known_NP[None]) ** 2).sum(axis=-1)
        return self.signal**2 * np.exp(-square_SN / 2)

    def mean(self, points_SP: np.ndarray) -> np.ndarray:
        """The process's mean, [S]."""
        return self._mean + self._kernel(points_SP) @ self._weights_N

    def left_out(self) -> np.ndarray:
        """Each value minus what the process says of it without it, [N] (Rasmussen and Williams 2006, eq. 5.12). The
        lengths, the noise and the mean stay those of all."""
        return self._weights_N / np.diag(self._inverse_NN)


def fit(points_NP: np.ndarray, values_N: np.ndarray) -> Process:
    """The process whose lengths, signal and noise make these values most probable, under log-normal priors."""
    center, scale = float(values_N.mean()), float(values_N.std())
    scaled_N = (values_N - center) / scale
    dimensions = points_NP.shape[1]
    square_PNN = ((points_NP[:, None] - points_NP[None]) ** 2).transpose(2, 0, 1)

    def loss(log_theta: np.ndarray) -> float:
        lengths_P, (signal, noise) = np.exp(log_theta[:dimensions]), np.exp(log_theta[dimensions:])
        kernel_NN = signal**2 * np.exp(-np.tensordot(1 / lengths_P**2, square_PNN, axes=1) / 2)
        factor = linalg.cholesky(kernel_NN + noise**2 * np.eye(len(scaled_N)), lower=True)
        white_N2 = linalg.solve_triangular(factor, np.stack([scaled_N, np.ones_like(scaled_N)], axis=1), lower=True)
        mean = white_N2[:, 1] @ white_N2[:, 0] / (white_N2[:, 1] @ white_N2[:, 1])
        likelihood = ((white_N2[:, 0] - mean * white_N2[:, 1]) ** 2).sum() / 2 + np.log(np.diag(factor)).sum()
        prior = (log_theta[:dimensions] ** 2).sum() / 2 + (log_theta[dimensions:] ** 2).sum() / 8
        return float(likelihood + prior)

    bounds = [tuple(np.log(_LENGTHS))] * dimensions + [tuple(np.log(_NOISES))] * 2
    starts = [np.log([length] * dimensions + [signal, noise]) for length, signal, noise in _STARTS]
    found = min((optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts), key=_value)
    theta = np.exp(found.x)
    return Process(points_NP, values_N, theta[:dimensions], scale * theta[-2], scale * theta[-1])


def _value(found: optimize.OptimizeResult) -> float:
    return float(found.fun)


@dataclass(frozen=True)
class Surface:
    """A process for every rung, and the residual curves [N, R] that runs are given."""

    tokens_R: tuple[int, ...]
    processes_R: tuple[Process, ...]
    residuals_NR: np.ndarray

    @staticmethod
    def of(runs: Runs, search: Mapping[str, Distribution]) -> Surface:
        """Fitted to these runs."""
        points_NP = np.stack([unit(search, params) for params in runs.params])
        processes = tuple(fit(points_NP, values_N) for values_N in runs.values_NR.T)
        left_out_NR = np.stack([process.left_out() for process in processes], axis=1)
        noise_R = np.array([process.noise for process in processes])
        return Surface(runs.tokens_R, processes, left_out_NR / left_out_NR.std(axis=0) * noise_R)

    def curve(self, point_P: np.ndarray, *, noise: int | None) -> np.ndarray:
        """The objective [R] that a run at this point reports; `noise` chooses a residual curve, None gives none."""
        mean_R = np.array([process.mean(point_P[None])[0] for process in self.processes_R])
        return mean_R if noise is None else mean_R + self.residuals_NR[noise % len(self.residuals_NR)]

    def quality(self) -> list[dict[str, float]]:
        """A line a rung: the values' standard deviation, the leave-one-out error, what the process takes for noise,
        and the rank correlation of its values with the last rung's."""
        from scipy.stats import rankdata

        last_N = rankdata(self.processes_R[-1].values_N)
        return [
            {
                "tokens": tokens,
                "sd": float(process.values_N.std()),
                "left_out_rmse": float(np.sqrt((process.left_out() ** 2).mean())),
                "noise": process.noise,
                "rank_correlation_with_last": float(np.corrcoef(rankdata(process.values_N), last_N)[0, 1]),
            }
            for tokens, process in zip(self.tokens_R, self.processes_R, strict=True)
        ]
