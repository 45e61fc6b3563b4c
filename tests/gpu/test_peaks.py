"""The predicted peak of memory against what PyTorch reserves on the GPU: eight configurations, within 10%.

Each is a short whole run (steps, updates of the bank, evaluations) in a process of its own with a trial's allocator.
Where GPU_RESULTS names a folder, the table is written there as peaks.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.capture import CaptureManager
from tabulate import tabulate

from ablate.scheduling.admission import share_of
from model.api import CONTEXT_GIB, Config, Footprint, epoch_tokens, footprint, resolve
from tests import ROOT
from tests.gpu.runs import environment

NEAR = 0.1
AT_ONCE = 10
"""Processes on the GPU at a time, some 30 GiB together: what one reserves does not depend on the others."""
STEPS = 12
BASE: dict[str, Any] = {
    "data.corpus": "pydoc",  # real text, nothing to download
    "model.knowledge_num": 65_536,
    "train.epochs": None,
    "train.accumulation_steps": 2,
    "train.report_every": 6,
    "train.precision": "bf16",
    "eval.every": 1,
    "eval.val_tokens": 16_384,
    "eval.val_batch_size": 16,
    "eval.prompts": 4,
    "eval.new_tokens": 8,
}
GRID: dict[str, dict[str, Any]] = {
    "none, batch 32": {"model.memory": "none", "train.batch_size": 32},
    "token, batch 8, 1,048,576 entries": {"train.batch_size": 8, "model.knowledge_num": 1_048_576},
    "token, batch 32": {"train.batch_size": 32},
    "token, batch 32, checkpointing": {"train.batch_size": 32, "train.gradient_checkpointing": "on"},
    "token, batch 16, 32 tokens an entry": {"train.batch_size": 16, "model.knowledge_length": 32},
    "token, batch 8, fp32": {"train.batch_size": 8, "train.precision": "fp32"},
    "vector, batch 32": {"model.memory": "vector", "train.batch_size": 32},
    "hybrid, batch 8": {"model.memory": "hybrid", "train.batch_size": 8},
}
HELD = ("token, batch 32", "hybrid, batch 8")
"""Those that also run within the share that a study would give them."""

IN_ITS_SHARE = """
import json, sys
from model.api import hold_to_share
hold_to_share(float(sys.argv[1]))
from benchmarks.instruments.one_run import main
sys.exit(main([sys.argv[2]]))
"""


def keys_of(name: str) -> dict[str, Any]:
    keys = {**BASE, **GRID[name]}
    return keys | {"train.tokens": STEPS * keys["train.batch_size"] * 512}


def config_of(name: str) -> Config:
    return resolve("seed-1.4.6", keys_of(name))


def run(command: list[str], keys: Mapping[str, Any]) -> dict[str, Any]:
    """What `one_run` prints, or under `failed` its last words."""
    whole = [sys.executable, *command, json.dumps({"preset": "seed-1.4.6", **keys})]
    done = subprocess.run(whole, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Found:
    """By name: the predicted parts, what the runs found, what those within their shares found."""

    predicted: Mapping[str, Footprint]
    free: Mapping[str, dict[str, Any]]
    held: Mapping[str, dict[str, Any]]

    def error(self, name: str) -> float | None:
        """How far the prediction lies above (+) or below what was reserved, as a share of that."""
        reserved = self.free[name].get("reserved_gib")
        return None if reserved is None else self.predicted[name].reserved_gib / reserved - 1

    def rows(self) -> dict[str, dict[str, Any]]:
        """For the file."""
        return {
            name: {
                "predicted_gib": peak.reserved_gib,
                "error": self.error(name),
                "parts": dict(peak.parts),
                "free": {key: value for key, value in self.free[name].items() if key != "losses"},
                "held": {key: value for key, value in self.held.get(name, {}).items() if key != "losses"},
            }
            for name, peak in self.predicted.items()
        }

    def __str__(self) -> str:
        shown = [
            [name, self.predicted[name].reserved_gib, row.get("reserved_gib"), self.error(name), row.get("failed")]
            for name, row in self.free.items()
        ]
        heads = ["run", "predicted GiB", "reserved GiB", "off by", "failed"]
        return tabulate(shown, headers=heads, floatfmt=".3f", missingval="-")


def share_gib(predicted: Footprint) -> tuple[float, float]:
    """(share of this GPU that a study gives, GiB of it that PyTorch's allocator may take)."""
    total_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    share = share_of(predicted.peak_gib, card_gib=total_gib)
    return share, share * total_gib - CONTEXT_GIB


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> Found:
    """All runs at once. The table is printed and written whatever it holds."""
    epoch_tokens(config_of("none, batch 32"))  # trains the tokenizer, which all of them then find
    with ThreadPoolExecutor(AT_ONCE) as pool:
        free = {name: pool.submit(run, ["-m", "benchmarks.instruments.one_run"], keys_of(name)) for name in GRID}
        predicted = {name: footprint(config_of(name), device="cuda") for name in GRID}  # while they run
        held = {}
        for name in HELD:
            share, _ = share_gib(predicted[name])
            held[name] = pool.submit(run, ["-c", IN_ITS_SHARE, str(share)], keys_of(name))
        everything = Found(
            predicted,
            {name: each.result() for name, each in free.items()},
            {name: each.result() for name, each in held.items()},
        )
    if folder := os.environ.get("GPU_RESULTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "peaks.json").write_text(json.dumps(everything.rows(), indent=1))
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert isinstance(capture, CaptureManager)
    with capture.global_and_fixture_disabled():
        print(f"\n{everything}")
    return everything


@pytest.mark.parametrize("name", GRID)
def test_the_peak_is_predicted(name: str, found: Found) -> None:
    error, row = found.error(name), found.free[name]
    assert error is not None, row
    assert abs(error) <= NEAR, f"predicted {found.predicted[name].reserved_gib:.3f} GiB, reserved {row['reserved_gib']}"


@pytest.mark.parametrize("name", HELD)
def test_a_run_fits_into_its_predicted_share(name: str, found: Found) -> None:
    """With the margin that a study gives. The allocator gives free memory back before it fails."""
    row, (_, allowed_gib) = found.held[name], share_gib(found.predicted[name])
    assert row.get("failed") is None
    assert row["losses"] == found.free[name]["losses"]
    assert row["reserved_gib"] <= allowed_gib
