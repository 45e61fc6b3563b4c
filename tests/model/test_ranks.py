"""Two ranks train what one would: the same losses and one bank, with every launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ablate.records.ledger import Ledger
from model.api import ConfigError, resolve
from model.config import check_processes, check_ranks
from tests import ROOT
from tests.model import rank_program

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
              "--main_process_port", "0")  # fmt: skip
Tensors = Mapping[str, torch.Tensor]


def start(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run to the end; no launcher's variables of this process reach it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks that torchrun started hold after twenty steps, in both precisions."""
    folder = tmp_path_factory.mktemp("two")
    start(*TORCHRUN, "-m", "tests.model.rank_program", str(folder), "fp64", "fp32", "fp32/1")
    return folder


def one(folder: Path, precision: str) -> Tensors:
    """What one rank, this process, holds."""
    rank_program.run(folder, precision)
    return load_file(folder / f"{precision}-rank-0.safetensors")


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_ranks_hold_the_same_weights_and_bank_bit_for_bit(two: Path, precision: str) -> None:
    first, second = (load_file(two / f"{precision}-rank-{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys() >= {"bank.tokens_NL", "losses", "table.weight"}
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_interrupted_ranks_resume_bit_for_bit(two: Path) -> None:
    """At a report that was due after step 5, between two updates, where each rank would have gradients of its own."""
    whole, parts = (load_file(folder / "fp32-rank-0.safetensors") for folder in (two, two / "interrupted"))
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert len(parts["losses"]) == rank_program.STEPS


# fp64 shows that the sums are the same. fp32 rounds them in another order, by the processor: over 20 steps losses
# differ by up to 1.03e-5 of themselves (seen), and a near tie may fall to the other side.
@pytest.mark.parametrize(
    ("precision", "same_slots", "loss", "weight"), [("fp64", 1.0, 1e-12, 1e-10), ("fp32", 0.999, 5e-5, 1e-3)]
)
def test_two_ranks_equal_one_with_the_joined_batch(
    two: Path, tmp_path: Path, precision: str, same_slots: float, loss: float, weight: float
) -> None:
    """`loss` is relative, `weight` absolute."""
    alone, joined = one(tmp_path, precision), load_file(two / f"{precision}-rank-0.safetensors")
    assert alone["table.weight"].dtype == {"fp64": torch.float64, "fp32": torch.float32}[precision]
    assert len(alone["losses"]) == rank_program.STEPS
    assert (alone["bank.tokens_NL"] == joined["bank.tokens_NL"]).double().mean().item() >= same_slots
    torch.testing.assert_close(alone["losses"], joined["losses"], atol=0, rtol=loss)
    # A selection that fell to the other side is counted elsewhere; it weighs the same.
    moved = (alone["bank.used_N"] - joined["bank.used_N"]).abs().sum().item()
    assert moved <= (0 if precision == "fp64" else 0.05 * alone["bank.used_N"].sum().item())
    weights = alone.keys() - {"bank.tokens_NL", "bank.used_N", "losses"}
    for name in weights:
        torch.testing.assert_close(alone[name], joined[name], atol=weight, rtol=0)
    # Sums in another order differ in their last bits: equal ones would mean that the ranks never met.
    assert any(not torch.equal(alone[name], joined[name]) for name in weights), "two ranks did not sum"


def test_the_bank_changes_in_those_steps(tmp_path: Path) -> None:
    """Else the bank would be the same on any number of ranks."""
    from model.trainer import Trainer

    config = resolve("tiny", {**rank_program.OVERRIDES, "train.precision": "fp32"})
    before = Trainer(config, checkpoint_dir=tmp_path / "fresh").model.bank.tokens_NL.clone()
    assert (one(tmp_path, "fp32")["bank.tokens_NL"] != before).double().mean().item() > 0.5


@pytest.mark.slow  # torchrun starts two ranks in the tests above
def test_two_ranks_of_accelerate_launch_equal_two_of_torchrun(two: Path, tmp_path: Path) -> None:
    """The command of docs/running.md, with a port of its own."""
    sets = [f"--set={key}={value}" for key, value in rank_program.OVERRIDES.items()]
    small = [
        "--set=eval.prompts=2",
        "--set=eval.new_tokens=2",
        "--set=eval.fact_probes=2",
        "--set=train.precision=fp32",
    ]
    done = start(*ACCELERATE, "-m", "model.train", "--out", str(tmp_path), *sets, *small)
    assert json.loads(done.stdout)["tokens_seen"] == rank_program.OVERRIDES["train.tokens"], "rank 0 alone prints"
    assert done.stderr.count("100%") == 1, "and it alone shows its progress"
    weights = load_file(tmp_path / f"step-{rank_program.STEPS}" / "model.safetensors")
    torchruns = load_file(two / "fp32-rank-0.safetensors")
    assert [name for name in weights if not torch.equal(weights[name], torchruns[name])] == []


@pytest.mark.slow  # test_check_processes_accepts_properly_started_ranks has the rule
def test_accelerate_launch_that_starts_one_rank_of_two_is_refused() -> None:
    """`--cpu` starts one process whatever --num_processes says; the run would train alone without a word."""
    command = (sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")
    done = start(*command, "-m", "model.train", "--set", "preset=tiny", code=1)  # accelerate's own code, for our 2
    assert "accelerate launch: one process: several were asked for" in done.stderr
    assert "--multi_gpu" in done.stderr
    assert "exit status 2" in done.stderr


@pytest.mark.slow  # test_check_ranks_names_the_nearest_divisible_batch_sizes has the rule
def test_a_batch_size_not_divisible_by_the_ranks_is_refused(tmp_path: Path) -> None:
    """Else the gradient of the balance loss is not the joined batch's, and a rank may have no sequence at all."""
    command = (*TORCHRUN, "-m", "model.train", "--set", "train.batch_size=3", "--out", str(tmp_path))
    done = start(*command, code=1)  # torchrun's own code, for our 2
    assert "train.batch_size: 3: not divisible by 2 ranks; try 2 or 4, or other ranks\n" in done.stderr


@pytest.mark.parametrize(("batch", "ranks", "hint"), [(7, 3, "try 6 or 9"), (1, 2, "try 2"), (2, 3, "try 3")])
def test_check_ranks_names_the_nearest_divisible_batch_sizes(batch: int, ranks: int, hint: str) -> None:
    config = resolve("tiny", {"train.batch_size": batch})
    with pytest.raises(ConfigError, match=f"not divisible by {ranks} ranks; {hint}, or other ranks"):
        check_ranks(config, ranks=ranks)
    check_ranks(resolve("tiny", {"train.batch_size": 6}), ranks=3)


@pytest.mark.parametrize("environment", [
    {}, {"ACCELERATE_MIXED_PRECISION": "no"}, {"MASTER_ADDR": "node"},
    {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "node", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0"},
    {"MASTER_ADDR": "node", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
    {"WORLD_SIZE": "1"}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
])  # fmt: skip
def test_check_processes_accepts_properly_started_ranks(environment: dict[str, str]) -> None:
    check_processes(environment)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE: 2: a launcher's variable"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "node"}, "WORLD_SIZE: 2: a launcher's variable"),
        ({"PMI_SIZE": "4", "PMI_RANK": "0"}, "PMI_SIZE: 4: a launcher's variable"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK: 0: a launcher's variable"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: two: not a whole number"),
    ],
)
def test_what_is_left_of_a_launcher_is_refused(environment: dict[str, str], said: str) -> None:
    """Else Accelerate waits for ranks that nobody starts."""
    with pytest.raises(ConfigError, match=f"{said}.*; unset it to train alone"):
        check_processes(environment)


STUDY = """
study: pair
base: {preset: tiny, eval: {new_tokens: 2, fact_probes: 2}}
search: {eval.prompts: {choice: [2, 3]}}
optimizer: {sampler: random, startup: 1, trials: 1, seed: 0}
resources: {workers: 2}
tracking: {swanlab: disabled}
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ray_workers_equal_two_ranks_of_torchrun(two: Path, tmp_path: Path) -> None:
    """The whole way of a study with `resources.workers: 2`: Tune, two Train workers, the ledger. What is searched
    changes no step."""
    (tmp_path / "pair.yaml").write_text(STUDY)
    sets = {**rank_program.OVERRIDES, "train.precision": "fp32"}
    flags = [f"--set=base.{key}={value}" for key, value in sets.items()]
    results = tmp_path / "results"
    start(sys.executable, "-m", "ablate.sweep", str(tmp_path / "pair.yaml"), "--results", str(results), *flags)

    ledger = Ledger(results / "pair")
    (row,) = ledger.rows()
    assert (row.status, row.attempt) == ("completed", 1)
    torchruns = load_file(two / "fp32-rank-0.safetensors")
    losses = [loss for report in ledger.history()["losses"].to_pylist() for loss in report]
    assert losses == torchruns["losses"].tolist()
    weights = load_file(ledger.checkpoint_dir(row.trial_id) / f"step-{rank_program.STEPS}" / "model.safetensors")
    assert [name for name in weights if not torch.equal(weights[name], torchruns[name])] == []
