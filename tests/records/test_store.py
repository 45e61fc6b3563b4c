"""A study in a folder and one in a bucket are the same to a ledger, whatever is done to them, from several machines."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablate.errors import BadInput
from ablate.records import locations, store, study_reader
from ablate.records.interim_looks import Look
from ablate.records.ledger import Ledger, StaleAttempt
from ablate.records.locations import Url
from ablate.records.object_store import ObjectStore
from ablate.records.store import LocalStore, Store
from ablate.study import lifecycle, lock
from ablate.trials import plan
from tests import study_files
from tests.study_files import report, row

NAMES = ("study.json", "trials/a.parquet", "trials/b.parquet", "history/a-1.parquet", "looks/x/y.json")
FOLDERS = ("", "trials", "history", "looks", "none")
CONTENTS = (b"one", b"two", b"", b"longer")
"""Two of one length: within a second of the server's clock, nothing but the content tells them apart."""

steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["replace", "create"]), st.sampled_from(NAMES), st.sampled_from(CONTENTS)),
        st.tuples(st.sampled_from(["fetch", "exists"]), st.sampled_from(NAMES), st.just(b"")),
        st.tuples(st.sampled_from(["names", "pull"]), st.sampled_from(FOLDERS), st.just(b"")),
        st.tuples(st.just("remove"), st.sampled_from(FOLDERS[1:]), st.just(b"")),
    ),
    min_size=3,
    max_size=10,
)


def do(on: Store, action: str, name: str, content: bytes) -> object:
    """What a step answers, or the error that it ends in."""

    def fill(tmp: Path) -> None:
        tmp.write_bytes(content)

    if action in ("replace", "create"):
        try:
            (on.replace if action == "replace" else on.create)(name, fill)
        except FileExistsError as error:
            return type(error)
        return None
    if action == "remove":
        on.remove(name)
        return None
    if action == "pull":
        on.pull(name)
        return {path.relative_to(on.folder): path.read_bytes() for path in files(on.folder / name)}
    if action == "fetch":
        path = on.fetch(name)
        return path.read_bytes() if path.exists() else None
    return on.exists(name) if action == "exists" else on.names(name)


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Url], list[Store]]:
    """Two machines, each with copies of its own, that work on one URL."""

    def make(url: Url) -> list[Store]:
        made: list[Store] = []
        for machine in ("first", "second"):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / uuid.uuid4().hex / machine))
            made.append(ObjectStore(url))
        return made

    return make


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=steps, turns=st.lists(st.integers(0, 1), min_size=10, max_size=10))
def test_a_bucket_seen_from_two_machines_is_a_folder(
    script: list[tuple[str, str, bytes]],
    turns: list[int],
    machines: Callable[[Url], list[Store]],
    bucket: Url,
    tmp_path: Path,
):
    local = LocalStore(tmp_path / uuid.uuid4().hex)
    remote = machines(bucket / uuid.uuid4().hex)
    for (action, name, content), turn in zip(script, turns, strict=False):
        assert do(remote[turn], action, name, content) == do(local, action, name, content), (action, name)
    for machine in remote:
        machine.pull("")
        got = {path.relative_to(machine.folder): path.read_bytes() for path in files(machine.folder)}
        assert got == {path.relative_to(local.folder): path.read_bytes() for path in files(local.folder)}


