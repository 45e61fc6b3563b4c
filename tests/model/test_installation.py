"""The hash of the model's code, and its caches for a user without a home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.config import Config, cache_dir, code_hash, installation, resolve
from model.cost import footprint, peak_memory
from model.data import tokenizer
from model.data.corpus import Documents
from tests import ROOT


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom passwd does not know, without HOME."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)


def hashed(package: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The hash of what decides a run, and of the whole package in this folder."""
    monkeypatch.setattr(installation, "__file__", str(package / "config" / "installation.py"))
    return code_hash.__wrapped__(), code_hash.__wrapped__(whole=True)


def test_the_hash_is_of_the_files_that_decide_what_a_run_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the package is installed, and without git."""
    for path in (ROOT / "model").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    package = tmp_path / "model"
    before = hashed(package, monkeypatch)
    assert before == (code_hash(), code_hash(whole=True))
    for name in ("cost/formulas.py", "train.py", "bank/__main__.py"):
        package.joinpath(name).write_text("# changed\n", encoding="utf-8")
    decides, whole = hashed(package, monkeypatch)
    assert (decides == before[0], whole == before[1]) == (True, False)
    for name in ("loss.py", "bank/ema.py", "evaluate/losses.py"):
        kept = package.joinpath(name).read_bytes()
        package.joinpath(name).write_bytes(kept + b"\n")
        assert hashed(package, monkeypatch)[0] != before[0], name
        package.joinpath(name).write_bytes(kept)
    package.joinpath("loss.py").rename(package / "losses.py")
    assert hashed(package, monkeypatch)[0] != before[0], "a name counts too"


@pytest.mark.parametrize("cache", ["home", "no home", "chosen"])
def test_torch_leaves_no_folder_in_the_temporary_one(cache: str, tmp_path: Path) -> None:
    """Unless the cache's folder cannot be made: torch would fail there."""
    (tmp_path / "file").touch()
    at = {"home": tmp_path / "cache", "no home": tmp_path / "file" / "cache", "chosen": tmp_path / "cache"}[cache]
    (temporary := tmp_path / "tmp").mkdir()
    chosen = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "mine")} if cache == "chosen" else {}
    plain = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    more = {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(at), **chosen}
    program = "import model.config, os; print(os.environ.get('TORCHINDUCTOR_CACHE_DIR'))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**plain, **more}, capture_output=True, text=True, timeout=60, check=True
    )
    expected = {"home": str(at / "ablate" / "torchinductor"), "no home": "None", "chosen": str(tmp_path / "mine")}
    assert done.stdout.strip() == expected[cache]
    assert not at.exists(), "torch makes it when it needs it"


def test_a_user_without_a_home_has_no_caches_and_trains_all_the_same(
    nobody: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peak_memory, "_KNOWN", {})
    config: Config = resolve("tiny", {"model.vocab_size": 300, "train.tokens": 1_024})
    assert cache_dir("footprints") is None
    assert footprint(config, device="cpu").peak_gib > 0
    assert tokenizer.load_or_train(config, Documents((), (), (), (), "")).to_json()


@pytest.mark.parametrize("home", ["/", "/nonexistent", "/proc"])
def test_a_cache_that_cannot_be_kept_costs_time_alone(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(peak_memory, "_KNOWN", {})

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    config = resolve("tiny", {"model.vocab_size": 300})
    assert footprint(config, device="cpu").peak_gib > 0
    with pytest.warns(UserWarning, match="tokenizer not cached"):
        tokenizer.load_or_train(config, Documents((), (), (), (), ""))
