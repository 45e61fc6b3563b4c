"""Checks docs/clusters.md as far as possible without a cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from tests import ROOT

PAGE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
SCRIPTS = [text for language, text in BLOCKS if language in ("sh", "bash")]
FILES = [yaml.safe_load(text) for language, text in BLOCKS if language == "yaml"]
RAYJOB = next(file for file in FILES if "kind" in file)
CLUSTER = next(file for file in FILES if "cluster_name" in file)
SLURM = next(text for language, text in BLOCKS if language == "bash")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_valid_bash(script: str):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def commands() -> list[list[str]]:
    """Every `ray ...` and `python -m ablate...` command of the page, as lists of words."""
    texts = [
        *SCRIPTS,
        RAYJOB["spec"]["entrypoint"],
        *CLUSTER["head_start_ray_commands"],
        *CLUSTER["worker_start_ray_commands"],
    ]
    found = []
    for text in texts:
        for line in text.replace("\\\n", " ").replace("&&", "\n").replace("; ", "\n").splitlines():
            words = line.split("#")[0]
            if match := re.search(r"(\bray (start|status|up|down|exec|get-auth-token)|python -m ablate\.).*", words):
                found.append(shlex.split(match[0].replace("'", " ")))
    return found


@cache
def help_of(*command: str) -> str:
    return subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
def test_every_option_exists():
    checked = 0
    for words in commands():
        if words[0] == "ray":
            shown = help_of(str(Path(sys.executable).with_name("ray")), words[1])
            options = words[1 : words.index("cluster.yaml")] if "cluster.yaml" in words else words[1:]
        else:
            shown, options = help_of(sys.executable, "-m", words[2]), words[3:]
        for option in (word.split("=")[0] for word in options if word.startswith("--")):
            assert re.search(rf"{option}\b", shown), (words, option)
            checked += 1
    assert checked > 15
    assert all((ROOT / word).exists() for words in commands() for word in words if word.startswith("search_spaces/"))


def test_the_cluster_file_passes_rays_schema():
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(CLUSTER, schema)
    assert CLUSTER["head_node_type"] in CLUSTER["available_node_types"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**CLUSTER, "setup_comands": []}, schema)


FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        "entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "activeDeadlineSeconds",
        "submissionMode", "runtimeEnvYAML", "rayClusterSpec",
    },
    "rayClusterSpec": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "headGroupSpec": {"rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
    "template": {"spec"},
    "pod": {"terminationGracePeriodSeconds", "containers"},
    "containers": {"name", "image", "workingDir", "envFrom", "resources"},
}  # fmt: skip
"""Where -> fields of ray.io/v1, as far as the page uses them."""


def test_the_ray_job_has_only_known_fields():
    def check(node: Any, at: str) -> None:
        if isinstance(node, list):
            for one in node:
                check(one, at)
        elif isinstance(node, dict):
            assert at not in FIELDS or node.keys() <= FIELDS[at], at
            for key, value in node.items():
                check(value, "pod" if (at, key) == ("template", "spec") else key)

    check(RAYJOB, "")
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"\nray=={cluster['rayVersion']}\n" in pins
    start = help_of(str(Path(sys.executable).with_name("ray")), "start")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(f"--{name}" in start and isinstance(value, str) for name, value in group["rayStartParams"].items())


STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then echo one; echo two; else echo "$@" >> "$NOTES"; fi\n',
    "srun": 'while [ "${1#-}" != "$1" ]; do [ "$1" = -w ] && shift; shift; done; exec "$@"\n',
    "hostname": "echo 10.0.0.1 10.0.0.2\n",
    "ray": 'echo "ray $*" >> "$NOTES"\n',
    "python": 'echo "$@" >> "$NOTES"; trap "exit 130" TERM; for i in $(seq 600); do sleep 0.1; done\n',
}


@pytest.mark.parametrize(("ends", "requeued"), [("TERM", True), (0, False), (3, False)])
def test_the_slurm_script_passes_the_signal_on_and_requeues(ends: str | int, requeued: bool, tmp_path: Path):
    # The sweep ends only after the second node's `ray` has noted its start; otherwise the job could end before that.
    ended = f'until grep -q -- --address=10.0.0.1:24711 <(grep start "$NOTES"); do sleep 0.1; done; exit {ends}\n'
    stand_ins = STAND_INS if ends == "TERM" else {**STAND_INS, "python": ended}
    for name, text in stand_ins.items():
        path = tmp_path / ".venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/bash\n" + text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f'PATH="{tmp_path}/.venv/bin:$PATH"\n')
    (tmp_path / "job.sh").write_text(SLURM)
    notes = tmp_path / "notes"
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "NOTES": str(notes), "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "one,two", "SLURM_CPUS_PER_TASK": "8",
    }  # fmt: skip
    job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environment, start_new_session=True)
    try:
        if ends == "TERM":
            end = time.monotonic() + 60
            while not (notes.exists() and "ablate.sweep" in notes.read_text()):
                assert time.monotonic() < end
                time.sleep(0.1)
            time.sleep(0.5)  # the script sets its trap after it starts the sweep
            job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=60) == (130 if ends == "TERM" else ends)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    said = notes.read_text()
    assert ("requeue 4711" in said) is requeued
    assert "ray start --block --disable-usage-stats --num-cpus=8 --head --node-ip-address=10.0.0.1 --port=24711" in said
    assert "ray start --block --disable-usage-stats --num-cpus=8 --address=10.0.0.1:24711" in said
    assert not list((tmp_path / ".ray").glob("token-*")), "the token is removed with the job"
