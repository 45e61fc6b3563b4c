"""This installation of the model: a hash of its code, and the folder for what can be made again."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

_BESIDES = ("cost/", "train.py", "bank/__main__.py")
"""Files of `model/` that change no number of a run: what predicts its cost, and the commands."""


@functools.cache
def code_hash(*, whole: bool = False) -> str:
    """16 hex digits of a hash of the files that decide what a run computes; with `whole`, of all files of the model.

    It hashes the files as they are installed, so it needs no git, and a commit that touches none of them keeps it. It
    is read once: a process goes on with the code that it has imported.
    """
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name, path in sorted(files.items()):
        if whole or not name.startswith(_BESIDES):
            content = path.read_bytes()
            digest.update(f"{name}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:16]


def keep_torch_tidy() -> None:
    """Give torch a folder of the cache for compiled code, unless one is chosen: it makes one in the temporary folder as
    soon as it is imported, also where nothing is compiled, and leaves it there."""
    folder = cache_dir("torchinductor")
    if folder is not None and _may_be_made(folder):  # else torch's own choice stays
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _may_be_made(folder: Path) -> bool:
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError:
        return False
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def cache_dir(name: str) -> Path | None:
    """$XDG_CACHE_HOME (~/.cache) / ablate / `name`, which need not exist; None for a user without a home."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(chosen) if chosen else Path.home() / ".cache") / "ablate" / name
    except RuntimeError:  # HOME is not set, and passwd does not know the user
        return None
