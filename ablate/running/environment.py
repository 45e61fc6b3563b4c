"""Makes what a command was started with fit for trials: no launcher's variables, a home, enough files to open."""

from __future__ import annotations

import atexit
import getpass
import os
import re
import resource
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ablate.errors import BadInput

_LAUNCHERS = re.compile(
    r"(LOCAL_|GROUP_|ROLE_|NODE_|CROSS_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|ROLE_NAME"  # torchrun
    r"|(TORCHELASTIC|ACCELERATE|FSDP)_.*"  # torchrun, accelerate launch
    r"|(OMPI|PRTE|PMI|MV2|MPI_LOCAL|PALS|JSM).*"  # Open MPI, MPICH and its kin, MVAPICH, Cray's and IBM's
    r"|FLUX_(TASK|JOB_SIZE|JOB_NNODES|PMI).*"  # flux run, not the instance itself
    r"|SLURM_(PROCID|LOCALID|NODEID|NTASKS|NPROCS|STEP.*|TASK.*|SRUN.*|MPI.*|PMI.*)"  # srun, not the job itself
)
"""Variables by which a launcher tells a process that it is one of several."""

_ENOUGH_FILES = 65_536
"""More than a private Ray of a large machine opens."""

LEAST_FILES = {"inline": 64, "ray": 256}
"""Files that a process must be able to open. On two cores Ray's own processes open up to 82, with more workers more;
with too few they hang."""

LEAST_SPACE_KIB = {"inline": 3_000_000, "ray": 4_000_000}
"""Address space of a process, as `ulimit -v` counts it, in which a study of `tiny` trains on two cores. In 2_300_000
(inline) and 3_000_000 (Ray) libraries cannot be loaded; in less, threads abort or hang."""


def prepare(runner: Literal["inline", "ray"]) -> None:
    """Make this process, and those that it starts, fit for trials. Raises BadInput where `ulimit` allows too few open
    files or too little memory."""
    check_space(least_kib=LEAST_SPACE_KIB[runner])
    allow_open_files(least=LEAST_FILES[runner])
    forget_launchers()
    _give_home()


def forget_launchers() -> None:
    """Remove what an outer launcher left in this process's environment (a shell of `salloc`, a job of `srun`, mpirun).

    A study places its ranks itself. With these variables a trial would wait for ranks that nobody starts.
    """
    for name in list(os.environ):
        if _LAUNCHERS.fullmatch(name):
            del os.environ[name]


def allow_open_files(*, least: int) -> None:
    """Raise this process's limit of open files where it is low. Raises BadInput where fewer than `least` are allowed:
    Ray hangs then, without a word."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _ENOUGH_FILES:
        wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
        with suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed != resource.RLIM_INFINITY and allowed < least:
        hint = f"raise the hard limit (`ulimit -Hn {least}`, or limits.conf), or train with --inline"
        raise BadInput("ulimit -n", "", allowed, f"a process may open too few files, {least} are needed", hint)


def check_space(*, least_kib: int) -> None:
    """Raise BadInput where a process may not have this much address space. No process can raise the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < 1024 * least_kib:
        ways = "`ulimit -v unlimited`" if hard == resource.RLIM_INFINITY else "the job's memory, or limits.conf"
        rule = f"a process may have too little address space, {least_kib} KiB are needed"
        raise BadInput("ulimit -v", "", soft // 1024, rule, f"raise it ({ways})")


def _give_home() -> None:
    """Give a user without a home or a name (a container's bare uid) both: Ray, torch and SwanLab ask for them when they
    are imported. The home is a temporary folder, which is removed when this process ends."""
    try:
        has_home = Path.home().is_dir()
    except (RuntimeError, OSError):
        has_home = False
    if not has_home:
        os.environ["HOME"] = tempfile.mkdtemp(prefix="ablate-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
    try:
        getpass.getuser()
    except (KeyError, OSError):  # before Python 3.13, and since
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
