"""Checkpoints: safetensors and JSON, no pickle. A checkpoint is a folder `step-N`, whole or not there at all.

Data order, learning rate and every random stream are pure functions of (seed, step), so weights, bank, AdamW's moments
and a few counters are the entire state.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from model.config import Config

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
DATA = "data_hash"
"""Where STATE says what was trained on (`corpus.Documents.data_hash`)."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `wall_s`: seconds spent so far, over all attempts; `metrics`: the last report's."""

    step: int
    tokens_seen: int
    wall_s: float
    metrics: dict[str, Any]


def save(
    directory: Path,
    *,
    config: Config,
    data_hash: str,
    model: nn.Module,
    optimizer: torch.optim.AdamW | None,
    progress: Progress,
) -> Path:
    """Write `directory/step-N`, then remove older ones: a reader always finds a whole one.

    Called where no gradients are held, which it leaves out. Without an optimiser it holds weights and bank only, and no
    run goes on from it.
    """
    target, draft = directory / f"step-{progress.step}", directory / f"step-{progress.step}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    _write({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, draft / MODEL)
    if optimizer is not None:
        _write(_moments(model, optimizer), draft / OPTIMIZER)
    state = {"config": config.model_dump(), DATA: data_hash, "progress": asdict(progress), "torch": torch.__version__}
    (draft / STATE).write_text(json.dumps(state, indent=2))
    for part in draft.iterdir():
        _fsync(part)
    if target.exists():  # damaged, or another run's: what a run goes on from it does not write again
        shutil.rmtree(target)
    draft.rename(target)
    for older in _whole(directory):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)
    return target


@dataclass(frozen=True)
class Found:
    """What a folder has to go on from: the newest checkpoint of a configuration and its data that can be read whole, if
    there is one, and a line for each newer one of that configuration that cannot, or is of other data."""

    path: Path | None
    passed_over: tuple[str, ...]


def latest(directory: Path, *, config: Config, data_hash: str) -> Found:
    """What there is to go on from; checkpoints of another configuration, of other data or without an optimiser do not
    count, nor do those of earlier versions, which did not say what their data were."""
    passed_over: list[str] = []
    for path in _whole(directory):
        if not (path / OPTIMIZER).exists():
            continue
        try:
            state = json.loads((path / STATE).read_text())
            same = state["config"] == config.model_dump()
            of_data = state[DATA] if DATA in state else "unknown"  # noqa: SIM401
            readable = bool(load_file(path / MODEL)) and bool(load_file(path / OPTIMIZER))
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            passed_over.append(f"checkpoint {path.name} is damaged ({' '.join(str(error).split())[:200]})")
            continue
        if readable and same and of_data == data_hash:
            return Found(path, tuple(passed_over))
        if same:
            passed_over.append(f"checkpoint {path.name} is of other data ({of_data} then, {data_hash} now)")
    return Found(None, tuple(passed_over))


def newest(directory: Path) -> Path | None:
    """The newest checkpoint in a folder, of whatever configuration; None where there is none."""
    return next(iter(_whole(directory)), None)


def load_model(path: Path, model: nn.Module) -> None:
    """Weights and bank of a checkpoint into a model of its configuration."""
    model.load_state_dict(load_file(path / MODEL))


def load(path: Path, *, model: nn.Module, optimizer: torch.optim.AdamW) -> Progress:
    """Everything of a checkpoint; returns where the run stood."""
    load_model(path, model)
    moments = load_file(path / OPTIMIZER)
    for name, parameter in model.named_parameters():
        # The step too: a fused AdamW counts on the device.
        optimizer.state[parameter] = {
            key: moments[f"{name}/{key}"].to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return Progress(**json.loads((path / STATE).read_text())["progress"])


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Raises OSError where the disk is full, as every other write does; safetensors has an error of its own."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        code = re.search(r"\bcode: (\d+)|\bos error (\d+)", str(error))
        if code is None:
            raise
        number = int(code[1] or code[2])
        raise OSError(number, os.strerror(number), str(path)) from error


def _moments(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """AdamW's state by parameter name; names outlive the order that optimisers number them by."""
    moments = {}
    for name, parameter in model.named_parameters():
        for key, tensor in optimizer.state[parameter].items():
            moments[f"{name}/{key}"] = tensor.contiguous()
    return moments


def _whole(directory: Path) -> list[Path]:
    steps = [path for path in directory.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(steps, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