@pytest.fixture(params=["folder", "bucket"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    if request.param == "folder":
        return Ledger(tmp_path / "results" / "tides")
    return Ledger(request.getfixturevalue("bucket") / "tides")


def elsewhere(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The same study as another machine sees it, which has no copies yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    store._objects.cache_clear()
    return Ledger(ledger.place)


def test_a_ledger_is_the_same_on_both(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = study_files.load(tmp_path)
    one, two = (plan.search_trial(study, {"model.ema_decay": decay}) for decay in (0.5, 0.25))
    assert not ledger.exists()
    ledger.write_study({"study": "tides"})
    first = ledger.claim(one.trial_id)
    for step in (2, 4):
        ledger.append_report(one.trial_id, attempt=first, report=report(step, val_loss=1.0))
    second = ledger.claim(one.trial_id)
    assert (first, second) == (1, 2)
    with pytest.raises(StaleAttempt):
        ledger.append_report(one.trial_id, attempt=first, report=report(6))
    with pytest.raises(StaleAttempt):
        ledger.finish(row(one, attempt=first))
    ledger.append_report(one.trial_id, attempt=second, report=report(4, val_loss=2.0))
    ledger.finish(row(one, attempt=second))
    ledger.write_samples(one.trial_id, [{"prompt": "a", "continuation": "b", "ended": True}])
    ledger.claim(two.trial_id)
    ledger.record_look(Look(at="2026-01-02T03:04:05+00:00", planned_seeds=3, shown={"a": (1, 2)}))

    ledger = elsewhere(ledger, tmp_path, monkeypatch)
    assert ledger.exists()
    assert ledger.read_study() == {"study": "tides"}
    assert (ledger.final_ids(), ledger.started_ids()) == ({one.trial_id}, {one.trial_id, two.trial_id})
    assert ledger.row(one.trial_id) == row(one, attempt=second)
    assert ledger.row(two.trial_id) is None
    lines = ledger.history().to_pylist()
    assert [(line["step"], line["attempt"]) for line in lines] == [(2, 1), (4, 2)]
    assert ledger.history(one.trial_id).to_pylist() == lines
    assert ledger.samples(one.trial_id)[0]["continuation"] == "b"
    assert ledger.samples(two.trial_id) == []
    assert [look.planned_seeds for look in ledger.looks()[0]] == [3]
    with pytest.raises(StaleAttempt):
        ledger.finish(row(one, attempt=second))
    assert study_reader.compact(ledger.root, metrics=ledger.metrics, at_least=1), "a copy of the copies"
    assert ledger.tables().trials.equals(ledger.trials())
    ledger.store.replace("trials/foreign.parquet", lambda tmp: tmp.write_text("nonsense"))
    (problem,) = ledger.problems()
    assert problem.startswith(f"{ledger.place}/trials/foreign.parquet: ")


def checkpoint(folder: Path, step: int) -> None:
    """As the trainer does: the new one first, then without the older ones."""
    for name in ("model.safetensors", "state.json"):
        path = folder / f"step-{step}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} {step}")
    for older in folder.glob("step-*"):
        if older.name != f"step-{step}":
            for path in older.iterdir():
                path.unlink()
            older.rmdir()


def test_a_trial_goes_on_elsewhere_from_the_checkpoint_that_was_kept(
    bucket: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ledger = Ledger(bucket / "tides")
    attempt = ledger.claim("t")
    folder = ledger.checkpoint_dir("t", own=True)
    for step in (2, 4):
        checkpoint(folder, step)
        (folder / "step-9.tmp").mkdir(exist_ok=True)
        (folder / "step-9.tmp" / "half").write_text("half")
        ledger.append_report("t", attempt=attempt, report=report(step + 2))
    checkpoint(folder, 6)  # never pushed: the machine dies

    here = elsewhere(ledger, tmp_path, monkeypatch)
    again = here.claim("t")
    found = {path.relative_to(here.root).as_posix() for path in files(here.checkpoint_dir("t", own=True))}
    assert found == {"checkpoints/t/step-4/model.safetensors", "checkpoints/t/step-4/state.json"}
    checkpoint(here.checkpoint_dir("t", own=True), 8)
    here.keep_checkpoint("t", attempt=attempt)
    assert here.store.names("checkpoints/t/step-8") == [], "an attempt that was replaced keeps nothing"
    here.keep_checkpoint("t", attempt=again)
    assert here.store.names("checkpoints/t/step-8") == ["model.safetensors", "state.json"]
    assert here.store.names("checkpoints/t/step-4") == []

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store._objects.cache_clear()
    back = Ledger(ledger.place)
    assert (back.checkpoint_dir("t") / "step-6").is_dir(), "a reader takes nothing away from who trains here"
    assert {path.parent.name for path in files(back.checkpoint_dir("t", own=True))} == {"step-8"}


def test_a_study_that_is_begun_anew_finds_nothing_of_the_old_one_here(bucket: Url, tmp_path: Path):
    study = study_files.load(tmp_path)
    ledger, _ = lifecycle.open_study(study, bucket, resume=False)
    ledger.path("optuna.journal").write_text("of this study")
    assert lifecycle.open_study(study, bucket, resume=True)[1] == "resumed"
    assert ledger.path("optuna.journal").exists()
    ledger.store.remove("")  # as with `aws s3 rm --recursive`, but for the copies
    ledger.root.mkdir(parents=True)
    ledger.path("optuna.journal").write_text("of a study that is no more")
    assert lifecycle.open_study(study, bucket, resume=False)[1] == "new"
    assert not ledger.path("optuna.journal").exists()


def test_a_driver_in_a_bucket_keeps_the_next_one_out(bucket: Url, tmp_path: Path):
    ledger, _ = lifecycle.open_study(study_files.load(tmp_path), bucket, resume=False)
    assert not lock.is_held(ledger)
    with lock.hold(ledger):
        assert lock.is_held(ledger)
        with pytest.raises(BadInput, match="another sweep is running it"), lock.hold(ledger):
            pass
        with pytest.raises(BadInput, match="another sweep is running it"):
            lifecycle.open_study(study_files.load(tmp_path), bucket, resume=True)
    assert not lock.is_held(ledger)
    assert not ledger.store.exists("driver.lock")


def test_a_url_in_a_ledger_travels(bucket: Url):
    ledger = Ledger(bucket / "tides")
    assert pickle.loads(pickle.dumps(ledger)) == ledger
    assert isinstance(locations.parse(str(bucket)), Url)
