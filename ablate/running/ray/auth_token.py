"""Ray's token. Whoever can read it can run programs as this user, so no other user may."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray._raylet import AuthenticationTokenLoader  # pyright: ignore[reportAttributeAccessIssue] - Cython's

from ablate.errors import BadInput

PATH = "RAY_AUTH_TOKEN_PATH"
"""The variable that says which file holds the token."""


def make(folder: Path) -> Path | None:
    """Write a new token into `folder`. None where the user's environment gives a token, or asks for none.

    Ray itself would write it to ~/.ray/auth_token, readable by every user.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or not _is_asked_for():
        return None
    path = folder / "auth_token"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return path


@contextmanager
def read_anew() -> Iterator[None]:
    """Inside, Ray knows the environment's token, and afterwards forgets it: a process reads its token only once."""
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        AuthenticationTokenLoader.instance().reset_cache()


def check_private() -> None:
    """Raise BadInput where other users can read the file of the token that this process would send to a cluster."""
    if os.environ.get("RAY_AUTH_TOKEN") or not _is_asked_for():
        return
    path = Path(os.environ.get(PATH) or Path.home() / ".ray" / "auth_token")
    if _others_read(path):
        rule = "other users can read it, and so run programs as you on the cluster"
        raise BadInput("--address", "token", path, rule, f"chmod 600 {shlex.quote(str(path))}")


def _is_asked_for() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"


def _others_read(path: Path) -> bool:
    """Whether the file's mode lets others read it, and each folder above lets others pass."""
    try:
        real = path.resolve(strict=True)
        return bool(real.stat().st_mode & 0o044) and all(above.stat().st_mode & 0o011 for above in real.parents)
    except OSError:  # there is none: Ray says so itself
        return False
