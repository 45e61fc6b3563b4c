"""Nobody else can read a token of Ray: not the one that a private Ray gets, not the one that joins a cluster."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablate import cli, sweep
from ablate.errors import BadInput
from ablate.running.ray import auth_token


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", auth_token.PATH):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that other users may enter, with a token that they may read."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        home = Path(folder)
        home.chmod(0o755)
        (home / ".ray").mkdir(mode=0o755)
        (home / ".ray" / "auth_token").write_text("0123")
        (home / ".ray" / "auth_token").chmod(0o644)
        monkeypatch.setenv("HOME", folder)
        yield home


def test_every_private_ray_has_a_token_that_only_its_user_reads(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    before = os.umask(0)
    try:
        for folder in folders:
            folder.mkdir()
            assert auth_token.make(folder) == folder / "auth_token"
    finally:
        os.umask(before)
    assert [stat.S_IMODE((folder / "auth_token").stat().st_mode) for folder in folders] == [0o600] * 2
    tokens = {(folder / "auth_token").read_text() for folder in folders}
    assert {len(token) for token in tokens} == {64}
    assert len(tokens) == 2


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_TOKEN", "0123"), ("RAY_AUTH_MODE", "disabled")])
def test_the_users_own_choice_of_a_token_stays(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert auth_token.make(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
@pytest.mark.parametrize("named", [False, True], ids=["at home", "named"])
def test_a_token_that_others_can_read_is_refused(
    mode: int, named: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / ".ray" / "auth_token"
    if named:
        path = path.rename(home / "my token")
        monkeypatch.setenv(auth_token.PATH, str(path))
    path.chmod(mode)
    with pytest.raises(BadInput, match=r"^--address: token: /tmp/.*: other users can read it.*; chmod 600 .*token'?$"):
        auth_token.check_private()
    path.chmod(0o600)
    auth_token.check_private()


@pytest.mark.parametrize("case", ["a closed home", "a closed folder", "no token", "another token", "no tokens"])
def test_what_others_cannot_read_or_ray_does_not_use_is_not_refused(
    case: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match case:
        case "a closed home":
            home.chmod(0o700)
        case "a closed folder":
            (home / ".ray").chmod(0o700)
        case "no token":
            (home / ".ray" / "auth_token").unlink()
        case "another token":
            monkeypatch.setenv("RAY_AUTH_TOKEN", "4567")
        case "no tokens":
            monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    auth_token.check_private()


@pytest.mark.usefixtures("home")
def test_a_sweep_refuses_the_token_in_one_line_and_writes_nothing(
    space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(space.parent.rglob("*"))
    argv = [str(space), "--results", str(space.parent / "results"), "--address", "127.0.0.1:1"]
    assert cli.guarded(lambda: sweep.main(argv)) == cli.BAD_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("--address: token: ")
    assert err.count("\n") == 1
    assert sorted(space.parent.rglob("*")) == before
