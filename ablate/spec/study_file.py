"""Loads a study file: YAML -> StudySpec, once, at the edge. Every error is one line: place, key, value, rule, hint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ablate import trainers
from ablate.errors import BadInput, ParameterError
from ablate.spec import designs, overrides, yaml_marks
from ablate.spec.models import StudySpec
from ablate.spec.reader import Reader
from ablate.spec.yaml_marks import Document
from ablate.trainers import Config, Trainer


def load(path: Path | str, sets: Sequence[str] = (), *, trainer: Trainer | None = None) -> StudySpec:
    """The study of a file with `--set` values over it. Reads no data file (`check_files` does). Raises BadInput.

    `trainer`: the trainer that is studied; None means the one that the section `trainer` describes, else the token
    memory.
    """
    path = Path(path)
    document = overrides.apply(yaml_marks.read(path), sets)
    return Reader(document, folder=path.parent, trainer=trainer or _trainer(document, path.parent)).study(path)


def _trainer(document: Document, folder: Path) -> Trainer:
    written = document.tree.get("trainer")
    try:
        return trainers.load() if written is None else trainers.read(written, folder=folder)
    except ParameterError as error:
        raise error.at(document.place(error.key)) from None


def check_files(spec: StudySpec) -> str:
    """Read every data file that the study can use; returns the hash of the base's data.

    Raises BadInput at the key of a missing file or of a tokenizer that loses text, or at the line of a data file that
    is malformed.
    """
    missing = missing_data(spec)
    if missing:
        raise missing[0]
    return _check(spec, _configs(spec))[_data(spec.base, spec.trainer.description.data_keys)]


def check_present_files(spec: StudySpec) -> None:
    """Raise what `check_files` would raise for the data files that exist; those that are missing are a plan's warnings.
    Corpora without files cost a plan nothing."""
    keys, trainer = spec.trainer.path_keys, spec.trainer
    named = ((prefix, config) for prefix, config in _configs(spec) if any(config[key] is not None for key in keys))
    _check(spec, ((prefix, config) for prefix, config in named if not trainer.missing_files(config)))


def _check(spec: StudySpec, configs: Iterable[tuple[str, Config]]) -> dict[str, str]:
    """Check each data once; the hash of each."""
    hashes: dict[str, str] = {}
    for prefix, config in configs:
        data = _data(config, spec.trainer.description.data_keys)
        if data not in hashes:
            try:
                hashes[data] = spec.trainer.check_data(config)
            except ParameterError as error:
                raise error.at(_place(spec, prefix, error.key)) from None
    return hashes


def check_installed(spec: StudySpec) -> None:
    """Raise BadInput, at the key that causes it, where a trial needs a package that is not installed, ranks that are
    not started, or a batch that does not divide evenly among its ranks."""
    for prefix, config in _configs(spec):
        try:
            spec.trainer.check_environment(config, workers=spec.resources.workers)
        except ParameterError as error:
            raise error.at(spec.document.place(f"{prefix}{error.key}")) from None


def missing_data(spec: StudySpec) -> list[BadInput]:
    """An error for every data file that the study names and that does not exist."""
    found: dict[tuple[str, str], BadInput] = {}
    for prefix, config in _configs(spec):
        for key, path in spec.trainer.missing_files(config):
            hint = "check the path; in a study file it is relative to that file, in --set to the current folder"
            found.setdefault((key, path), BadInput(_place(spec, prefix, key), key, path, "no such file", hint))
    return list(found.values())


def _place(spec: StudySpec, prefix: str, key: str) -> str:
    """Where a key of a configuration is written, or one of the section `trainer`, which all configurations share."""
    return spec.document.place(key if key.startswith("trainer.") else f"{prefix}{key}")


def _configs(spec: StudySpec) -> Iterator[tuple[str, Config]]:
    """The configurations whose data or environment may differ, each with the prefix of its keys in the file."""
    yield "base.", spec.base
    for key in spec.search.keys() & {*spec.trainer.path_keys, *spec.trainer.environment_keys}:
        for value in spec.search[key].ends:
            yield "search.", spec.base.override({key: value})
    for arm in designs.expand(spec.ablation, spec.base) if spec.ablation else ():
        yield designs.prefix(arm), spec.base.override(arm.overrides)


def _data(config: Config, data_keys: tuple[str, ...]) -> str:
    """The part of a configuration that decides which data is read; equal configurations read equal data."""
    return str([(key, value) for key, value in config.values.items() if key.startswith(data_keys)])
