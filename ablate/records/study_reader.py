"""Reads the tables of results/STUDY from their parquet parts, or from a compacted copy of them where it is current.

A part that cannot be read, or does not hold what its name says, is left out and named as a problem.

The copy (compact/trials.parquet, compact/history.parquet) only makes reading faster. It carries a stamp of the parts
that it was made from (name, size, time and inode of each) and of the columns; where that stamp differs, it is ignored.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ablate.records import atomic_files, parquet_files, rows
from ablate.records.atomic_files import Unreadable
from ablate.records.parquet_files import Problem
from ablate.records.schema import HISTORY_COLUMNS, OWN_COLUMNS, SCHEMA_VERSION, history_schema, trial_schema
from ablate.trainers import Metric

COMPACT_FROM = 1_000  # parts; reading fewer takes a second or two
_CHUNK = 256  # trials whose histories are in memory at once while a copy is written
_STAMP = b"stamp"
_ORDER = [("trial_id", "ascending"), ("step", "ascending")]
_TRIAL_ORDER = [("finished_at", "ascending"), ("trial_id", "ascending")]
_TRIAL_NEEDS = ("trial_id", "status")
_HISTORY_NEEDS = ("trial_id", "step", "losses")
"""Columns that every part must have. Other columns that an older version lacks are null."""

_REPORTED = frozenset(column.name for column in HISTORY_COLUMNS if column.name != "lr")
"""Columns that no report leaves empty."""

_LEAST = {**rows.LEAST, "step": 0}
"""The least value of the columns that a report counts in."""

_HISTORY_NAME = re.compile(r"(?P<trial_id>.+)-(?P<attempt>\d+)\.parquet")


@dataclass(frozen=True)
class StudyTables:
    """The tables that `trials` and `history` return, and the problems: `path: reason` for every unreadable part."""

    trials: pa.Table
    history: pa.Table
    problems: tuple[str, ...]


def read(root: Path, *, metrics: Sequence[Metric], columns: Sequence[str] | None = None) -> StudyTables:
    """Read both tables, from the copy where it is current. `columns`: only these of the history; None reads all."""
    copied_trials, copied_history = _current_copy(root, "trials"), _current_copy(root, "history", columns=columns)
    if copied_trials is not None and copied_history is not None:
        return StudyTables(copied_trials, copied_history, problems=())
    ended, lost = trials(root, metrics=metrics)
    reports, unread = history(root, metrics=metrics, columns=columns)
    return StudyTables(ended, reports, problems=tuple(map(str, (*lost, *unread))))


def trials(root: Path, *, metrics: Sequence[Metric], trial_id: str | None = None) -> tuple[pa.Table, list[Problem]]:
    """A row for every trial that has ended, or for one trial, in the order of their ends; and the problems."""
    pattern = "*.parquet" if trial_id is None else f"{trial_id}.parquet"
    paths, schema = sorted((root / "trials").glob(pattern)), trial_schema({}, metrics)
    chunks: dict[Path, pa.Table] = {}
    problems: list[Problem] = []
    for start in range(0, len(paths), _CHUNK):  # ten thousand tables of one row take hundreds of megabytes
        tables, unread = _read_all(paths[start : start + _CHUNK], schema, needs=_TRIAL_NEEDS)
        table, misfits = parquet_files.unify(tables, schema)
        chunks[root / "trials" / str(start)] = table.combine_chunks()
        problems += unread + misfits
    table, torn = parquet_files.unify(chunks, schema)
    if torn:  # chunks do not fit each other: read part by part, so that only the parts that do not fit are left out
        tables, problems = _read_all(paths, schema, needs=_TRIAL_NEEDS)
        table, misfits = parquet_files.unify(tables, schema)
        problems += misfits
    return table.combine_chunks().sort_by(_TRIAL_ORDER), problems


def history(
    root: Path,
    *,
    metrics: Sequence[Metric],
    trial_id: str | None = None,
    columns: Sequence[str] | None = None,
    repeats: bool = False,
) -> tuple[pa.Table, list[Problem]]:
    """A row for every report, of all trials or of one, by trial and step; and the problems. See `Ledger.history`."""
    chosen = [(name, attempt) for name, attempt in attempts(root) if trial_id in (None, name)]
    tables: dict[Path, pa.Table] = {}
    problems: list[Problem] = []
    schema = history_schema(metrics)
    needed = None if columns is None else list(dict.fromkeys([*columns, *(name for name, _ in _ORDER)]))
    for more, unread in _chunks(root, chosen, schema, columns=needed, repeats=repeats):
        tables |= more
        problems += unread
    table, misfits = parquet_files.unify(tables, _narrow(schema, needed))
    return _only(table.combine_chunks().sort_by(_ORDER), columns), problems + misfits


def attempts(root: Path) -> list[tuple[str, int]]:
    """(trial, attempt) of every part in history/, sorted."""
    return named_attempts(path.name for path in (root / "history").glob("*.parquet"))


def named_attempts(names: Iterable[str]) -> list[tuple[str, int]]:
    """(trial, attempt) of every file name that is a name of a history part, sorted."""
    found = (_HISTORY_NAME.fullmatch(name) for name in names)
    return sorted((name["trial_id"], int(name["attempt"])) for name in found if name)


def compact(root: Path, *, metrics: Sequence[Metric], at_least: int = COMPACT_FROM) -> bool:
    """Write the copy where the study has `at_least` parts and the copy is not current. Returns whether a current copy
    exists.

    Writes no copy of a study with unreadable parts, because readers must be told about them. Raises OSError where
    results/ cannot be written.
    """
    stamps = {kind: _stamp(root / kind) for kind in ("trials", "history")}
    if sum(len(os.listdir(root / kind)) for kind in stamps if (root / kind).is_dir()) < at_least:  # noqa: PTH208
        return False
    if all(_copy_stamp(root, kind) == stamp for kind, stamp in stamps.items()):
        return True
    ended, problems = trials(root, metrics=metrics)
    if problems or not _write_history(root, history_schema(metrics), stamp=stamps["history"]):
        return False
    stamped = ended.replace_schema_metadata({_STAMP: stamps["trials"]})
    atomic_files.replace(_copy(root, "trials"), lambda tmp: pq.write_table(stamped, tmp))
    return True


def _write_history(root: Path, plain: pa.Schema, *, stamp: bytes) -> bool:
    """Write the history's copy in chunks, so that it need not fit in memory. False where a part does not fit."""
    done = True

    def write(tmp: Path) -> None:
        nonlocal done
        schema = plain.with_metadata({_STAMP: stamp})
        with pq.ParquetWriter(tmp, schema, compression="zstd") as writer:
            for tables, problems in _chunks(root, attempts(root), plain, columns=None):
                table, misfits = parquet_files.unify(tables, plain)
                done = done and not problems and not misfits and table.schema.equals(plain)
                if not done:
                    return
                writer.write_table(table.combine_chunks().sort_by(_ORDER).cast(schema))

    atomic_files.replace(_copy(root, "history"), write)
    if not done:
        _copy(root, "history").unlink()
    return done


