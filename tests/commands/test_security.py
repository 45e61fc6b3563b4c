"""Security: a study listens only on the loopback, runs nothing that it reads, and writes no key."""

from __future__ import annotations

import ast
import ipaddress
import os
import pickle
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import psutil
import pytest
import torch

from ablate import status
from ablate.cli import BAD_INPUT, guarded
from ablate.report import writer
from tests import ROOT, study_files, synthetic

SOURCES = [path for package in ("ablate", "model") for path in sorted((ROOT / package).rglob("*.py"))]

KEYS = (
    "SWANLAB_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "WANDB_API_KEY",
)


KEEPING = """
import sys, types
from ablate import cli, sweep
from ablate.records import store
from ablate.running.ray import cluster
for module in (store, cluster):
    module.shutil = types.SimpleNamespace(**vars(module.shutil) | {"rmtree": lambda *_, **__: None})
sys.exit(cli.guarded(sweep.main))
"""
"""The command, but nothing that it, Ray or Tune has written is removed."""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["inline", "ray, workers=0", "ray, workers=1"])
@pytest.mark.timeout(900)
def test_no_key_of_the_environment_is_written(how: str, tmp_path: Path):
    secrets = {name: f"SECRET-{name.lower().replace('_', '-')}-0123456789" for name in KEYS}
    study = study_files.tiniest("keys", trials=1, tokens=512, report_every=2)
    space = study_files.write(tmp_path, study.replace("swanlab: disabled", "swanlab: offline"))
    flags = ["--inline"] if how == "inline" else ["--set", f"resources.{how.partition(', ')[2]}"]
    command = [sys.executable, "-c", KEEPING, str(space), "--results", str(tmp_path / "results"), *flags]
    with tempfile.TemporaryDirectory(prefix="a") as short:  # the path of a socket has 107 characters at most
        environment = {**os.environ, **secrets, "TMPDIR": short, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800)
        written = {
            path: path.read_bytes()
            for folder in (tmp_path, Path(short))
            for path in folder.rglob("*")
            if path.is_file()
        }
    assert done.returncode == 0, done.stderr
    names = {path.name for path in written}
    assert {"study.json", "report.html", "optuna.journal"} <= names
    assert how == "inline" or {"runtime_env_agent.log", "gcs_server.out"} <= names, "Ray's logs are among them"
    for secret in secrets.values():
        assert secret not in done.stdout + done.stderr
        assert [path for path, content in written.items() if secret.encode() in content] == []


def test_no_source_unpickles_or_runs_what_it_reads():
    """`pickle`, `torch.load`, `yaml.load` with anything but our loader, `eval`, `exec`, a shell: nowhere."""
    banned = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
            assert not names & banned, f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "yaml.unsafe_load", "os.system"), path
                arguments = {argument.arg: ast.unparse(argument.value) for argument in node.keywords}
                if called in ("yaml.load", "yaml.compose"):
                    assert arguments["Loader"] in ("yaml.BaseLoader", "_Shallow"), path
                assert arguments.get("shell", "False") == "False", path
                assert arguments.get("allow_pickle", "False") == "False", path


@pytest.mark.usefixtures("empty_figures")
def test_reading_results_unpickles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    ledger = synthetic.full_study(tmp_path / "s")
    (ledger.root / "checkpoints").mkdir()
    for name in ("evil.pkl", "checkpoints/evil.pt", "tuner.pkl"):
        (ledger.root / name).write_bytes(pickle.dumps(Path))
    for module, name in ((pickle, "load"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    assert status.collect(ledger).planned == 36
    writer.write(ledger.root, formats=["md", "csv"])


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.system ['touch evil']", "!!python/object/new:os.system {}", "!!python/name:os.system"],
)
def test_yaml_cannot_create_objects(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from ablate import sweep

    monkeypatch.chdir(tmp_path)
    path = study_files.write(tmp_path, study_files.GOOD.replace("study: tides", f"study: {text}"))
    assert guarded(lambda: sweep.main([str(path), "--dry-run"])) == BAD_INPUT
    assert re.fullmatch(r".*study\.yaml:1: .*\n", capsys.readouterr().err)
    assert not (tmp_path / "evil").exists()
    assert (
        guarded(lambda: sweep.main([str(study_files.write(tmp_path)), "--dry-run", f"--set=question={text}"]))
        == BAD_INPUT
    )


def listening(root: psutil.Process) -> dict[str, list[str]]:
    """Address -> the processes that listen there, of `root` and all its descendants."""
    found: dict[str, list[str]] = {}
    for process in (root, *root.children(recursive=True)):
        try:
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found.setdefault(socket.laddr.ip, []).append(f"{process.name()}:{socket.laddr.port}")
        except psutil.Error:  # it has ended
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_private_ray_listens_only_on_the_loopback_and_needs_a_token():
    """In a separate process, so that another test's Ray is not inspected."""
    script = textwrap.dedent(
        """
        import os, sys
        import ray
        from ablate.running.ray.cluster import connect

        with connect("probe", cpus=1, gpus=0) as cluster:
            ray.get(ray.remote(num_cpus=1)(lambda: None).remote())
            print(cluster.dashboard, os.environ.get("RAY_AUTH_MODE"), file=sys.__stdout__, flush=True)
            sys.stdin.readline()
        """
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        dashboard, mode = started.stdout.readline().split()
        found = listening(psutil.Process(started.pid))
        started.communicate("\n", timeout=120)
    assert len(found) >= 1
    names = {name.split(":")[0] for names in found.values() for name in names}
    assert {"gcs_server", "raylet"} <= names, "Ray's servers are among them"
    for address, who in found.items():
        ip = ipaddress.ip_address(address)
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
        assert (mapped or ip).is_loopback, (address, who)
    assert dashboard.startswith("http://127.0.0.1:")
    assert mode == "token"
    assert started.returncode == 0
