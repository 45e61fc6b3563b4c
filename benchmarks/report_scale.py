"""A report over 10,000 trials with 100 reports each: its time and memory, from the parts and from the compacted copy.

    python -m benchmarks.report_scale [--json] [--trials N] [--reports N] [--keep DIR]

The study is generated: parquet parts as a sweep leaves them, of a search with pruned trials and of an ablation. The
report is written by the command, in a process of its own: first from the parts (it makes the compacted copy on its
way), then from the copy, then, the copy being stale, from the parts again. Bounds: 90 s, 15 s and 1.5 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ablate import trainers
from ablate.records.schema import PARAM, history_schema, trial_schema

METRICS = trainers.load().description.metrics
LIMITS = {"parts_s": 90.0, "compact_s": 15.0, "peak_gb": 1.5}
START = datetime(2026, 1, 1, tzinfo=UTC)
ARMS, SEEDS = 9, 20
BUDGET = 1_000_000
SPACE = [
    {"key": "model.ema_decay", "kind": "one_minus_loguniform", "low": 0.3, "high": 0.999, "choices": None},
    {"key": "model.ema_update_freq", "kind": "logint", "low": 1, "high": 50, "choices": None},
    {"key": "model.knowledge_length", "kind": "choice", "low": None, "high": None, "choices": [4, 8, 16, 32]},
    {"key": "train.balance_loss_coef", "kind": "loguniform", "low": 0.01, "high": 1.0, "choices": None},
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_scale", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="make the study here and leave it; default: a temporary folder")
    arguments = parser.parse_args()
    with nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), trials=arguments.trials, reports=arguments.reports)
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            limit = f"   (at most {LIMITS[name]:g})" if name in LIMITS else ""
            print(f"{name:<16} {value:>10,.2f}{limit}")
    return 0 if all(found[name] <= limit for name, limit in LIMITS.items()) else 1


def measure(folder: Path, *, trials: int, reports: int) -> dict[str, float]:
    """Seconds and peak resident gigabytes of the report's command."""
    root, started = folder / "scale", time.perf_counter()
    generate(root, trials=trials, reports=reports)
    made_s = time.perf_counter() - started
    first = _report(root)
    copied = _report(root)
    part = next(iter((root / "trials").glob("*.parquet")))
    os.utime(part)  # another time, another stamp: the copy is not of these parts
    stale = _report(root)
    return {
        "trials": float(trials),
        "reports_each": float(reports),
        "generate_s": made_s,
        "parts_s": max(first.wall_s, stale.wall_s),
        "parts_cpu_s": max(first.cpu_s, stale.cpu_s),
        "compact_s": copied.wall_s,
        "compact_cpu_s": copied.cpu_s,
        "peak_gb": max(first.peak_gb, copied.peak_gb, stale.peak_gb),
        "peak_gb_compact": copied.peak_gb,
    }


@dataclass(frozen=True)
class Cost:
    """Of one process. `cpu_s` is what it would take at the least on a machine that does nothing else."""

    wall_s: float
    cpu_s: float
    peak_gb: float


