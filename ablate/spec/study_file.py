"""A study file, parsed once, at the edge: YAML -> StudySpec. Every error is one line: place, key, value, rule, hint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ablate.errors import BadInput
from ablate.spec import designs, overrides, yaml_marks
from ablate.spec.models import (
    Ablation,
    Asha,
    EarlyStopping,
    Hypothesis,
    Objective,
    Optimizer,
    Resources,
    StudySpec,
    Tracking,
    TuneEachArm,
)
from ablate.spec.reader import Reader
from model.api import PATH_KEYS, Config, ConfigError, check_data, check_packages, check_ranks, missing_files, override

__all__ = [
    "Ablation", "Asha", "EarlyStopping", "Hypothesis", "Objective", "Optimizer", "Resources", "StudySpec", "Tracking",
    "TuneEachArm", "check_files", "check_installed", "load", "missing_data",
]  # fmt: skip


def load(path: Path | str, sets: Sequence[str] = ()) -> StudySpec:
    """The study of a file, with `--set` values over it. Looks at no data file: see `check_files`. Raises BadInput."""
    path = Path(path)
    return Reader(overrides.apply(yaml_marks.read(path), sets), folder=path.parent).study(path)


def check_files(spec: StudySpec) -> str:
    """Read every data file that the study can ask for; returns the hash of the base's data.

    Raises BadInput, at the key that names it, for a file that is not there, and DataError for a line that is not as it
    should be.
    """
    missing = missing_data(spec)
    if missing:
        raise missing[0]
    hashes: dict[str, str] = {}
    for prefix, config in _configs(spec):
        data = config.data.model_dump_json()
        if data not in hashes:
            try:
                hashes[data] = check_data(config)
            except ConfigError as error:
                place = spec.document.place(f"{prefix}{error.key}")
                raise BadInput(place, error.key, error.value, error.rule, error.hint) from None
    return hashes[spec.base.data.model_dump_json()]


def check_installed(spec: StudySpec) -> None:
    """Raise BadInput, at the key that asks for it, where a trial would need a package that is not installed, ranks that
    nobody starts, or a batch that its ranks cannot share evenly."""
    for prefix, config in _configs(spec):
        if config.train.engine == "deepspeed" and spec.resources.workers == 0:
            place = spec.document.place(f"{prefix}train.engine")
            hint = "set resources.workers: 1, or use ddp"
            raise BadInput(
                place, "train.engine", "deepspeed", "with resources.workers: 0 nobody starts its ranks", hint
            )
        try:
            check_packages(config)
            check_ranks(config, ranks=spec.resources.processes)
        except ConfigError as error:
            place = spec.document.place(f"{prefix}{error.key}")
            raise BadInput(place, error.key, error.value, error.rule, error.hint) from None


def missing_data(spec: StudySpec) -> list[BadInput]:
    """A complaint for every data file that the study names and that is not there."""
    found: dict[tuple[str, str], BadInput] = {}
    for prefix, config in _configs(spec):
        for key, path in missing_files(config):
            place = spec.document.place(f"{prefix}{key}")
            hint = "check the path; in a study file it is relative to that file, in --set to the current folder"
            found.setdefault((key, path), BadInput(place, key, path, "no such file", hint))
    return list(found.values())


def _configs(spec: StudySpec) -> Iterator[tuple[str, Config]]:
    """The configurations whose data, engine or batch may differ, each with the prefix of its keys in the file."""
    yield "base.", spec.base
    for key in spec.search.keys() & {*PATH_KEYS, "train.engine", "train.batch_size"}:
        for value in spec.search[key].ends:
            yield "search.", override(spec.base, {key: value})
    for arm in designs.expand(spec.ablation, spec.base) if spec.ablation else ():
        yield designs.prefix(arm), override(spec.base, arm.overrides)
