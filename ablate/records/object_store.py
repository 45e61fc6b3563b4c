"""A study under a prefix of a bucket, through pyarrow.fs. Files have the names that they have in a folder.

An object appears whole, at its final key, when its upload is complete: nothing is renamed. `create` takes two steps: it
looks whether the key is taken, then writes. Two writers within the same milliseconds would both succeed; the study's
lock (`lease`) and the fencing by attempts keep them apart.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs

from ablate.errors import BadInput
from ablate.records import atomic_files, lease, locations
from ablate.records.locations import Url

if TYPE_CHECKING:
    from ablate.records.s3_register import S3Register

_LOG = logging.getLogger(__name__)
_CLOCKS = "%s is locked by the machines' clocks: %s"

_AT_ONCE = 16
"""Transfers at a time: each mostly waits for the network."""

_SETTLED_NS = 3_000_000_000
"""A store's times are whole seconds. An object that was younger than this when it was copied may have been replaced
within the same second, so it is copied once more."""

_PATIENT, _QUICK = (10, 30.0, 60), (1, 4.0, 3)
"""(S3's attempts, S3's timeout in seconds, seconds of Google's retries): while a study runs, and for the first look."""


class ObjectStore:
    """Implements `Store`."""

    def __init__(self, url: Url) -> None:
        """Raises BadInput if the bucket does not exist, cannot be reached, or may not be read."""
        self.url, self.folder = url, locations.cache(url)
        self._root = f"{url.bucket}/{url.key}".rstrip("/")
        self._fs = connect(url)
        self._pushed: dict[str, dict[str, tuple[int, int]]] = {}

    def names(self, folder: str) -> list[str]:
        return sorted(self._listed(folder, recursive=False))

    def folders(self, *, having: str) -> list[str]:
        found = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        below = [info.base_name for info in found if info.type is fs.FileType.Directory]
        infos = self._fs.get_file_info([self._key(f"{name}/{having}") for name in below])
        return sorted(name for name, info in zip(below, infos, strict=True) if info.type is fs.FileType.File)

    def exists(self, name: str) -> bool:
        return self._info(name).type is fs.FileType.File

    def fetch(self, name: str) -> Path:
        info, path = self._info(name), self.folder / name
        if info.type is not fs.FileType.File:
            path.unlink(missing_ok=True)
        elif not _current(path, info):
            self._download(name, info)
        return path

    def pull(self, folder: str, *, prefix: str = "", mirror: bool = True) -> None:
        here = {name: path for name, path in _files(self.folder / folder) if name.startswith(prefix)}
        there = {name: info for name, info in self._listed(folder).items() if name.startswith(prefix)}
        stale = [name for name, info in there.items() if name not in here or not _current(here[name], info)]
        self._each(stale, lambda name: self._download(_below(folder, name), there[name]))
        if mirror:
            for name in here.keys() - there.keys():  # listed first, and a copy is made after its object: it is gone
                here[name].unlink(missing_ok=True)
            if not prefix:
                self._pushed[folder] = _state(self.folder / folder)  # what was fetched is not uploaded again

    def push(self, folder: str, *, mirror: bool = False) -> None:
        now = _state(self.folder / folder)
        before = self._pushed[folder] if folder in self._pushed else {}  # noqa: SIM401 - no .get inside
        if now == before:
            return
        changed = [name for name in now if name not in before or before[name] != now[name]]
        self._each(changed, lambda name: self._upload(_below(folder, name), self.folder / folder / name))
        if mirror and now:  # all that is new is uploaded before anything old is deleted
            kept = {name.partition("/")[0] for name in now}
            for old in {name.partition("/")[0] for name in self._listed(folder)} - kept:
                self._fs.delete_dir(self._key(_below(folder, old)))
        self._pushed[folder] = now

    def replace(self, name: str, write: Callable[[Path], object]) -> None:
        path = self.folder / name
        tmp = atomic_files.filled(path, write)
        try:
            self._upload(name, tmp)
            _stamp(tmp, self._info(name))
            tmp.replace(path)
        finally:
            tmp.unlink(missing_ok=True)

    def create(self, name: str, write: Callable[[Path], object]) -> None:
        if self.exists(name):
            raise FileExistsError(self._key(name))
        self.replace(name, write)

    def remove(self, folder: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.delete_dir(self._key(folder))
        self._pushed.pop(folder, None)
        shutil.rmtree(self.folder / folder, ignore_errors=True)

    def move(self, name: str, to: str) -> None:
        self._fs.move(self._key(name), self._key(to))
        (self.folder / name).unlink(missing_ok=True)

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def scratch(self, name: str, *, shared: bool) -> str:
        return (self.url / name).whole() if shared else str(self.folder / name)

    def hold(self, name: str) -> AbstractContextManager[None]:
        return lease.hold(self._lock(name))

    def held(self, name: str) -> bool:
        return lease.is_held(self.owner(name), silent_s=lambda owner: self._silent_s(name, owner))

    def owner(self, name: str) -> lease.Owner | None:
        return lease.Owner.read(_read(self._fs, self._key(name)))

    def _lock(self, name: str) -> lease.Lock:
        """The lock by conditional writes where the store has them, otherwise the one by clocks."""
        try:
            register = self._register(name)
            if register is not None:
                if lease.is_conditional(replace(register, key=f"{register.key}.{uuid.uuid4().hex[:8]}.tmp")):
                    return lease.ByVersions(register)
                _LOG.warning(_CLOCKS, name, "the store ignores the conditions of writes")
        except ImportError:
            _LOG.warning(_CLOCKS, name, "botocore is not installed (the extra `s3`)")
        except OSError as error:
            _LOG.warning(_CLOCKS, name, f"conditional writes fail: {_reason(str(error))}")
        key = self._key(name)
        return lease.ByClocks(
            lease.Slot(
                read=lambda: _read(self._fs, key),
                write=lambda content: _write(self._fs, key, content),
                drop=lambda: self._fs.delete_file(key),
            )
        )

    def _register(self, name: str) -> S3Register | None:
        """The file as an object with conditional writes; None for a scheme that is locked by clocks. Raises ImportError
        without botocore."""
        if not isinstance(self._fs, fs.S3FileSystem):
            return None
        from ablate.records.s3_register import S3Register

        return S3Register(self._client, self.url.bucket, (self.url / name).key)

    @cached_property
    def _client(self) -> Any:
        from ablate.records import s3_register  # a second of imports, which only a lock needs

        return s3_register.connect(self.url, region=self._fs.region)

    def _silent_s(self, name: str, owner: lease.Owner) -> float:
        """Time since the last heartbeat: by the store's clock if it is known, otherwise by the owner's and this one."""
        with suppress(ImportError, OSError):
            if (register := self._register(name)) and (seen := register.read()):
                return seen.silent_s
        return owner.silent_s()

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _info(self, name: str) -> fs.FileInfo:
        return self._fs.get_file_info(self._key(name))

    def _listed(self, folder: str, *, recursive: bool = True) -> dict[str, fs.FileInfo]:
        """Name in the folder -> the store's entry of it."""
        root = self._key(folder)
        found = self._fs.get_file_info(fs.FileSelector(root, recursive=recursive, allow_not_found=True))
        return {info.path[len(root) + 1 :]: info for info in found if info.type is fs.FileType.File}

    def _upload(self, name: str, path: Path) -> None:
        # In one call: if an error closed the stream between two calls, half an object would be published.
        content = pa.memory_map(str(path)).read_buffer() if path.stat().st_size else b""
        _write(self._fs, self._key(name), content)

    def _download(self, name: str, info: fs.FileInfo) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with self._fs.open_input_stream(info.path, compression=None) as source, tmp.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 22)
            _stamp(tmp, info)
            tmp.replace(path)
        except FileNotFoundError:  # gone since it was listed
            path.unlink(missing_ok=True)
        finally:
            tmp.unlink(missing_ok=True)

    def _each(self, names: Iterable[str], act: Callable[[str], None]) -> None:
        """Do it for many at a time. Raises the first error."""
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            for _ in pool.map(act, names):
                pass


def connect(url: Url) -> fs.FileSystem:
    """The file system of a URL, after one quick look at it. Raises BadInput that says what is wrong and what to do."""
    root = f"{url.bucket}/{url.key}".rstrip("/")
    try:
        with suppress(FileNotFoundError):  # nothing is there yet
            _filesystem(url, patience=_QUICK).get_file_info(fs.FileSelector(root))
        return _filesystem(url, patience=_PATIENT)
    except (OSError, pa.ArrowException) as error:
        rule, hint = _complaint(str(error), url)
        raise BadInput(str(url), "", "", rule, hint) from None


def _filesystem(url: Url, *, patience: tuple[int, float, int]) -> fs.FileSystem:
    attempts, silence_s, retry_s = patience
    protocol, _, host = url.endpoint.rpartition("://")
    server = {"scheme": protocol, "endpoint_override": host} if host else {}
    if url.scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=retry_s), **server)
    return fs.S3FileSystem(
        region=url.region or ("us-east-1" if host else fs.resolve_s3_region(url.bucket)),
        connect_timeout=min(silence_s, 5.0),
        request_timeout=silence_s,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        **server,
    )


