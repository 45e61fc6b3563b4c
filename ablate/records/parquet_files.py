"""The one reader of a study's parquet files, and how parts are put together into one table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ablate.records.atomic_files import Unreadable, check_regular, said
from ablate.records.locations import Place

_EARLIEST, _LATEST = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 10**6 for year in (1700, 2250))
"""Microseconds of the epoch. Who reads the tables may count nanoseconds in 64 bits, which overflow beyond."""


class Problem(NamedTuple):
    """A part that is left out, and why. `damaged`: whether its content is lost; see `Unreadable`."""

    path: Place
    reason: str
    damaged: bool = True

    def __str__(self) -> str:
        """`path: reason`."""
        return f"{self.path}: {self.reason}"


def read(
    path: Path, schema: pa.Schema, *, needs: Sequence[str], version: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read a parquet part. Its columns that `schema` has get the types that they have there.

    `needs`: columns that it must have. `columns`: read only those of them that the part has; None reads all. Raises
    Unreadable where it is no such part, or is newer than schema `version`.
    """
    check_regular(path)
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            part = file.read(columns=None if columns is None else [name for name in columns if name in names])
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = f"not readable as parquet, was it cut off? ({said(error)})"
        raise Unreadable(reason, damaged=not isinstance(error, PermissionError)) from error
    written = (part.schema.metadata or {}).get(b"schema_version", b"1").decode(errors="replace")
    if not re.fullmatch("[0-9]{1,9}", written):
        raise Unreadable(f"its schema version is {written[:20]!r}, which is no version")
    if int(written) > version:
        reason = f"written with schema version {written}, newer than {version}: update this package"
        raise Unreadable(reason, damaged=False)
    missing = [name for name in needs if name not in names]
    if missing:
        raise Unreadable(f"has no column {', '.join(missing)}: not a file of this ledger")
    if len(set(names)) < len(names):
        raise Unreadable("has two columns of one name: not a file of this ledger")
    return _fitted(part, schema)


def _fitted(part: pa.Table, schema: pa.Schema) -> pa.Table:
    """The part, with the types of `schema`. Raises Unreadable where a value has no place there."""
    kinds, own = dict(zip(schema.names, schema.types, strict=True)), part.schema.types
    for index, name in enumerate(part.column_names):
        if name not in kinds or (own[index] == kinds[name] and not pa.types.is_timestamp(own[index])):
            continue
        kind, column = kinds[name], part.column(index)
        if column.type != kind:
            try:
                column = column.cast(kind)
            except pa.ArrowException:
                raise Unreadable(f"its columns do not fit the other parts' ({name}: {column.type})") from None
            part = part.set_column(index, name, column)
        if pa.types.is_timestamp(kind):
            ends = pc.call_function("min_max", [column.cast(pa.int64())]).as_py()
            if ends["min"] is not None and not _EARLIEST <= ends["min"] <= ends["max"] <= _LATEST:
                raise Unreadable(f"its {name} is no time of this age")
    return part


def table(path: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet file that this process, or one like it, has just written: without the checks of `read`, and
    without taking names of folders (`lr=0.1/`) for columns."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=None if columns is None else list(columns))


def unify(tables: dict[Path, pa.Table], schema: pa.Schema) -> tuple[pa.Table, list[Problem]]:
    """All parts as one table, and the problems. It has the columns of `schema` and all others of the parts.

    Types are promoted (int with double gives double). A part whose types do not fit the others is left out.
    """
    problems, kept, known = [], [], None
    for path, part in tables.items():
        if known is not None and part.schema.equals(known):  # the common case: nothing new to unify
            kept.append(part)
            continue
        try:
            schema = pa.unify_schemas([schema, part.schema.remove_metadata()], promote_options="permissive")
        except pa.ArrowException as error:
            problems.append(Problem(path, f"its columns do not fit the other parts' ({error})"))
            continue
        known = part.schema
        kept.append(part)
    return pa.concat_tables([schema.empty_table(), *kept], promote_options="permissive"), problems
