"""What a command was started with: launchers' variables, a home, limits of files, a locale."""

from __future__ import annotations

import getpass
import os
import resource
from pathlib import Path
from typing import Literal

import pytest

from ablate.errors import BadInput
from ablate.running import environment
from ablate.study import preflight

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_CPUS_PER_TASK": "4",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "0",
}
TORCHRUN = {
    "RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "0",
    "MASTER_ADDR": "node7", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0", "PMI_SIZE": "4", "PMI_RANK": "0", "PMIX_RANK": "0",
       "MV2_COMM_WORLD_SIZE": "4", "MPI_LOCALRANKID": "0", "PMIX_NAMESPACE": "x", "PRTE_MCA_plm": "x",
       "PALS_RANKID": "1", "JSM_NAMESPACE_RANK": "1"}  # fmt: skip
FLUX = {"FLUX_TASK_RANK": "1", "FLUX_TASK_LOCAL_ID": "1", "FLUX_JOB_SIZE": "4", "FLUX_JOB_NNODES": "2"}
ACCELERATE = {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "bf16", "FSDP_VERSION": "2"}


def test_what_launchers_left_is_forgotten_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4", "CUDA_VISIBLE_DEVICES": "0", "MASTER": "me", "RANKS": "2"}
    kept |= {"FLUX_URI": "local:///run/flux", "FLUX_JOB_ID": "f7"}
    monkeypatch.setattr(os, "environ", {**kept, **SLURM, **TORCHRUN, **MPI, **FLUX, **ACCELERATE})
    environment.forget_launchers()
    assert os.environ == kept


def test_a_user_without_home_and_name_gets_both(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)
    environment.prepare("inline")
    assert Path.home().is_dir()
    assert getpass.getuser() == "uid54321"


def test_a_home_that_is_only_read_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have the keys of a bucket, and Ray's token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tmp_path.chmod(0o500)
    environment.prepare("inline")
    assert os.environ["HOME"] == str(tmp_path)


@pytest.mark.parametrize("runner", ["inline", "ray"])
@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 2**33])
def test_too_little_memory_is_refused_and_enough_is_not(
    runner: Literal["inline", "ray"], hard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = environment.LEAST_SPACE_KIB[runner]
    for soft in (1024 * needed, 2**40, resource.RLIM_INFINITY):
        monkeypatch.setattr("resource.getrlimit", lambda _, soft=soft: (soft, hard))
        environment.check_space(least_kib=needed)
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024 * needed - 1024, hard))
    with pytest.raises(BadInput) as refused:
        environment.prepare(runner)
    assert str(refused.value).startswith(f"ulimit -v: {needed - 1}: a process may have too little address space")
    assert ("ulimit -v unlimited" in str(refused.value)) == (hard == resource.RLIM_INFINITY)


@pytest.mark.parametrize(
    ("chosen", "count"), [(None, 4), ("", 0), ("-1", 0), ("0,2", 2), ("1,-1,2", 1), (" 0 , 1 ", 2), ("GPU-1f", 1)]
)
def test_a_plan_counts_the_gpus_that_cuda_would_see(
    chosen: str | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvmlInit", "nvmlShutdown"):
        monkeypatch.setattr(f"pynvml.{name}", lambda: None)
    monkeypatch.setattr("pynvml.nvmlDeviceGetCount", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert preflight._visible_gpus() == count  # pyright: ignore[reportPrivateUsage]
