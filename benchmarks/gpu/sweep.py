"""`python -m benchmarks.gpu.sweep [--json] [--quick]`: one study on shares of one GPU, 1, 2 and 4 trials at a time,
with and without MPS: tokens an hour, over those of one trial at a time.

The sweep is the user's own command on a private Ray. Without a GPU it says so; `--quick` then takes a logical one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow.parquet as pq
import torch
import yaml
from tabulate import tabulate

from benchmarks.gpu_check import Server, mps_server

TRIALS = 4
BASE: Mapping[str, Any] = {
    "preset": "tiny",
    "data": {"corpus": "pydoc"},
    "model": {"dim": 256, "n_layers": 6, "max_seq_len": 256, "knowledge_num": 65_536, "knowledge_dim": 128},
    "train": {"batch_size": 16, "tokens": 4_000_000, "report_every": 100, "checkpoint_every": 100},
    "eval": {"every": 5},
}
QUICK: Mapping[str, Any] = {"preset": "tiny", "train": {"tokens": 4_096}, "eval": {"val_tokens": 512, "prompts": 2}}
MOST_S = 240.0


def study(name: str, base: Mapping[str, Any], *, at_once: int, mps: bool) -> dict[str, Any]:
    """A study file: the same four trials each time."""
    return {
        "study": name,
        "base": dict(base),
        "search": {"model.ema_decay": {"uniform": [0.5, 0.95]}},
        "optimizer": {"sampler": "random", "trials": TRIALS, "seed": 0},
        "resources": {
            "cpu": 1,
            "gpu": 1 / at_once,
            "workers": 0,
            "mps": "auto" if mps else "off",
        },
        "tracking": {"swanlab": "disabled"},
    }


def sweep(base: Mapping[str, Any], *, at_once: int, server: Server | None) -> dict[str, Any]:
    """Run it; `tokens_per_hour` from the start of the first trial to the end of the last."""
    row: dict[str, Any] = {"at_once": at_once, "mps": server is not None, "failed": server and server.failed}
    if row["failed"]:
        return row
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        file = Path(folder) / "space.yaml"
        file.write_text(yaml.safe_dump(study("shares", base, at_once=at_once, mps=server is not None)))
        command = [sys.executable, "-m", "ablate.sweep", str(file), "--results", folder, "--gpus", "1"]
        environment = os.environ | dict(server.environment if server else {})
        try:
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MOST_S)
        except subprocess.TimeoutExpired:
            return row | {"failed": f"took more than {MOST_S:.0f} s"}
        rows = [pq.read_table(part).to_pylist()[0] for part in Path(folder).glob("shares/trials/*.parquet")]
        done = [trial for trial in rows if trial["status"] == "completed"]
        if ended.returncode or len(done) < TRIALS:
            said = [trial["error"] for trial in rows if trial["error"]] or ended.stderr.strip().splitlines()[-5:]
            return row | {"failed": f"exit {ended.returncode}: " + " | ".join(said)[:600]}
    seconds = (max(t["finished_at"] for t in done) - min(t["started_at"] for t in done)).total_seconds()
    return row | {
        "seconds": seconds,
        "tokens_per_hour": 3_600 * sum(trial["tokens_seen"] for trial in done) / seconds,
        "tokens_per_s_each": mean(trial["tokens_per_s"] for trial in done),
        "peak_gib": max((trial["nvml_used_gib"] or trial["peak_gib"]) for trial in done),
        "gpu_util_pct": [trial["gpu_util_pct"] for trial in done],
    }


def measure(base: Mapping[str, Any], shares: tuple[int, ...], *, mps: bool) -> list[dict[str, Any]]:
    """All sweeps; `gain` is over the first."""
    rows = []
    for at_once in shares:
        print(f"  {at_once} at a time", file=sys.stderr, flush=True)
        rows.append(sweep(base, at_once=at_once, server=None))
    if mps:
        with mps_server() as server:
            for at_once in shares[1:]:
                print(f"  {at_once} at a time, MPS", file=sys.stderr, flush=True)
                rows.append(sweep(base, at_once=at_once, server=server))
    alone = rows[0].get("tokens_per_hour")
    for row in rows:
        row["gain"] = row["tokens_per_hour"] / alone if alone and "tokens_per_hour" in row else None
    return rows


def render(found: Mapping[str, Any]) -> str:
    """The same in a table."""
    heads = ["at a time", "MPS", "seconds", "tokens an hour", "over one at a time", "failed"]
    keys = ("at_once", "mps", "seconds", "tokens_per_hour", "gain", "failed")
    rows = [[row.get(key) for key in keys] for row in found["sweeps"]]
    return f"{found['card']}\n\n" + tabulate(rows, headers=heads, floatfmt=",.2f", missingval="-")


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.sweep",
        description="Runs a small study on shares of the GPU that is here, and compares tokens an hour.",
        epilog="example: python -m benchmarks.gpu.sweep --json > sweep.json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="a tiny study, two at a time, on the CPU too")
    arguments = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    if not cuda and not arguments.quick:
        print(json.dumps({"card": None}) if arguments.json else "CUDA sees no GPU, so nothing was measured.")
        return 0
    base, shares = (QUICK, (1, 2)) if arguments.quick else (BASE, (1, 2, 4))
    found = {"card": torch.cuda.get_device_name(0) if cuda else "cpu", "sweeps": measure(base, shares, mps=cuda)}
    print(json.dumps(found, indent=1) if arguments.json else render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
