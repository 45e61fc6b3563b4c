"""Reads what results/ records of a trainer, without importing it; asks the trainer itself in a separate process.

A report or a status must not import a trainer: it may not be installed here, and the built-in one imports torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ablate.errors import BadInput, ParameterError
from ablate.trainers import is_imported, load
from ablate.trainers.protocol import Description, Trainer

_DESCRIPTIONS = TypeAdapter(Description)

_FIRST = Path(__file__).with_name("first_description.json")
"""The token memory as it was when study.json did not name its trainer yet (schema versions 1 and 2)."""


def as_json(description: Description) -> dict[str, Any]:
    """The description as study.json keeps it, under `trainer`."""
    return asdict(description)


def described(study: Mapping[str, Any]) -> Description:
    """The trainer that a study.json describes. Raises ValueError where it describes none."""
    return _description(study["trainer"]) if "trainer" in study else first()


@lru_cache(maxsize=1)
def first() -> Description:
    """The trainer of studies whose study.json names none."""
    return _description(json.loads(_FIRST.read_text(encoding="utf-8")))


def _description(kept: Any) -> Description:
    try:
        return _DESCRIPTIONS.validate_python(kept)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def values(config_json: str) -> dict[str, Any]:
    """A recorded configuration as dotted keys."""
    return flatten(json.loads(config_json))


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as dotted keys: `{data: {corpus: facts}}` is `{data.corpus: facts}`; a later key wins."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = flatten(value) if isinstance(value, dict) else {}
        flat |= {f"{key}.{name}": leaf for name, leaf in inner.items()} if inner else {key: value}
    return flat


# ---- questions to the trainer, in a separate process


@dataclass(frozen=True)
class Question:
    """A question to a trainer: `flops_per_token` of recorded configurations, or `checkpoint_text` of a folder."""

    trainer: str
    about: Literal["flops_per_token", "checkpoint_text"]
    arguments: Sequence[str]


def flops_per_token(trainer: str, configs: Sequence[str]) -> dict[str, float]:
    """Recorded configuration -> FLOPs (forward and backward) of a unit of its budget. Configurations are left out where
    the trainer does not know, or is not installed."""
    unknown = [config for config in dict.fromkeys(configs) if (trainer, config) not in _FLOPS]
    if unknown:
        answers = _ask(Question(trainer, "flops_per_token", unknown))
        _FLOPS.update({(trainer, config): flops for config, flops in zip(unknown, answers or (), strict=False)})
    found = {config: _FLOPS[trainer, config] for config in configs if (trainer, config) in _FLOPS}
    return {config: flops for config, flops in found.items() if flops is not None}


_FLOPS: dict[tuple[str, str], float | None] = {}


@dataclass(frozen=True)
class CheckpointText:
    """The entries of a checkpoint's memory, most used first. `why_not`: why there are none; "" where there are some."""

    entries: Sequence[Mapping[str, Any]]
    why_not: str


def checkpoint_text(trainer: str, folder: Path, *, top: int) -> CheckpointText:
    """The `top` most used entries of the newest checkpoint in `folder`, as text."""
    answer = _ask(Question(trainer, "checkpoint_text", [str(folder), str(top)]))
    return CheckpointText(*answer) if answer is not None else CheckpointText((), "its trainer cannot be asked")


def answer(question: Question) -> Any:
    """Import the trainer and answer the question, in values that JSON can hold."""
    trainer = load(question.trainer)
    if question.about == "flops_per_token":
        return [_flops(trainer, config) for config in question.arguments]
    folder, top = question.arguments
    try:
        return trainer.checkpoint_text(Path(folder), top=int(top)), ""
    except ParameterError as error:
        return (), error.rule
    except BadInput as error:
        return (), str(error)


def _flops(trainer: Trainer, config_json: str) -> float | None:
    try:
        return trainer.read(config_json).cost.flops_per_token
    except ParameterError:
        return None  # a configuration of an older version


def _ask(question: Question) -> Any:
    """The trainer's answer, from a separate process, or from this one where the trainer is imported already. None where
    that process fails, so that a report is written without the answer."""
    if is_imported(question.trainer):
        return answer(question)
    command = [sys.executable, "-m", "ablate.trainers"]
    done = subprocess.run(command, input=json.dumps(asdict(question)), stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None
