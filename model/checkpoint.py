"""Checkpoints: safetensors and JSON, no pickle. A checkpoint is a folder `step-N` that is complete or absent.

It holds weights, bank, AdamW's moments and a few counters. That is the entire state, because data order, learning
rate and every random stream are pure functions of (seed, step). A file of checksums says later whether the others are
still what was written. STATE says whether there must be one. Checkpoints of earlier versions have none; of them,
names, shapes and types are checked alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.config import Config, as_first_released
from model.metrics import Metrics

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
CHECKSUMS = "SHA256SUMS"
"""A line for each of the other files, as `sha256sum --check` reads it."""
DATA = "data_hash"
"""The key of STATE that identifies the training data (`Documents.data_hash`)."""
FORMAT, CHECKED = "format", 2
"""The key of STATE that says which files a checkpoint has: since CHECKED, CHECKSUMS too. Earlier ones lack the key."""
LARGEST_TEXT = 64 * 2**20
"""Bytes; STATE and CHECKSUMS stay far below. A larger file, which may be sparse, is not read."""


@dataclass(frozen=True)
class Progress:
    """How far a run is. `wall_s`: seconds spent so far, over all attempts; `metrics`: those of the last report."""

    step: int
    tokens_seen: int
    wall_s: float
    metrics: Metrics


@dataclass(frozen=True)
class State:
    """What STATE says. `data_hash`: None where an earlier version wrote the checkpoint. `checked`: has CHECKSUMS."""

    config: dict[str, Any]
    data_hash: str | None
    progress: Progress
    checked: bool


_PROGRESS = TypeAdapter(Progress)


class Damaged(ValueError):
    """A checkpoint is not what a run wrote; the text says how."""


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
    state[FORMAT] = CHECKED
    (draft / STATE).write_text(json.dumps(state, indent=2))
    (draft / CHECKSUMS).write_text("\n".join(_checksums(draft).values()) + "\n")
    for part in draft.iterdir():
        _fsync(part)
    if target.is_dir():  # damaged, or another run's: a run does not write again what it resumed from
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    draft.rename(target)
    for older in all_in(directory):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)
    return target


@dataclass(frozen=True)
class Found:
    """`path`: the newest checkpoint to resume from, if there is one. `passed_over`: a line for each newer checkpoint of
    the same configuration that is damaged or was trained on other data."""

    path: Path | None
    passed_over: tuple[str, ...]


def latest(directory: Path, *, config: Config, data_hash: str, model: nn.Module) -> Found:
    """Find the checkpoint to resume from: the newest whole one with this configuration, these data and an optimiser.

    `model`: the model of the configuration, into which the checkpoint must fit. Checkpoints of earlier versions do not
    name their data, so none of them is taken.
    """
    passed_over: list[str] = []
    for path in all_in(directory):
        try:
            check_files(path)
            if not (path / OPTIMIZER).exists():
                continue
            state = read_state(path)
            if as_first_released(state.config) != as_first_released(config.model_dump()):
                continue
            if path.name != f"step-{state.progress.step}":
                raise Damaged(f"{STATE} is of step {state.progress.step}")
            _check_tensors(path / MODEL, like=model.state_dict())
            _check_tensors(path / OPTIMIZER, like=_moments_like(model))
        except Damaged as error:
            passed_over.append(damage(path, error))
            continue
        if state.data_hash == data_hash:
            return Found(path, tuple(passed_over))
        of_data = state.data_hash or "unknown"
        passed_over.append(f"checkpoint {path.name} is of other data ({of_data} then, {data_hash} now)")
    return Found(None, tuple(passed_over))


def all_in(directory: Path) -> list[Path]:
    """The checkpoints in a folder, of any configuration, newest first."""
    steps = {path: re.fullmatch(r"step-(0|[1-9][0-9]{0,17})", path.name) for path in directory.glob("step-*")}
    found = {path: int(step[1]) for path, step in steps.items() if step and path.is_dir()}
    return sorted(found, key=lambda path: found[path], reverse=True)


def newest(directory: Path) -> Path | None:
    """The newest checkpoint in a folder, of any configuration; None where there is none."""
    return next(iter(all_in(directory)), None)


def check_kinds(path: Path) -> None:
    """Raise Damaged where something else than a file has the name of a checkpoint's file."""
    for name in (MODEL, OPTIMIZER, STATE, CHECKSUMS):
        if (path / name).exists() and not (path / name).is_file():  # to open a named pipe would wait for ever
            raise Damaged(f"{name} is no file")