def _current_copy(root: Path, kind: str, *, columns: Sequence[str] | None = None) -> pa.Table | None:
    """The copy of this table; None where there is none or it is not current."""
    if _copy_stamp(root, kind) != _stamp(root / kind):
        return None
    try:
        return parquet_files.table(_copy(root, kind), columns=columns).replace_schema_metadata()
    except (OSError, pa.ArrowException):
        return None


def _stamp(folder: Path) -> bytes:
    """The stamp of the parts in a folder. It changes when a part is added, removed or replaced, or a column is added to
    the tables."""
    digest = hashlib.sha256(repr([column.name for column in OWN_COLUMNS]).encode())
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.endswith(".parquet"):
                    digest.update(f"{entry.name} ".encode())
                    with suppress(FileNotFoundError):  # a link to nothing, or gone since it was listed
                        stat = entry.stat()
                        digest.update(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}\n".encode())
    return digest.hexdigest().encode()


def _copy_stamp(root: Path, kind: str) -> bytes | None:
    """The stamp that the copy carries; None where there is no readable copy."""
    try:
        atomic_files.check_regular(_copy(root, kind))
        return (pq.read_schema(_copy(root, kind)).metadata or {}).get(_STAMP)
    except (OSError, pa.ArrowException, Unreadable):
        return None


def _copy(root: Path, kind: str) -> Path:
    return root / "compact" / f"{kind}.parquet"