def _report(root: Path) -> Cost:
    """One `ablate.report`, in a process of its own."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "ablate.report", str(root)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ablate.report ended with {process.returncode}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Cost(wall_s=time.perf_counter() - started, cpu_s=cpu_s, peak_gb=usage.ru_maxrss * 1024 / 1e9)


def generate(root: Path, *, trials: int, reports: int) -> None:
    """Parts as a sweep leaves them, written without its flushes to the disk."""
    for name in ("trials", "history"):
        (root / name).mkdir(parents=True, exist_ok=True)
    runs = (ARMS + 1) * SEEDS
    arms = {f"arm{index}": {"train.lr": 1e-4 * (index + 1)} for index in range(ARMS)}
    (root / "study.json").write_text(json.dumps(_study(root.name, trials=trials - runs, arms=arms)))
    rng = np.random.default_rng(0)
    for index in range(trials):
        ablation = index - (trials - runs)
        if ablation < 0:
            params = _draw(rng)
            loss = 2.5 + 0.1 * abs(np.log10(1 - params["model.ema_decay"]) + 1.5) + float(rng.normal(0, 0.02))
            arm, seed = "search", 0
        else:
            which, seed = ablation % (ARMS + 1), 1 + ablation // (ARMS + 1)
            arm = "baseline" if which == 0 else f"arm{which - 1}"
            params, loss = arms.get(arm, {}), 2.6 - 0.01 * which + 0.01 * seed + float(rng.normal(0, 0.005))
        pruned = ablation < 0 and index % 3 == 2
        _write(
            root, index, reports=reports // 3 if pruned else reports, row=_row(index, arm, seed, params, loss, pruned)
        )


def _write(root: Path, index: int, *, reports: int, row: Mapping[str, Any]) -> None:
    trial_id, loss = row["trial_id"], row["val_loss"]
    params = {key.removeprefix(PARAM): value for key, value in row.items() if key.startswith(PARAM)}
    table = pa.Table.from_pylist([dict(row)], schema=trial_schema(params, METRICS))
    pq.write_table(table, root / "trials" / f"{trial_id}.parquet")
    steps = np.arange(1, reports + 1)
    values = loss + 3 * np.exp(-steps / 20)
    columns: dict[str, Any] = {
        column.name: pa.array(values + 0.01 * place) for place, column in enumerate(METRICS) if column.kind == "float"
    }
    columns |= {
        "trial_id": pa.array([trial_id] * reports),
        "attempt": pa.array(np.ones(reports, dtype=np.int64)),
        "step": pa.array(steps * 10),
        "tokens_seen": pa.array(steps * (BUDGET // 100)),
        "budget_tokens": pa.array(np.full(reports, BUDGET)),
        "wall_s": pa.array(steps * 1.0),
        "lr": pa.array(np.full(reports, 1e-3)),
        "losses": pa.array([[float(value)] * 10 for value in values]),
        "time": pa.array(
            [START + timedelta(seconds=index + int(step)) for step in steps], type=pa.timestamp("us", tz="UTC")
        ),
        "val_loss": pa.array(values),
    }
    arrays = [columns.get(field.name, pa.nulls(reports)).cast(field.type) for field in history_schema(METRICS)]
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=history_schema(METRICS)), root / "history" / f"{trial_id}-1.parquet"
    )


def _row(index: int, arm: str, seed: int, params: Mapping[str, Any], loss: float, pruned: bool) -> dict[str, Any]:
    measured = {column.name: loss + 0.01 for column in METRICS if column.kind == "float"}
    return {
        **{PARAM + key: value for key, value in params.items()},
        **measured,
        "study": "scale", "trial_id": f"{index:012x}", "arm": arm, "seed": seed,
        "status": "pruned" if pruned else "completed", "config_json": CONFIG, "val_loss": loss, "unigram_floor": 4.0,
        "bigram_floor": 2.4, "tokens_seen": BUDGET // 3 if pruned else BUDGET, "budget_tokens": BUDGET, "wall_s": 100.0,
        "attempt": 1, "started_at": START + timedelta(seconds=index),
        "finished_at": START + timedelta(seconds=index + 99),
        "git_commit": "0" * 40, "data_hash": f"d{seed}", "host": "example", "device": "cpu", "schema_version": 1,
    }  # fmt: skip


CONFIG = trainers.load().resolve({"preset": "tiny"}).to_json()


def _draw(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "model.ema_decay": 1 - float(np.exp(rng.uniform(np.log(0.001), np.log(0.7)))),
        "model.ema_update_freq": int(np.exp(rng.uniform(0, np.log(50)))),
        "model.knowledge_length": int(rng.choice([4, 8, 16, 32])),
        "train.balance_loss_coef": float(np.exp(rng.uniform(np.log(0.01), 0))),
    }


def _study(name: str, *, trials: int, arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "study": name, "question": "How long does a report of a long study take?", "started_at": START.isoformat(),
        "finished_at": None, "command": "python -m benchmarks.report_scale", "space": SPACE,
        "spec": {
            "base": {"preset": "tiny"}, "search": {entry["key"]: {} for entry in SPACE},
            "objectives": [{"metric": "val_loss", "mode": "min"}],
            "optimizer": {"trials": trials, "sampler": "tpe", "seed": 0},
            "early_stopping": {"asha": {"min_tokens": 50_000, "reduction": 3}},
            "ablation": {"baseline": "base", "seeds": SEEDS, "arms": dict(arms)},
        },
        "provenance": {
            "git_commit": None, "git_dirty": None, "python": "", "platform": "", "host": "example", "device": "cpu",
            "versions": {}, "data_hash": "",
        },
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
