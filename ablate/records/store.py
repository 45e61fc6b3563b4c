"""Where a ledger's files are kept: in a folder, or under a prefix of a bucket (`object_store`), with copies in a folder
on this machine. Names of files are relative to the study: `trials/ID.parquet`."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from ablate.records import atomic_files, json_files
from ablate.records.atomic_files import Unreadable
from ablate.records.lease import Held, Owner
from ablate.records.locations import Place, Url


class Store(Protocol):
    """The files of one study, or of a folder of studies."""

    @property
    def folder(self) -> Path:
        """The folder on this machine that holds the files or their copies."""
        ...

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder of the study, sorted; empty if there is no such folder."""
        ...

    def exists(self, name: str) -> bool:
        """Whether something has this name: a file, or what stands in a file's place."""
        ...

    def folders(self, *, having: str) -> list[str]:
        """Names of the folders directly in this store that have a file of this name, sorted."""
        ...

    def fetch(self, name: str) -> Path:
        """Path of the file, or of a copy brought up to date; the path does not exist if there is no such file."""
        ...

    def pull(self, folder: str, *, prefix: str = "", mirror: bool = True) -> None:
        """Bring the copies up to date of files whose names in the folder begin with `prefix`. `mirror`: also delete
        local files that the store does not have."""
        ...

    def push(self, folder: str, *, mirror: bool = False) -> None:
        """Upload what was written to the local folder. `mirror`: also delete its sub-folders that are gone locally."""
        ...

    def replace(self, name: str, write: Callable[[Path], object]) -> None:
        """See `atomic_files.replace`."""
        ...

    def create(self, name: str, write: Callable[[Path], object]) -> None:
        """See `atomic_files.create`."""
        ...

    def move(self, name: str, to: str) -> None:
        """Give a file, or whatever has its name, another name. Replaces nothing that a study writes: `to` is free."""
        ...

    def remove(self, folder: str) -> None:
        """Delete a folder of the study with all that is in it; `""`: the study."""
        ...

    def forget(self) -> None:
        """Delete all copies, and what else is only on this machine."""
        ...

    def scratch(self, name: str, *, shared: bool) -> str:
        """A folder for temporary files; `shared`: one that other machines see too."""
        ...

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock. Raises `Held` if somebody else holds it, Unreadable if something else has its name."""
        ...

    def held(self, name: str) -> bool:
        """Whether somebody holds it. Raises Unreadable if something else has its name."""
        ...

    def owner(self, name: str) -> Owner | None:
        """Who holds it, or held it last; None if that is not known."""
        ...


@dataclass(frozen=True)
class LocalStore:
    """A folder that every machine sees that works on the study. There are no copies to bring up to date."""

    folder: Path

    def names(self, folder: str) -> list[str]:
        if not self.exists(folder):
            return []
        try:
            with os.scandir(self.folder / folder) as entries:
                return sorted(e.name for e in entries if not e.name.endswith(".tmp") and e.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def folders(self, *, having: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.folder) if self.exists(f"{name}/{having}"))  # noqa: PTH208
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.folder / name)  # False too where the name is too long to be a file's

    def fetch(self, name: str) -> Path:
        return self.folder / name

    def pull(self, folder: str, *, prefix: str = "", mirror: bool = True) -> None:
        pass

    def push(self, folder: str, *, mirror: bool = False) -> None:
        pass

    def replace(self, name: str, write: Callable[[Path], object]) -> None:
        atomic_files.replace(self.folder / name, write)

    def create(self, name: str, write: Callable[[Path], object]) -> None:
        atomic_files.create(self.folder / name, write)

    def remove(self, folder: str) -> None:
        if (self.folder / folder).exists():
            shutil.rmtree(self.folder / folder)

    def forget(self) -> None:
        pass

    def move(self, name: str, to: str) -> None:
        (self.folder / to).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).rename(self.folder / to)

    def scratch(self, name: str, *, shared: bool) -> str:  # noqa: ARG002 - a folder of the study is seen by all
        return str(self.folder / name)

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """The lock is the kernel's, so a killed process leaves none behind. The file's content names the owner."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.exists(name):
            atomic_files.check_regular(path)
        with path.open("ab") as file:  # another owner's name stays in the file until the lock is taken
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Held from None
            file.truncate(0)
            file.write(Owner.here().written())
            file.flush()
            yield

    def held(self, name: str) -> bool:
        """Whether a process of this machine holds it: not every network file system shows the locks of others."""
        path = self.folder / name
        if not self.exists(name):
            return False
        atomic_files.check_regular(path)
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def owner(self, name: str) -> Owner | None:
        try:
            atomic_files.check_regular(self.folder / name)
            return Owner.read(json_files.content(self.folder / name))
        except (OSError, ValueError, Unreadable):
            return None


def at(place: Place) -> Store:
    """The store at `place`. Raises BadInput if a bucket does not exist or cannot be reached."""
    return _objects(place) if isinstance(place, Url) else LocalStore(place)


@lru_cache(maxsize=256)
def _objects(url: Url) -> Store:
    from ablate.records.object_store import ObjectStore  # half a second of imports, which a folder does not need

    return ObjectStore(url)
