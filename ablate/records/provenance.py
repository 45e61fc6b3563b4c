"""Where a study's numbers come from: commit, versions, machine. Never imports what it reports on."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ray", "optuna", "swanlab", "pyarrow", "accelerate")


def collect(*, data_hash: str) -> dict[str, Any]:
    """study.json's `provenance`. What cannot be found out is null."""
    commit = git("rev-parse", "HEAD")
    return {
        "git_commit": commit,
        "git_dirty": None if commit is None else bool(git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "device": device(),
        "versions": {package: version(package) for package in PACKAGES},
        "data_hash": data_hash,
    }


def command() -> str:
    """The command line of this process, to be pasted into a shell."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def version(package: str) -> str | None:
    """The installed version; None where the package is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> str:
    """What can change a trial's numbers without a change of the code: `ray 2.60.0, torch 2.13.0`."""
    return ", ".join(f"{package} {version(package)}" for package in ("ray", "torch") if version(package))


def device() -> str:
    """Name of the first card, asked of the driver without starting CUDA; `cpu` where there is none."""
    import pynvml  # here, not above: a worker that only writes rows should not load it

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return "cpu"
    try:
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    except pynvml.NVMLError:
        return "cpu"
    finally:
        pynvml.nvmlShutdown()


def git(*arguments: str) -> str | None:
    """What git says about this project's own folder; None outside of a repository, without a commit, without git."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
