"""CUDA's Multi-Process Service, under which kernels of several processes run at once: whether it is there, and how it
is left alone. Nothing here starts or stops a daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PIPES = "CUDA_MPS_PIPE_DIRECTORY"
"""The variable that says where the daemon listens (docs.nvidia.com/deploy/mps, 4.2.2)."""

_DEFAULT = "/tmp/nvidia-mps"
_PID_FILE = "nvidia-cuda-mps-control.pid"

OFF = {PIPES: os.devnull}
"""A place where no daemon listens: a program that cannot reach one runs as it would without MPS (manual page of
nvidia-cuda-mps-control)."""


def is_up(environment: Mapping[str, str]) -> bool:
    """Whether a program with this environment finds a daemon that lives."""
    folder = Path(environment.get(PIPES, _DEFAULT))
    try:
        pid = int((folder / _PID_FILE).read_text())
        os.kill(pid, 0)
    except PermissionError:
        return True  # it lives, and is somebody else's
    except (OSError, ValueError, OverflowError):
        return False
    return pid > 0
