"""A user's trainer on a real Ray: several workers agree on a verdict, and a command that hangs is a timeout."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from ablate import cli, sweep
from ablate.records.ledger import Ledger
from tests.trainers.own.studies import SEARCH, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def on_ray(path: Path, resources: str) -> Ledger:
    path.write_text(path.read_text().replace("resources: {gpu: 0}", f"resources: {{gpu: 0, {resources}}}"))
    results = path.parent / "results"
    cli.guarded(lambda: sweep.main([str(path), "--results", str(results)]))
    return Ledger(results / "own")


def test_workers_are_ranks_and_agree_to_stop(tmp_path: Path) -> None:
    script = """
        import torch
        import torch.distributed as dist

        def main(trial):
            x = torch.randn(1) + dist.get_rank()
            for step in range(10, trial.budget + 1, 10):
                x = x - trial.params["lr"] * (x - 3)
                mean = x.clone()
                dist.all_reduce(mean)
                mean /= dist.get_world_size()
                trial.report(step, val_loss=(mean - 3) ** 2, accuracy=dist.get_world_size())
    """
    more = "search: {lr: {loguniform: [0.01, 0.5]}}\noptimizer: {sampler: random, trials: 3, seed: 0}\n"
    more += "early_stopping: {asha: {min_tokens: 10, reduction: 2}}"
    rows = on_ray(write(tmp_path, script, more=more), "cpu: 1, workers: 2").rows()
    assert {row.status for row in rows} == {"completed", "pruned"}, [row.error for row in rows]
    assert {row.metrics["accuracy"] for row in rows} == {2.0}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_command_that_hangs_is_a_timeout_and_leaves_nothing(tmp_path: Path, workers: int) -> None:
    script = """
        import time
        print('{"steps": 10, "val_loss": 1, "accuracy": 1}', flush=True)
        time.sleep(600)
    """
    path = write(tmp_path, script, how=f"command: python train.py {{lr}} HANGS-{workers}", more=SEARCH)
    rows = on_ray(path, f"workers: {workers}, stall_minutes: 0.2").rows()
    assert [(row.status, row.error_kind) for row in rows] == [("timeout", "Stalled")] * 2
    left = [each for each in psutil.process_iter(["cmdline"]) if f"HANGS-{workers}" in (each.info["cmdline"] or [])]
    assert left == []
