"""Checkpoints: safetensors and JSON, no pickle. A checkpoint is a folder `step-N` that is complete or absent.

It holds weights, bank, AdamW's moments and a few counters. That is the entire state, because data order, learning rate
and every random stream are pure functions of (seed, step).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from model.config import Config
from model.metrics import Metrics

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
DATA = "data_hash"
"""The key of STATE that identifies the training data (`Documents.data_hash`)."""


@dataclass(frozen=True)
class Progress:
    """How far a run is. `wall_s`: seconds spent so far, over all attempts; `metrics`: those of the last report."""

    step: int
    tokens_seen: int
    wall_s: float
    metrics: Metrics


def save(
    directory: Path,
    *,
    config: Config,
    data_hash: str,
    model: nn.Module,
    optimizer: torch.optim.AdamW | None,
    progress: Progress,
) -> Path:
    """Write `directory/step-N`, then remove older ones, so that a reader always finds a complete one.

    Call it between updates: it does not save gradients. Without an optimiser the checkpoint holds weights and bank
    only, and no run resumes from it.
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
    if target.exists():  # damaged, or another run's: a run does not write again what it resumed from
        shutil.rmtree(target)
    draft.rename(target)
    for older in _whole(directory):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)
    return target


@dataclass(frozen=True)
class Found:
    """`path`: the newest checkpoint to resume from, if there is one. `passed_over`: a line for each newer checkpoint of
    the same configuration that is damaged or was trained on other data."""

    path: Path | None
    passed_over: tuple[str, ...]


def latest(directory: Path, *, config: Config, data_hash: str) -> Found:
    """Find the checkpoint to resume from: the newest readable one with this configuration, these data and an optimiser.

    Checkpoints of earlier versions do not name their data, so none of them is taken.
    """
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
    """The newest checkpoint in a folder, of any configuration; None where there is none."""
    return next(iter(_whole(directory)), None)


def load_model(path: Path, model: nn.Module) -> None:
    """Load the weights and the bank of a checkpoint into a model of its configuration."""
    model.load_state_dict(load_file(path / MODEL))


def load(path: Path, *, model: nn.Module, optimizer: torch.optim.AdamW) -> Progress:
    """Load everything of a checkpoint; return how far the run was."""
    load_model(path, model)
    moments = load_file(path / OPTIMIZER)
    for name, parameter in model.named_parameters():
        # The step moves to the device too: a fused AdamW counts there.
        optimizer.state[parameter] = {
            key: moments[f"{name}/{key}"].to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return Progress(**json.loads((path / STATE).read_text())["progress"])


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError where the disk is full; safetensors itself raises its own error."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        code = re.search(r"\bcode: (\d+)|\bos error (\d+)", str(error))
        if code is None:
            raise
        number = int(code[1] or code[2])
        raise OSError(number, os.strerror(number), str(path)) from error


def _moments(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """AdamW's state by parameter name: optimisers number parameters, and the numbers may change."""
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