def _chunks(
    root: Path,
    chosen: Sequence[tuple[str, int]],
    schema: pa.Schema,
    *,
    columns: Sequence[str] | None,
    repeats: bool = False,
) -> Iterator[tuple[dict[Path, pa.Table], list[Problem]]]:
    """Yield the history parts in chunks of trials, with the problems. Cuts the steps of older attempts that a newer one
    trained again, unless `repeats`."""
    by_trial = ((name, [number for _, number in group]) for name, group in groupby(chosen, key=lambda pair: pair[0]))
    while chunk := list(islice(by_trial, _CHUNK)):
        paths = {(name, number): _part(root, name, number) for name, numbers in chunk for number in numbers}
        several = {name for name, numbers in chunk if len(numbers) > 1 and not repeats}
        once = [path for (name, _), path in paths.items() if name not in several]
        more = [path for (name, _), path in paths.items() if name in several]
        tables, problems = _read_all(once, schema, needs=_HISTORY_NEEDS, columns=columns)
        # The losses of a report say where to cut, so these parts are read with all columns.
        whole, unread = _read_all(more, schema, needs=_HISTORY_NEEDS)
        for name, numbers in chunk:
            for newer in numbers[1:]:
                if paths[name, newer] in whole:
                    older = [paths[name, number] for number in numbers if number < newer]
                    _cut_repeats(whole, older, whole[paths[name, newer]])
        tables |= {path: _only(table, columns) for path, table in whole.items()}
        yield {path: tables[path] for path in paths.values() if path in tables}, problems + unread


def _cut_repeats(tables: dict[Path, pa.Table], older: Sequence[Path], newer: pa.Table) -> None:
    """Drop from older attempts the steps that a newer one trained again: those after the checkpoint it resumed from."""
    if not newer.num_rows:
        return
    first = newer.slice(0, 1).to_pylist()[0]
    resumed_from = first["step"] - max(1, len(first["losses"]))  # a trainer of the user's gives no losses of steps
    for path in older:
        if path in tables:
            tables[path] = tables[path].filter(pc.field("step") <= resumed_from)


def _part(root: Path, trial_id: str, attempt: int) -> Path:
    return root / "history" / f"{trial_id}-{attempt}.parquet"


def _only(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


def _narrow(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """The schema with only these columns."""
    return schema if columns is None else pa.schema([schema.field(name) for name in columns])


def _read_all(
    paths: Sequence[Path], schema: pa.Schema, *, needs: tuple[str, ...], columns: Sequence[str] | None = None
) -> tuple[dict[Path, pa.Table], list[Problem]]:
    def read_one(path: Path) -> pa.Table | Problem:
        try:
            part = parquet_files.read(path, schema, needs=needs, version=SCHEMA_VERSION, columns=columns)
            problem = _problem_of_row(part, path) if needs is _TRIAL_NEEDS else _problem_of_reports(part, path)
            return Problem(path, problem) if problem else part
        except Unreadable as error:
            return Problem(path, str(error), damaged=error.damaged)

    with ThreadPoolExecutor(max_workers=4) as pool:
        read = dict(zip(paths, pool.map(read_one, paths), strict=True))
    problems = [part for part in read.values() if isinstance(part, Problem)]
    return {path: part for path, part in read.items() if not isinstance(part, Problem)}, problems


def _problem_of_row(part: pa.Table, path: Path) -> str:
    """Why a part is not the row of the trial that its name says; "" where it is."""
    if part.column("trial_id").to_pylist() != [path.stem]:
        return "its row is of another trial than its name says"
    return rows.problem(part.to_pylist()[0])


def _problem_of_reports(part: pa.Table, path: Path) -> str:
    """Why a part does not hold reports of the trial that its name says; "" where it does."""
    named = _HISTORY_NAME.fullmatch(path.name)
    ids = part.column("trial_id").unique().to_pylist() if "trial_id" in part.column_names else []
    if named and ids not in ([], [named["trial_id"]]):
        return "its reports are of another trial than its name says"
    empty = [name for name in part.column_names if name in _REPORTED and part.column(name).null_count]
    if empty:
        return f"has an empty {', '.join(empty)}"
    for name, least in _LEAST.items():
        if name in part.column_names:
            values = part.column(name).to_numpy()
            impossible = values[~((values >= least) & (values < math.inf))]
            if len(impossible):
                return f"its {name} is {impossible[0]}"
    return ""
