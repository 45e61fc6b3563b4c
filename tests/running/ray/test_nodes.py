"""Several nodes: a study survives the death of a node, and a trial that fits on no node is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ablate import cli
from ablate.records.ledger import Ledger
from tests import ROOT

STUDY = """\
study: nodes
base:
  preset: tiny
  data: {corpus: facts, facts_entities: 32}
  model: {dim: 64, n_layers: 2, vocab_size: 512, knowledge_num: 256}
  train: {tokens: 400_000, report_every: 4, checkpoint_every: 1}
  eval: {val_tokens: 1_024, prompts: 4, new_tokens: 8, fact_probes: 8}
search: {train.lr: {loguniform: [1.0e-3, 1.0e-2]}}
optimizer: {sampler: sobol, trials: 2, seed: 0}
resources: {cpu: 2, gpu: 0, workers: 1}
tracking: {swanlab: disabled}
"""

START = """
import json, os, secrets, subprocess, sys, tempfile, time
from collections import Counter
from pathlib import Path

study, temporary = Path(sys.argv[1]), tempfile.TemporaryDirectory(prefix="c-", ignore_cleanup_errors=True)
root = Path(temporary.name)
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "TMPDIR": str(root)}
tempfile.tempdir = None

from ablate.records.ledger import Ledger
from benchmarks.instruments import victims
from benchmarks.instruments.nodes import cluster, standing
"""

PROGRAM = f"""{START}
with cluster(root) as (address, _, head):
    command = [sys.executable, "-m", "ablate.sweep", str(study), "--address", address]
    sweep = subprocess.Popen([*command, "--results", str(study.parent / "results")], stdout=2)
    ledger = Ledger(study.parent / "results" / "nodes")
    def saved():  # the number of trials that have a checkpoint
        reports = Counter(ledger.history(columns=["trial_id"])["trial_id"].to_pylist())
        return sum(count >= 2 for count in reports.values())
    while saved() < 2 and sweep.poll() is None:
        time.sleep(0.1)
    busy = {{worker.ppid() for worker in victims.find("worker", root=root, spare=head)}}
    node = next(node for node in victims.find("raylet", root=root, spare=head) if node.pid in busy)
    final = sorted(ledger.final_ids())
    victims.kill(node, with_children=True)
    code = sweep.wait()
    print(json.dumps({{"exit": code, "final": final, "groups": standing(address)}}))
"""

REFUSED = f"""{START}
with cluster(root) as (address, _, _):
    command = [sys.executable, "-m", "ablate.sweep", str(study), "--address", address, "--set", "resources.cpu=3"]
    sweep = subprocess.run([*command, "--results", str(study.parent / "results")], stderr=subprocess.PIPE, text=True)
    print(json.dumps({{"exit": sweep.returncode, "said": sweep.stderr}}))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_on_a_node_that_dies_resumes_on_the_other(tmp_path: Path) -> None:
    study = tmp_path / "nodes.yaml"
    study.write_text(STUDY)
    # Ray reads its environment when it is imported, hence a process of its own.
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(study)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["exit"] == 0
    assert found["groups"] == []
    ledger = Ledger(tmp_path / "results" / "nodes")
    rows = ledger.rows()
    assert [row.status for row in rows] == ["completed"] * 2
    hit = [row for row in rows if row.attempt > 1]
    assert hit, "the killed node had a trial"
    for row in hit:
        assert row.trial_id not in found["final"]
        attempts = ledger.history(row.trial_id)["attempt"].to_pylist()
        assert attempts[0] == 1, "it resumed from the first attempt's checkpoint"
        assert attempts[-1] == row.attempt
        steps = ledger.history(row.trial_id)["step"].to_pylist()
        assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_trial_that_fits_on_no_node_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """All nodes together have enough cores, but without the check the trial would wait for ever."""
    study = tmp_path / "nodes.yaml"
    study.write_text(STUDY)
    done = subprocess.run([sys.executable, "-c", REFUSED, str(study)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["exit"] == cli.BAD_INPUT
    assert "resources: cpu: 1 x 3: 0 fit on 3 nodes (the largest has 2 CPUs" in found["said"]
    assert found["said"].count("\n") == 1
    assert not (tmp_path / "results").exists()
