"""Starting a Ray of our own, or joining one, quietly; and leaving nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.job_config import JobConfig

from ablate.errors import BadInput

_OBJECT_STORE_BYTES = 100 * 2**20
"""Trials exchange numbers, not tensors; Ray would take a third of the memory."""

_REACH_S = 5.0
_IS_IT_UP = "is the head node up (`ray status`), and is its token here (`ray get-auth-token` there)?"

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # Train runs in the dashboard's API
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # also how soon an end is noticed
    # A trial waits for its turn: on a cluster that others use too for as long as theirs take, and that is no failure.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "31536000",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what a trial prints goes where the rest of its output goes
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less a trial; a preempted trial is a lost one
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables go to stdout
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours tells the trials first
    "TUNE_FORCE_TRIAL_CLEANUP_S": "3",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


@dataclass(frozen=True)
class Cluster:
    """A Ray that this process is connected to. `dashboard` is None where there is none."""

    dashboard: str | None
    cpus: float
    gpus: float
    cuda: bool


@contextmanager
def connect(
    study: str, *, address: str | None = None, cpus: int | None = None, gpus: int | None = None
) -> Iterator[Cluster]:
    """Start a private Ray on this machine, or join the one at `address`, and leave it in the end, whatever happens.

    `cpus` and `gpus` are logical counts for a private one; None takes what is found. What Ray prints goes to a file
    while the context lasts: stdout is for answers. Raises BadInput where `address` cannot be joined.
    """
    folder = Path(tempfile.mkdtemp(prefix="ablate-"))
    with contextlib.ExitStack() as stack:
        stack.push(_Logs(folder).tidy)
        stack.enter_context(_quiet(folder / "ray.log"))
        if address is None:
            info = stack.enter_context(_private(study, folder=folder, cpus=cpus, gpus=gpus))
        else:
            info = stack.enter_context(_joined(study, address=address))
        found = ray.cluster_resources()
        gpus_found = found.get("GPU", 0.0)
        yield Cluster(
            dashboard=f"http://{info.dashboard_url}" if info.dashboard_url else None,
            cpus=found.get("CPU", 0.0),
            gpus=gpus_found,
            cuda=gpus_found > 0 and _worker_has_cuda(),
        )


@dataclass(frozen=True)
class _Logs:
    """The folder that holds Ray's session and what it said; kept where it may explain something."""

    folder: Path

    def tidy(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:  # noqa: ARG002
        if error is None or isinstance(error, (KeyboardInterrupt, BadInput)):
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            error.add_note(f"Ray's logs are in {self.folder}")


@contextmanager
def _private(study: str, *, folder: Path, cpus: int | None, gpus: int | None) -> Iterator[Any]:
    # Pinned before the start, so that every process of this Ray inherits it: with a second Ray on the host those that
    # look for "the" Ray (the State API, and with it Train's clean-up) would find two and give up.
    host, port = ray.util.get_node_ip_address(), _free_port()
    pinned = {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"{host}:{port}"}
    with _environment({**_ENVIRONMENT, **pinned}):
        try:
            yield ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                object_store_memory=_OBJECT_STORE_BYTES,
                namespace=study,
                job_config=_job(study, {}),
                log_to_driver=False,
                configure_logging=False,
                _temp_dir=str(folder),
            )
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise BadInput unless something listens at HOST:PORT: Ray itself would try for minutes, and complain in C++."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise BadInput("--address", "", address, f"cannot be reached ({error})", _IS_IT_UP) from None


@contextmanager
def _joined(study: str, *, address: str) -> Iterator[Any]:
    if address != "auto":
        _check_reachable(address)
    environment = {**_ENVIRONMENT, "RAY_ADDRESS": address}
    # A head node asks for a token by default, and Ray shows the one that is here only to a head it has found itself.
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    with _environment(environment):
        try:
            try:
                info = ray.init(
                    address=address,
                    namespace=study,
                    job_config=_job(study, environment),
                    log_to_driver=False,
                    configure_logging=False,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise BadInput("--address", "", address, f"cannot be joined ({error})", _IS_IT_UP) from None
            yield info
        finally:
            ray.shutdown()


def _job(study: str, environment: Mapping[str, str]) -> JobConfig:
    """The job as the dashboard lists it."""
    runtime_env = {"env_vars": dict(environment)} if environment else {}
    return JobConfig(metadata={"job_name": f"ablate: {study}", "study": study}, runtime_env=runtime_env)


def _worker_has_cuda() -> bool:
    """Whether torch sees a card where Ray gives one: asked on a worker, since Ray hides cards from everybody else."""

    @ray.remote(num_cpus=0, num_gpus=0.001)
    def ask() -> bool:
        import torch

        return torch.cuda.is_available()

    return ray.get(ask.remote())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for as long as the context lasts."""
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
    """Send what Ray logs and prints in this process to a file: stdout is for answers and stderr for the live table.

    Whoever wants to be seen keeps the stream of before.
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