def _complaint(said: str, url: Url) -> tuple[str, str]:
    """(what is wrong, what to do) for an error that pyarrow raised at the first look."""
    if "NO_SUCH_BUCKET" in said or re.search(r"[Bb]ucket '?.*'? ?(not found|does not exist)", said):
        return f"there is no bucket {url.bucket}", "create it, or correct its name"
    if any(word in said for word in _DENIED):
        return "access is denied", f"put keys that may read and write it into the environment: {_KEYS[url.scheme]}"
    where = url.endpoint or "the store"
    if any(word in said for word in ("NETWORK_CONNECTION", "curl", "CURL", "UNAVAILABLE", "resolve")):
        hint = "check the network, and AWS_ENDPOINT_URL or endpoint_override=HOST:PORT in the URL"
        return f"{where} cannot be reached ({_reason(said)})", hint
    return f"{where} cannot be used ({_reason(said)})", "see docs/clusters.md"


_DENIED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "EXPIRED", "Expired", "HTTP status 403", "OAuth2")

_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role of the machine",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or a role of the machine",
}


def _reason(said: str) -> str:
    """The part of a long error that a reader can use."""
    for mark in ("Details: ", "CURL error", "curlCode"):
        if mark in said:
            said = said[said.index(mark) :].removeprefix("Details: ")
    return " ".join(said.split())[:90]


