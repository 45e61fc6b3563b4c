"""Locations as you write them: folders and URLs. A wrong one is refused in one line, and quickly."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ablate import cli
from ablate.errors import BadInput
from ablate.records import locations
from ablate.records.locations import Url
from ablate.report import writer
from tests.records import s3


@pytest.mark.parametrize("text", ["results", "/a/b", "a:b", "~/x", "s3", "C:/x"])
def test_a_folder_is_a_path(text: str):
    assert locations.parse(text) == Path(text)


def test_a_url_extends_like_a_path_and_keeps_its_endpoint(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    url = locations.parse("s3://bucket/some/prefix/")
    assert isinstance(url, Url)
    assert str(url / "ema/report") == "s3://bucket/some/prefix/ema/report"
    assert (url / "ema").name == "ema"
    assert (url.endpoint, url.region) == ("http://127.0.0.1:9000", "eu-west-1")
    whole = locations.parse(url.whole())
    assert isinstance(whole, Url)
    assert (whole.endpoint, whole.region, whole.key) == (url.endpoint, url.region, url.key)
    given = locations.parse("s3://bucket?endpoint_override=minio:9000&scheme=http&region=x")
    assert isinstance(given, Url)
    assert (given.endpoint, given.region) == ("http://minio:9000", "x"), "what the URL says comes first"
    assert str(given / "a") == "s3://bucket/a?endpoint_override=minio%3A9000&scheme=http&region=x"


def test_every_store_has_its_own_folder_of_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = ("s3://bucket/a", "s3://bucket/b", "gs://bucket/a", "s3://bucket/a?endpoint_override=h:1")
    folders = {locations.cache(url) for url in map(locations.parse, texts) if isinstance(url, Url)}
    assert len(folders) == len(texts)
    assert all(folder.is_relative_to(tmp_path) for folder in folders)


WRONG = {
    "ftp://host/x": "ftp://host/x: results cannot be kept under ftp://; give a folder, s3://",
    "file:///tmp/x": "results cannot be kept under file://",
    "s3://": "not a name of a bucket",
    "s3:///prefix": "not a name of a bucket",
    "s3:bucket/prefix": "not a name of a bucket",
    "gs://b": "not a name of a bucket",
    "s3://bucket/../x": "empty, `.` or `..`",
    "s3://bucket/a//b": "empty, `.` or `..`",
    "s3://bucket/x?regoin=eu": "regoin: not a parameter of s3:// URLs; one of endpoint_override, scheme, region",
    "s3://bucket/x?secret_key=hunter2": "keys come from the environment",
    "s3://me:hunter2@bucket/x": "contains a key",
    "s3://bucket/x?endpoint_override=http://me:hunter2@a:1": "endpoint: ...@a:1: contains a key, which would be",
    "s3://bucket/x?endpoint_override=http://me:hunter2@a:1?k=hunter2": "endpoint: ...@a:1: contains a key",
    "s3://bucket/x?endpoint_override=http://a/b": "not HOST:PORT",
    "s3://bucket/x?endpoint_override=h:1&scheme=ftp": "not HOST:PORT with http or https",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_url_is_refused_in_one_line(text: str):
    with pytest.raises(BadInput) as caught:
        locations.parse(text)
    assert WRONG[text] in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], *, within_s: float = 15.0) -> str:
    """The one line by which the report's command refuses, with exit code 2 and in time."""
    began = time.monotonic()
    assert cli.guarded(lambda: writer.main(argv)) == cli.BAD_INPUT
    assert time.monotonic() - began < within_s
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_a_missing_bucket_is_refused(bucket: Url, capsys: pytest.CaptureFixture[str]):
    said = refused(["latest", "--results", "s3://no-such-bucket/x"], capsys)
    assert said == "s3://no-such-bucket/x: there is no bucket no-such-bucket; create it, or correct its name\n"
    said = refused(["ema", "--results", f"{bucket}"], capsys)
    assert "ema: no such study; run one" in said, "an empty bucket is not an error"


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_unreachable_server_is_refused(
    scheme: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
    url = f"{scheme}://bucket/x?endpoint_override={host}&scheme=http"
    said = refused(["latest", "--results", url], capsys)
    assert f"http://{host} cannot be reached" in said or (scheme == "gs" and "access is denied" in said)


def test_a_silent_server_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{mute.getsockname()[1]}")
        assert "cannot be reached" in refused(["latest", "--results", "s3://bucket/x"], capsys)


class Denying(BaseHTTPRequestHandler):
    """A store that answers as S3 does to who may not (moto checks no keys)."""

    code = ""

    def do_GET(self) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>no: AKIAWRONG</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_missing_or_wrong_keys_are_refused(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for name in s3.KEYS:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    if code != "AccessDenied":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    server = HTTPServer(("127.0.0.1", 0), type("Handler", (Denying,), {"code": code}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        said = refused(["latest", "--results", "s3://bucket/x"], capsys)
    finally:
        server.shutdown()
        server.server_close()
    assert "access is denied; put keys that may read and write it into the environment: AWS_ACCESS_KEY_ID" in said
    assert "wrong" not in said.lower()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sweep study.yaml", "report x", "status x", "rerun x"])
def test_every_command_refuses_in_one_line(command: str, tmp_path: Path):
    module, name = command.split()
    (tmp_path / "study.yaml").write_text("study: x\nbase: {preset: tiny, data: {corpus: facts}}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", f"ablate.{module}", name, "--results", "s4://bucket/x"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (cli.BAD_INPUT, "")
    assert done.stderr.count("\n") == 1
    assert "results cannot be kept under s4://" in done.stderr
