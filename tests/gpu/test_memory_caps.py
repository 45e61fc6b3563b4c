"""A process or a trial that wants more of the GPU than its share fails alone; what trains beside it sees nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ablate.records.ledger import Ledger
from benchmarks.instruments import victims
from model.api import CONTEXT_GIB, Report, Verdict, train
from tests import ROOT
from tests.gpu.runs import environment, tiny
from tests.model.test_training import Listener

SHARE = 0.05
GREEDY = """
import json, sys
import torch
from model.api import failure_kind, hold_to_share
share, total = float(sys.argv[1]), torch.cuda.get_device_properties(0).total_memory
hold_to_share(share)
held, kind = [], "none"
try:
    while len(held) * 2**26 < 2 * share * total:
        held.append(torch.ones(2**26, dtype=torch.uint8, device="cuda"))
except torch.OutOfMemoryError as error:
    kind = failure_kind(error)
print(json.dumps({"kind": kind, "gib": torch.cuda.memory_reserved() / 2**30}))
"""


def test_a_process_is_held_to_its_share_and_its_neighbour_trains_on(tmp_path: Path) -> None:
    """The neighbour holds its weights on the GPU while the other fails, and trains as it does alone."""
    config = tiny({"train.report_every": 5}, steps=15)
    alone, beside = Listener(), Listener()
    train(config, alone, checkpoint_dir=tmp_path / "alone")
    found = {}

    def meanwhile(report: Report) -> Verdict:
        if report.step == 5:
            command = [sys.executable, "-c", GREEDY, str(SHARE)]
            done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            found.update(json.loads(done.stdout))
        return beside(report)

    train(config, meanwhile, checkpoint_dir=tmp_path / "beside")
    allowed_gib = SHARE * torch.cuda.get_device_properties(0).total_memory / 2**30 - CONTEXT_GIB
    assert found["kind"] == "oom"
    assert allowed_gib - 0.2 < found["gib"] <= allowed_gib
    assert len(alone.losses) == 15
    assert beside.losses == alone.losses


STUDY = """
study: caps
base:
  preset: tiny
  data: {corpus: facts, facts_entities: 16}
  train: {tokens: 102_400, report_every: 20, precision: bf16}
  eval: {every: 5, val_tokens: 512, prompts: 4, prompt_tokens: 4, new_tokens: 8, fact_probes: 8}
ablation:
  baseline: base
  exploratory: true
  seeds: 1
  arms:
    large: {train.batch_size: 1_024, model.max_seq_len: 512}
resources: {cpu: 1, gpu: 0.02}
tracking: {swanlab: disabled}
"""
"""The arm needs some 9 GiB. Its third and last share, 0.045, is 6.4 GiB of an H200 and 3.6 GiB of an H100."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that has ended. `said`: what it printed, for a test that fails."""

    root: Path
    temporary: Path
    code: int
    said: str

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another command on its study."""
        return _run(words, root=self.root, temporary=self.temporary)


def _run(words: tuple[str, ...], *, root: Path, temporary: Path) -> subprocess.CompletedProcess[str]:
    own = {"TMPDIR": str(temporary), victims.MARK: str(temporary)}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=root, env=environment(**own), capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    """As a user runs it, on a Ray of its own. Its temporary folder has a short name: sockets stand in it."""
    root, temporary = tmp_path_factory.mktemp("caps"), Path(tempfile.mkdtemp(prefix="g-", dir="/tmp"))
    (root / "caps.yaml").write_text(STUDY)
    try:
        done = _run(("ablate.sweep", "caps.yaml"), root=root, temporary=temporary)
        yield Sweep(root, temporary, done.returncode, done.stdout + done.stderr)
    finally:
        for process, _ in victims.left(temporary):
            victims.kill(process)
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.timeout(270)
def test_a_trial_over_its_share_is_oom_and_its_neighbour_completes(sweep: Sweep) -> None:
    rows = {row.arm: row for row in Ledger(sweep.root / "results" / "caps").rows()}
    assert {arm: row.status for arm, row in rows.items()} == {"baseline": "completed", "large": "oom"}, sweep.said
    large, neighbour = rows["large"], rows["baseline"]
    assert sweep.code == 0, sweep.said
    assert (neighbour.attempt, neighbour.gpu_fraction) == (1, 0.02)
    assert neighbour.device == torch.cuda.get_device_name()
    assert large.attempt == 3, "its share grew by half, twice"
    assert large.gpu_fraction == pytest.approx(0.045)
    assert large.error_kind in ("OutOfMemoryError", "OverShare", "AcceleratorError")
    total_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    assert neighbour.metrics["peak_reserved_gib"] <= 0.02 * total_gib - CONTEXT_GIB


@pytest.mark.timeout(150)
def test_verify_finds_the_neighbour_s_every_step_again(sweep: Sweep) -> None:
    """It trains without Ray, without a share and with the GPU for itself."""
    done = sweep.command("ablate.rerun", "caps", "--trial", "best", "--verify")
    assert (done.returncode, done.stdout.splitlines()[:1]) == (0, ["identical: 200 steps"]), done.stdout + done.stderr
