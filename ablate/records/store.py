"""What a ledger is kept in. Names are relative to a study: `trials/ID.parquet`. A folder is what it always was; of a
prefix in a bucket (`ablate.objects`) a folder on this machine holds copies."""

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

from ablate.records import atomic_files
from ablate.records.lease import Held, Owner
from ablate.records.locations import Place, Url


class Store(Protocol):
    """The files of one study, or of a folder of studies."""

    @property
    def folder(self) -> Path:
        """Where the files are, or their copies."""
        ...

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder of the study, sorted; none where there is no such folder."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def folders(self, *, having: str) -> list[str]:
        """Names of the folders directly in here that have a file of this name, sorted."""
        ...

    def fetch(self, name: str) -> Path:
        """The file itself or its copy, as it is now; not there where it is not."""
        ...

    def pull(self, folder: str, *, prefix: str = "", mirror: bool = True) -> None:
        """Bring copies up to date, of the files whose names in the folder begin with `prefix`; `mirror`: and drop what
        else is there, be it a copy of what is gone or never pushed."""
        ...

    def push(self, folder: str, *, mirror: bool = False) -> None:
        """Keep what somebody wrote to the folder here; `mirror`: and drop the folders in it that are gone here."""
        ...

    def replace(self, name: str, write: Callable[[Path], object]) -> None:
        """See `parts.replace`."""
        ...

    def create(self, name: str, write: Callable[[Path], object]) -> None:
        """See `parts.create`."""
        ...

    def remove(self, folder: str) -> None:
        """Drop a folder of the study with all that is in it; `""`: the study."""
        ...

    def forget(self) -> None:
        """Drop all copies, and whatever else is only here."""
        ...

    def scratch(self, name: str, *, shared: bool) -> str:
        """A folder for notes that nobody keeps; `shared`: where other machines see it too."""
        ...

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock; raises `Held` where somebody else does."""
        ...

    def held(self, name: str) -> bool:
        """Whether somebody holds it."""
        ...

    def owner(self, name: str) -> Owner | None:
        """Who holds it, or held it last; None where that is not known."""
        ...


@dataclass(frozen=True)
class LocalStore:
    """A folder, which every machine that works on the study sees. There are no copies to be brought up to date."""

    folder: Path

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self.folder / folder) as entries:
                return sorted(e.name for e in entries if not e.name.endswith(".tmp") and e.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def folders(self, *, having: str) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob(f"*/{having}"))

    def exists(self, name: str) -> bool:
        return (self.folder / name).is_file()

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

    def scratch(self, name: str, *, shared: bool) -> str:  # noqa: ARG002 - a folder of the study is seen by all
        return str(self.folder / name)

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """The lock is the kernel's, so a killed process leaves none behind; the file says whose it is."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:  # what another process has written stays, until the lock is got
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Held from None
            file.truncate(0)
            file.write(Owner.here().written())
            file.flush()
            yield

    def held(self, name: str) -> bool:
        """By a process of this machine, that is: what another one holds is not seen on every network's file system."""
        path = self.folder / name
        if not path.exists():
            return False
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def owner(self, name: str) -> Owner | None:
        try:
            return Owner.read((self.folder / name).read_bytes())
        except OSError:
            return None


def at(place: Place) -> Store:
    """The store of what is kept at `place`. Raises BadInput where a bucket is not there or cannot be reached."""
    return _objects(place) if isinstance(place, Url) else LocalStore(place)


@lru_cache(maxsize=256)
def _objects(url: Url) -> Store:
    from ablate.records.object_store import ObjectStore  # half a second of imports, which a folder does not need

    return ObjectStore(url)
