"""Starts a private Ray or joins a running one, keeps its output out of the terminal, and cleans up at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.job_config import JobConfig
from ray.tune.execution import class_cache
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.errors import BadInput
from ablate.running.ray import auth_token, orphans, session_folder
from ablate.running.ray.daemons import Daemons, sigterm_is_ours
from ablate.running.runner import undisturbed
from ablate.scheduling.placement import Node

_OBJECT_STORE_BYTES = 100 * 2**20
"""Trials exchange numbers, not tensors. Ray's default would be a third of the memory."""

_LOOPBACK = "127.0.0.1"
"""The address that a private Ray's servers bind to, so that no other machine reaches them."""

_CONNECT_TIMEOUT_S = 5.0
_GPU_PROBE_TIMEOUT_S = 60.0
_ADDRESS_HINT = "is the head node up (`ray status`), and is its token here (`ray get-auth-token` there)?"

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # Train runs in the dashboard's API
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # also how soon the end of a worker is noticed
    # On a shared cluster a trial waits as long as other jobs' trials take; that is not a failure.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "31536000",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # a trial's prints go to its other output
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # saves a process per trial; a preempted trial counts as lost
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables would go to stdout
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "3",
    "TUNE_MAX_PENDING_TRIALS_PG": "16",  # with a searcher the default is 1; the gate limits the number
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # wait for an actor whose last trial's thread ends slowly
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}

