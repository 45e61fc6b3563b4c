"""Engines: DeepSpeed's configuration, and the errors where it cannot run. DeepSpeed itself does not run here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from ablate.cli import BAD_INPUT, guarded
from ablate.errors import BadInput
from ablate.spec import study_file
from ablate.sweep import main as sweep
from model import checkpoint, engine
from model import train as command
from model.api import ConfigError, check_packages, resolve
from model.config import deepspeed_config
from model.trainer import Trainer
from tests import ROOT, study_files
from tests.model import rank_program
from tests.study_files import GOOD

DEEPSPEED = {"train.engine": "deepspeed"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of DeepSpeed's name, empty: enough for what asks whether there is one."""
    fake = ModuleType("deepspeed")
    fake.__spec__ = importlib.util.spec_from_loader("deepspeed", loader=None)
    monkeypatch.setitem(sys.modules, "deepspeed", fake)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No DeepSpeed, whether or not this machine has it."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else real(name))


def test_deepspeed_config_overrides_the_launchers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Accelerate's own plugin, whose environment says otherwise."""
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7")
    monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", "9.0")
    config = resolve("seed-1.4.6", {"data.train": "x.jsonl", **DEEPSPEED})
    plugin = engine.Zero2(hf_ds_config=deepspeed_config(config, ranks=2, bf16=True))
    plugin.set_mixed_precision("no")
    assert plugin.zero_stage == 2
    assert plugin.gradient_accumulation_steps == 12
    assert plugin.deepspeed_config == {
        "train_micro_batch_size_per_gpu": 24,
        "gradient_accumulation_steps": 12,
        "train_batch_size": 24 * 12 * 2,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "torch_autocast": {"enabled": True, "dtype": "bfloat16"},
        "steps_per_print": float("inf"),
    }


def test_deepspeed_config_of_fp32_has_no_autocast() -> None:
    settings = deepspeed_config(resolve("tiny", DEEPSPEED), ranks=1, bf16=False)
    assert settings["torch_autocast"]["enabled"] is False


def test_deepspeed_refuses_fp64() -> None:
    with pytest.raises(ConfigError, match=r"train\.precision: fp64: not with train\.engine deepspeed; use fp32"):
        resolve("tiny", {**DEEPSPEED, "train.precision": "fp64"})


def test_deepspeed_refuses_a_refresh() -> None:
    keys = {**DEEPSPEED, "model.refresh": "frequency"}
    with pytest.raises(ConfigError, match=r"model\.refresh: frequency: not with train\.engine deepspeed; use none"):
        resolve("tiny", keys)
    assert resolve("tiny", {**keys, "model.memory": "blind"}).model.refresh == "frequency", "which refreshes nothing"


