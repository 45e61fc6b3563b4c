"""Where a study's numbers come from: code, versions, machine. It imports none of the packages that it lists."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ray", "optuna", "swanlab", "pyarrow", "accelerate")


def collect(*, data_hash: str, code_hash: str | None) -> dict[str, Any]:
    """`provenance` of study.json. What is unknown is null. `code_hash`: of the trainer's code."""
    return {
        **code(code_hash=code_hash),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "device": device(),
        "versions": {package: version(package) for package in PACKAGES},
        "data_hash": data_hash,
    }


def code(*, code_hash: str | None) -> dict[str, Any]:
    """What says which code trains: its commit, whether files of it were changed, and the hash of the trainer's."""
    commit = git("rev-parse", "HEAD")
    dirty = None if commit is None else bool(git("status", "--porcelain", "--untracked-files=no"))
    return {"git_commit": commit, "git_dirty": dirty, "code_hash": code_hash}


def command() -> str:
    """The command line of this process, quoted for a shell."""
    words = sys.orig_argv[1:]
    is_script = bool(words) and Path(words[0]).name == "ablate"  # the console script, by its path
    return shlex.join(["ablate", *words[1:]] if is_script else ["python", *words])


@cache
def version(package: str) -> str | None:
    """The installed version; None where the package is not installed. Read once: every trial asks for it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> str:
    """The packages that can change a trial's numbers though the code stays the same: `ray 2.60.0, torch 2.13.0`."""
    return ", ".join(f"{package} {version(package)}" for package in ("ray", "torch") if version(package))


def device() -> str:
    """Name of the first GPU, read from the driver without starting CUDA; `cpu` where there is none."""
    import pynvml  # not at the top: a worker that only writes rows should not load it

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
    """Output of a git command in this project's folder. None outside a repository, without a commit, without git."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