_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes loopback the node's address, to which alone its servers bind; this is Ray's default on Windows and macOS. (Ray
replaces 127.0.0.1 in `_node_ip_address` by the host's outer address, and otherwise binds to all.)"""


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process is connected to. `dashboard`: its URL, or None; `card_gib`: the memory of the smallest
    GPU, 0 without one; `mps`: whether an MPS daemon runs on every machine with GPUs; `token`: the file of a private
    Ray's own token."""

    dashboard: str | None
    cuda: bool
    nodes: tuple[Node, ...]
    card_gib: float = 0.0
    mps: bool = False
    token: Path | None = None


@contextmanager
def connect(
    study: str,
    *,
    address: str | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    use_mps: Literal["auto", "off"] = "auto",
    environment: Mapping[str, str] | None = None,
    note: Path | None = None,
    on_death: Callable[[str], object] = id,
    stuck: Callable[[str], object] = id,
) -> Iterator[Cluster]:
    """Start a private Ray on this machine or join the one at `address`. Shut down or leave it at the end in every case.

    `cpus` and `gpus` are logical counts for a private Ray; None takes what Ray finds. `use_mps`: `off` keeps trials
    away from an MPS daemon. `environment`: variables for the trials' processes. `note`: the file by which `orphans.end`
    finds the private Ray of a killed driver. `on_death`, `stuck`: see Daemons; before `stuck` Ray's other processes are
    ended. Ray's output goes to a file, because stdout is for the command's answer. Raises BadInput if `address` cannot
    be joined, or if Ray's sockets fit in no folder.
    """
    folder, token = session_folder.make(), None
    with contextlib.ExitStack() as stack:
        stack.push(_Logs(folder).tidy)
        stack.enter_context(_quiet(folder / "ray.log"))
        own = {**(environment or {}), **(MPS_OFF if use_mps == "off" else {})}
        stack.enter_context(_environment(own))  # inherited by every process of a private Ray
        stack.enter_context(_no_keys_in_files())
        if address is None:
            if note is not None:
                orphans.Session.ours(folder).write(note)
            token = auth_token.make(folder)
            daemons = Daemons(on_death, stuck=partial(_leave, folder, stuck), temporary=folder)
            info = stack.enter_context(
                _private(study, folder=folder, token=token, daemons=daemons, cpus=cpus, gpus=gpus)
            )
        else:
            info = stack.enter_context(_joined(study, address=address, own=own))
        seen = _worker_gpus()
        yield Cluster(
            dashboard=f"http://{info.dashboard_url}" if info.dashboard_url else None,
            cuda=any(gpu.cuda for gpu in seen),
            nodes=tuple(_node(row) for row in ray.nodes() if row["Alive"]),
            card_gib=min((gpu.gib for gpu in seen if gpu.cuda), default=0.0),
            mps=bool(seen) and all(gpu.mps for gpu in seen),
            token=token,
        )


@dataclass(frozen=True)
class _Logs:
    """The folder of Ray's session and output. It is kept after an unexpected error, as it may explain it."""

    folder: Path

    def tidy(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:  # noqa: ARG002
        if error is None or isinstance(error, (KeyboardInterrupt, BadInput)):
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            error.add_note(f"Ray's logs are in {self.folder}")


def _leave(folder: Path, stuck: Callable[[str], object], death: str) -> None:
    orphans.end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)
    stuck(death)


@contextmanager
def _private(
    study: str, *, folder: Path, token: Path | None, daemons: Daemons, cpus: int | None, gpus: int | None
) -> Iterator[Any]:
    # Every process of this Ray inherits the address. Without it, the State API (which Train's clean-up uses) fails on
    # a host with a second Ray, since it finds two.
    port = _free_port()
    pinned = {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"{_LOOPBACK}:{port}"}
    own = {auth_token.PATH: str(token)} if token else {}
    with (
        _environment({**_ENVIRONMENT, **_LOOPBACK_ONLY, **pinned, **own}),
        _loopback_only(),
        auth_token.read_anew(),
    ):
        try:
            with daemons:
                with daemons.starting(), sigterm_is_ours():
                    info = ray.init(
                        address="local",
                        num_cpus=cpus,
                        num_gpus=gpus,
                        include_dashboard=True,
                        dashboard_host=_LOOPBACK,
                        object_store_memory=_OBJECT_STORE_BYTES,
                        namespace=study,
                        job_config=_job(study, {}),
                        log_to_driver=False,
                        configure_logging=False,
                        _temp_dir=str(folder / session_folder.RAY),
                    )
                daemons.watch()
                yield info
        finally:
            with undisturbed():
                ray.shutdown()
                orphans.end_processes(folder)


def _check_reachable(address: str) -> None:
    """Raise BadInput unless something listens at HOST:PORT. Ray itself would retry for minutes and print C++ errors."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise BadInput("--address", "", address, f"cannot be reached ({error})", _ADDRESS_HINT) from None


@contextmanager
def _joined(study: str, *, address: str, own: Mapping[str, str]) -> Iterator[Any]:
    auth_token.check_private()
    if address != "auto":
        _check_reachable(address)
    environment = {**_ENVIRONMENT, "RAY_ADDRESS": address}
    # A head node asks for a token by default, but Ray sends the local one only to a head that it found by itself.
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    with _environment(environment):
        try:
            try:
                with sigterm_is_ours():
                    info = ray.init(
                        address=address,
                        namespace=study,
                        job_config=_job(study, {**environment, **own}),
                        log_to_driver=False,
                        configure_logging=False,
                    )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise BadInput("--address", "", address, f"cannot be joined ({error})", _ADDRESS_HINT) from None
            yield info
        finally:
            with undisturbed():
                ray.shutdown()


def _job(study: str, environment: Mapping[str, str]) -> JobConfig:
    """The job's name and metadata, as the dashboard lists them."""
    runtime_env = {"env_vars": dict(environment)} if environment else {}
    return JobConfig(metadata={"job_name": f"ablate: {study}", "study": study}, runtime_env=runtime_env)


@dataclass(frozen=True)
class _Gpu:
    """What a worker sees of a machine's GPU: whether torch can use it, its memory, whether MPS serves it."""

    cuda: bool
    gib: float
    mps: bool


def _worker_gpus() -> list[_Gpu]:
    """Look at the GPU from a worker on every machine that has one, because Ray hides GPUs from other processes.

    Does not wait for a machine whose GPUs are taken, as long as another machine answers.
    """

    @ray.remote(num_cpus=0, num_gpus=0.001)
    def look() -> _Gpu:
        import torch

        if not torch.cuda.is_available():
            return _Gpu(cuda=False, gib=0.0, mps=False)
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        return _Gpu(cuda=True, gib=gib, mps=mps_is_up(os.environ))

    names = [row["NodeID"] for row in ray.nodes() if row["Alive"] and row["Resources"].get("GPU", 0)]
    strategies = [NodeAffinitySchedulingStrategy(name, soft=False) for name in names]
    looks = [look.options(scheduling_strategy=strategy).remote() for strategy in strategies]
    if not looks:
        return []
    seen, _ = ray.wait(looks, num_returns=len(looks), timeout=_GPU_PROBE_TIMEOUT_S)
    return ray.get(seen or looks[:1])


def _node(row: Mapping[str, Any]) -> Node:
    """A machine of the cluster, from its row in `ray.nodes()`."""
    has = row["Resources"]
    return Node.of(
        row["NodeID"],
        cpus=has.get("CPU", 0.0),
        gpus=int(has.get("GPU", 0.0)),
        host_gib=has.get("memory", 0.0) / 2**30,
    )


@contextmanager
def _no_keys_in_files() -> Iterator[None]:
    """Inside, Tune forwards no keys to its actors.

    It would put AWS_SECRET_ACCESS_KEY and the like into the actors' runtime environment, which Ray writes into logs and
    shows on the dashboard. Ray's processes have the keys by inheritance, on a cluster from `ray start`. Ray's own
    variables are still forwarded.
    """
    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in before if name.startswith("RAY_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((_LOOPBACK, 0))
        return free.getsockname()[1]


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Apply _LOOPBACK_ONLY to this process, which read the variable when it imported Ray."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the context lasts."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update({name: before[name] for name in values if name in before})


@contextmanager
def _quiet(path: Path) -> Iterator[None]:
    """Send what Ray logs and prints in this process to a file: stdout is for the answer, stderr for the live table.

    Code that wants to print keeps the earlier stream.
    """
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    with path.open("w", encoding="utf-8", buffering=1) as file:
        handler = logging.StreamHandler(file)
        kept = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            for logger, handlers, propagate in kept:
                logger.handlers, logger.propagate = handlers, propagate


# ---- CUDA's Multi-Process Service, under which kernels of several processes run at once. Nothing here starts a daemon.

MPS_PIPES = "CUDA_MPS_PIPE_DIRECTORY"
"""The variable that says where the daemon listens (docs.nvidia.com/deploy/mps, 4.2.2)."""

MPS_OFF = {MPS_PIPES: os.devnull}
"""A place where no daemon listens: a program that reaches none runs as without MPS (man nvidia-cuda-mps-control)."""


def mps_is_up(environment: Mapping[str, str]) -> bool:
    """Whether a program with this environment finds a live daemon."""
    folder = Path(environment.get(MPS_PIPES, "/tmp/nvidia-mps"))
    try:
        pid = int((folder / "nvidia-cuda-mps-control.pid").read_text())
        os.kill(pid, 0)
    except PermissionError:
        return True  # it lives, and belongs to another user
    except (OSError, ValueError, OverflowError):
        return False
    return pid > 0