def _read(files: fs.FileSystem, key: str) -> bytes | None:
    try:
        with files.open_input_stream(key, compression=None) as source:
            return source.read()
    except FileNotFoundError:
        return None


def _write(files: fs.FileSystem, key: str, content: bytes | pa.Buffer) -> None:
    with files.open_output_stream(key, compression=None) as target:
        target.write(content)


def _current(path: Path, info: fs.FileInfo) -> bool:
    """Whether the copy is up to date."""
    stat = _stat(path)
    if stat is None or (stat.st_size, stat.st_mtime_ns) != (info.size, info.mtime_ns):
        return False
    return stat.st_ctime_ns - stat.st_mtime_ns > _SETTLED_NS


def _stamp(path: Path, info: fs.FileInfo) -> None:
    """Give a copy the object's time, which `_current` compares."""
    if info.mtime_ns is not None:
        os.utime(path, ns=(info.mtime_ns, info.mtime_ns))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _below(folder: str, name: str) -> str:
    """Join a folder of the study and a name in it; the study itself is the folder `""`."""
    return f"{folder}/{name}" if folder else name


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """(size, time) of every file in a folder."""
    found = ((name, _stat(path)) for name, path in _files(folder))
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found if stat is not None}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name in the folder, path) of every file in it that is not being written."""
    for at, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.endswith(".tmp")]
        for name in names:
            if not name.endswith(".tmp"):
                path = Path(at, name)
                yield path.relative_to(folder).as_posix(), path
