"""Reads what results/ records of a trainer, without importing it; asks the trainer itself in a separate process.

A report or a status must not import a trainer: it may not be installed here, and the built-in one imports torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ablate.errors import BadInput, ParameterError
from ablate.trainers import is_imported, load
from ablate.trainers.protocol import Cost, Description, Trainer

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
    """A question to a trainer: about the `subject` of a study (see `subject`), or the `checkpoint_text` of a folder."""

    trainer: str
    settings: Mapping[str, Any]
    about: Literal["subject", "checkpoint_text"]
    arguments: Sequence[str]


@dataclass(frozen=True)
class Subject:
    """What a study trains, as its trainer says it. `defaults`: the values before the study file's, those of its preset;
    None where they are not known. `costs`: recorded configuration -> its cost; what the trainer does not know is left
    out. `epoch`: units of the budget in one pass over the training data; None where it was not asked or is not
    known."""

    defaults: Mapping[str, Any] | None
    costs: Mapping[str, Cost]
    epoch: int | None


def subject(trainer: Description, *, preset: str | None, configs: tuple[str, ...], epoch_of: str | None) -> Subject:
    """Ask what a study trains. `preset`: of its base, None where it has none; `configs`: recorded configurations;
    `epoch_of`: the one whose epoch is asked for, which may take a second. Knows nothing where the trainer cannot be
    asked, such as where it is not installed."""
    arguments = (json.dumps(preset), json.dumps(epoch_of), *configs)
    found = _subject_of(trainer.name, json.dumps(dict(trainer.settings)), arguments)
    if found is None:
        return Subject(None, {}, None)
    defaults, costs, epoch = found
    known = {config: Cost(**cost) for config, cost in zip(configs, costs, strict=True) if cost is not None}
    return Subject(defaults, known, epoch)


@lru_cache(maxsize=64)
def _subject_of(trainer: str, settings_json: str, arguments: tuple[str, ...]) -> Any:
    return _ask(Question(trainer, json.loads(settings_json), "subject", arguments))


@dataclass(frozen=True)
class CheckpointText:
    """The entries of a checkpoint's memory, most used first. `why_not`: why there are none; "" where there are some."""

    entries: Sequence[Mapping[str, Any]]
    why_not: str


def checkpoint_text(trainer: Description, folder: Path, *, top: int) -> CheckpointText:
    """The `top` most used entries of the newest checkpoint in `folder`, as text."""
    answer = _ask(Question(trainer.name, trainer.settings, "checkpoint_text", [str(folder), str(top)]))
    return CheckpointText(*answer) if answer is not None else CheckpointText((), "its trainer cannot be asked")


def answer(question: Question) -> Any:
    """Import the trainer and answer the question, in values that JSON can hold."""
    trainer = load(question.trainer, question.settings)
    if question.about == "subject":
        return _subject(trainer, *question.arguments)
    folder, top = question.arguments
    try:
        return trainer.checkpoint_text(Path(folder), top=int(top)), ""
    except ParameterError as error:
        return (), error.rule
    except BadInput as error:
        return (), str(error)


def _subject(trainer: Trainer, preset_json: str, epoch_json: str, *configs: str) -> Any:
    preset, epoch_of = json.loads(preset_json), json.loads(epoch_json)
    defaults = _known(lambda: trainer.resolve({} if preset is None else {"preset": preset}).values)
    costs = [_known(lambda config=config: asdict(trainer.read(config).cost)) for config in configs]
    return defaults, costs, _known(lambda: trainer.epoch(trainer.read(epoch_of))) if epoch_of else None


def _known(ask: Callable[[], Any]) -> Any:
    """The answer; None where the trainer refuses, such as a configuration of an older version."""
    try:
        return ask()
    except (ParameterError, BadInput):
        return None


def _ask(question: Question) -> Any:
    """The trainer's answer, from a separate process, or from this one where the trainer is imported already. None where
    that process fails, so that a report is written without the answer."""
    if is_imported(question.trainer):
        return answer(question)
    command = [sys.executable, "-m", "ablate.trainers"]
    done = subprocess.run(command, input=json.dumps(asdict(question)), capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None
