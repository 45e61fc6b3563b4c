"""A local S3 server for tests, in a process of its own (`python -m tests.records.s3 PORT`), and what a command needs to
find it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from ablate.records import locations
from ablate.records.locations import Url
from tests import ROOT

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "a-secret-that-is-written-nowhere"}


@contextmanager
def serving(log: Path) -> Iterator[str]:
    """The endpoint of a server that is up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.records.s3", str(port)],
            cwd=ROOT,
            stdout=out,
            stderr=out,
        )
    try:
        end = time.monotonic() + 90
        while True:
            assert server.poll() is None, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < end, f"no server after 90 s: {log.read_text()}"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def bucket(endpoint: str, prefix: str = "studies") -> Url:
    """A prefix in a bucket of its own."""
    protocol, _, host = endpoint.partition("://")
    name = f"b-{uuid.uuid4().hex[:12]}"
    files = fs.S3FileSystem(
        access_key=KEYS["AWS_ACCESS_KEY_ID"],
        secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        scheme=protocol,
        endpoint_override=host,
        region="us-east-1",
        allow_bucket_creation=True,
    )
    files.create_dir(name)
    url = locations.parse(f"s3://{name}/{prefix}")
    assert isinstance(url, Url)
    return url


def _serve(port: int) -> None:
    """moto, one request at a time: it checks the condition of a write and then writes, which S3 does in one step."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ, start_response):
        with turn:
            return moto(environ, start_response)

    run_simple("127.0.0.1", port, one_at_a_time, threaded=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