@pytest.mark.usefixtures("missing")
def test_the_command_without_deepspeed_is_one_line_of_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert command.main(["--set", "train.engine=deepspeed", "--out", str(out)]) == BAD_INPUT
    assert capsys.readouterr().err == (
        "train.engine: deepspeed: DeepSpeed is not installed; pip install 'ablate[deepspeed]', or use ddp\n"
    )
    assert not out.exists()


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize(("text", "line"), [
    (GOOD.replace("preset: tiny", "preset: tiny\n  train.engine: deepspeed"), 4),
    (GOOD.replace("search:", "search:\n  train.engine: {choice: [ddp, deepspeed]}"), 6),
    (GOOD + "ablation: {seeds: 6, arms: {zero: {train.engine: deepspeed}}}\n", 10),
])  # fmt: skip
def test_a_study_without_deepspeed_is_refused_before_it_starts(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(BadInput, match=rf"study\.yaml:{line}: .*train\.engine: deepspeed: DeepSpeed is not installed"):
        study_file.check_installed(study_files.load(tmp_path, text=text))
    results = tmp_path / "results"
    flags = [str(tmp_path / "study.yaml"), "--results", str(results)]
    assert guarded(lambda: sweep(flags)) == BAD_INPUT
    assert not results.exists()


@pytest.mark.usefixtures("installed")
def test_deepspeed_needs_workers(tmp_path: Path) -> None:
    text = GOOD.replace("preset: tiny", "preset: tiny\n  train.engine: deepspeed")
    study_file.check_installed(study_files.load(tmp_path, "resources.workers=1", text=text))
    with pytest.raises(
        BadInput, match=r"study\.yaml:4: .*deepspeed: with resources\.workers: 0 nothing starts its ranks"
    ):
        study_file.check_installed(study_files.load(tmp_path, "resources.workers=0", text=text))


@pytest.mark.parametrize(("text", "line"), [
    (GOOD, 2),
    (GOOD.replace("search:", "search:\n  train.batch_size: {choice: [6, 8]}"), 6),
    (GOOD + "ablation: {seeds: 6, arms: {larger: {train.batch_size: 8}}}\n", 10),
])  # fmt: skip
def test_a_study_whose_workers_cannot_share_a_batch_is_refused(tmp_path: Path, text: str, line: int) -> None:
    sets = ["resources.workers=3", *(["base.train.batch_size=6"] if text is not GOOD else [])]
    rule = rf"{line}: .*train\.batch_size: 8: not divisible by 3 ranks; try 6 or 9, or other ranks"
    with pytest.raises(BadInput, match=rule):
        study_file.check_installed(study_files.load(tmp_path, *sets, text=text))
    study_file.check_installed(study_files.load(tmp_path, "resources.workers=2", *sets[1:], text=text))


@pytest.mark.usefixtures("installed")
def test_deepspeed_needs_a_gpu_and_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve("tiny", DEEPSPEED)
    check_packages(config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="CUDA sees no GPU; use ddp"):
        engine.start(config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match="no launcher started this process"):
        engine.start(config)


def test_the_launchers_deepspeed_flag_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert engine.start(resolve("tiny", {})).state.deepspeed_plugin is None


def test_a_checkpoint_without_moments_is_readable_and_not_resumed_from(tmp_path: Path) -> None:
    """What a run under DeepSpeed leaves."""
    config = resolve("tiny", {"model.dim": 32, "model.n_heads": 2, "eval.val_tokens": 256})
    trainer = Trainer(config, checkpoint_dir=tmp_path)
    progress = checkpoint.Progress(step=3, tokens_seen=3, wall_s=0.0, metrics={})
    about = {"config": config, "data_hash": trainer.data_hash, "model": trainer.model, "progress": progress}
    path = checkpoint.save(tmp_path, **about, optimizer=None)
    assert torch.equal(load_file(path / checkpoint.MODEL)["bank.tokens_NL"], trainer.model.bank.tokens_NL)
    assert not (path / checkpoint.OPTIMIZER).exists()
    found = checkpoint.latest(tmp_path, config=config, data_hash=trainer.data_hash, model=trainer.model)
    assert found == checkpoint.Found(None, ())


PROGRAM = """
import sys
from pathlib import Path
from model import engine
from tests.model import rank_program
engine._check_deepspeed_can_start = lambda: None  # there is no GPU
rank_program.run(Path(sys.argv[1]), "fp32", engine="deepspeed")
assert "deepspeed" in sys.modules
"""


@pytest.mark.slow  # tests/model/test_ranks.py has the same steps through DDP
def test_a_run_through_deepspeed_equals_one_through_ddp(tmp_path: Path) -> None:
    """Through Accelerate's own DeepSpeed path, with an engine that does what the real one is documented to do: nothing
    is divided twice, rates are set before the backward that steps, and the moments are not looked for."""
    tests = Path(__file__).parent
    metadata = tmp_path / "site" / "deepspeed-0.19.8.dist-info" / "METADATA"  # what Accelerate takes for installed
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.19.8\n")
    path = os.pathsep.join(map(str, (ROOT, tests / "fake_deepspeed", tmp_path / "site")))
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {**os.environ, **ranks, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    deepspeed = load_file(tmp_path / "fp32-rank-0.safetensors")
    rank_program.run(tmp_path / "ddp", "fp32")
    ddp = load_file(tmp_path / "ddp" / "fp32-rank-0.safetensors")
    assert [name for name in ddp if not torch.equal(ddp[name], deepspeed[name])] == []