def check_files(path: Path) -> None:
    """Raise Damaged where a file of a checkpoint differs from its checksum, or the checksums were lost. A checkpoint of
    an earlier version has none, and passes."""
    check_kinds(path)
    if not (path / CHECKSUMS).exists():
        if read_state(path).checked:
            raise Damaged(f"{CHECKSUMS} is missing")
        return
    try:
        written = _text(path / CHECKSUMS).splitlines()
        found = _checksums(path)
    except (OSError, ValueError) as error:
        raise Damaged(str(error)) from error
    if list(found.values()) != written:
        changed = [name for name, line in found.items() if line not in written]
        raise Damaged(f"{' and '.join(changed) or 'its list of files'} is not what was written")


def read_state(path: Path) -> State:
    """The state of a checkpoint. Raises Damaged where it cannot be read."""
    try:
        state = json.loads(_text(path / STATE))
        _PROGRESS.validate_json(json.dumps(state["progress"]), strict=True)
        data_hash, progress = str(state[DATA]) if DATA in state else None, Progress(**state["progress"])
        return State(dict(state["config"]), data_hash, progress, checked=FORMAT in state)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("progress", *first["loc"])))
        raise Damaged(f"{STATE} is not a checkpoint's state: {key}: {first['msg']}") from error
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise Damaged(f"{STATE} is not a checkpoint's state: {error}") from error


def _text(path: Path) -> str:
    """The text of a file. Raises ValueError where it is larger than any that a run writes, or is no UTF-8."""
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"{path.name} is larger than {LARGEST_TEXT // 2**20} MiB")
    return path.read_text(encoding="utf-8")


def damage(path: Path, error: Damaged) -> str:
    """The note that a checkpoint is damaged, on one line."""
    return f"checkpoint {path.name} is damaged ({' '.join(str(error).split())[:200]})"


def load_model(path: Path, model: nn.Module) -> None:
    """Load the weights and the bank of a checkpoint into a model of its configuration."""
    model.load_state_dict(load_file(path / MODEL))


def load(path: Path, *, model: nn.Module, optimizer: torch.optim.AdamW) -> Progress:
    """Load everything of a checkpoint; return how far the run was."""
    load_model(path, model)
    moments = load_file(path / OPTIMIZER)
    for name, parameter in _trained(model):
        # The step moves to the device too: a fused AdamW counts there.
        optimizer.state[parameter] = {
            key: moments[f"{name}/{key}"].to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return read_state(path).progress


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


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _moments(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """AdamW's state by parameter name: optimisers number parameters, and the numbers may change."""
    moments = {}
    for name, parameter in _trained(model):
        for key, tensor in optimizer.state[parameter].items():
            moments[f"{name}/{key}"] = tensor.contiguous()
    return moments


def _moments_like(model: nn.Module) -> dict[str, Tensor]:
    """Tensors with the names, shapes and types of AdamW's state."""
    moments: dict[str, Tensor] = {}
    for name, parameter in _trained(model):
        moments |= {f"{name}/step": torch.zeros(()), f"{name}/exp_avg": parameter, f"{name}/exp_avg_sq": parameter}
    return moments


def _check_tensors(path: Path, *, like: Mapping[str, Tensor]) -> None:
    """Raise Damaged unless a safetensors file holds the names of `like`, each in its shape and type."""
    try:
        found = load_file(path)  # maps the file: only its header is read
    except (OSError, ValueError, SafetensorError) as error:
        raise Damaged(f"{path.name}: {error}") from error
    for name in sorted(found.keys() ^ like.keys()):
        raise Damaged(f"{path.name}: {name} is {'missing' if name in like else 'not of this model'}")
    for name, tensor in found.items():
        if (tensor.shape, tensor.dtype) != (like[name].shape, like[name].dtype):
            wanted = f"{like[name].dtype} {list(like[name].shape)}"
            raise Damaged(f"{path.name}: {name} is {tensor.dtype} {list(tensor.shape)}, not {wanted}")


def _checksums(path: Path) -> dict[str, str]:
    """The line of CHECKSUMS of each file in a checkpoint."""
    lines: dict[str, str] = {}
    for name in (MODEL, OPTIMIZER, STATE):
        if (path / name).exists():
            with (path / name).open("rb") as file:
                lines[name] = f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}"
    return lines


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
