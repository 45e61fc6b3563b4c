"""Files that are whole or absent: written under another name, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class Unreadable(Exception):
    """A part that cannot be read, with the reason in its message."""


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a `.tmp` file, then rename it to `path`, atomically and durably."""
    tmp = filled(path, write)
    tmp.replace(path)
    _sync_folder(path.parent)


def create(path: Path, write: Callable[[Path], object]) -> None:
    """As `replace`, but raises FileExistsError, and changes nothing, if `path` exists already."""
    tmp = filled(path, write)
    try:
        os.link(tmp, path)  # unlike a rename, a link fails if the name is taken: of two writers one wins
    finally:
        tmp.unlink()
    _sync_folder(path.parent)


def read(path: Path, *, needs: tuple[str, ...], version: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet part. Raises Unreadable if it lacks a column of `needs` or is newer than schema `version`.

    `columns`: only these, as far as the part has them; None for all.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            part = file.read(columns=None if columns is None else [name for name in columns if name in names])
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unreadable(f"not readable as parquet, was it cut off? ({reason})") from error
    missing = [name for name in needs if name not in names]
    if missing:
        raise Unreadable(f"has no column {', '.join(missing)}: not a file of this ledger")
    written = int((part.schema.metadata or {}).get(b"schema_version", b"1"))
    if written > version:
        raise Unreadable(f"written with schema version {written}, newer than {version}: update this package")
    return part


def table(path: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one parquet file. Names of folders (`lr=0.1/`) are not taken for columns."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=None if columns is None else list(columns))


def unify(tables: dict[Path, pa.Table], schema: pa.Schema) -> tuple[pa.Table, list[str]]:
    """One table of all the parts, with the columns of `schema` and those that parts have beyond it; and the problems.

    Types are promoted (int and double become double); a part whose types do not fit the others' is left out.
    """
    problems, kept, known = [], [], None
    for path, part in tables.items():
        if known is not None and part.schema.equals(known):  # most parts have the same schema as the one before
            kept.append(part)
            continue
        try:
            schema = pa.unify_schemas([schema, part.schema.remove_metadata()], promote_options="permissive")
        except pa.ArrowException as error:
            problems.append(f"{path}: its columns do not fit the other parts' ({error})")
            continue
        known = part.schema
        kept.append(part)
    return pa.concat_tables([schema.empty_table(), *kept], promote_options="permissive"), problems


def filled(path: Path, write: Callable[[Path], object]) -> Path:
    """A `.tmp` file beside `path` that `write` has filled, flushed to the disk; deleted again if `write` fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(tmp)
        with tmp.open("rb+") as file:
            os.fsync(file.fileno())
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    return tmp


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
