"""A study in a folder and one in a bucket are the same to a ledger, whatever is done to them, from several machines."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablate import contents, lease, places, plan, store, studies
from ablate.errors import BadInput
from ablate.lease import Held, Owner, Slot
from ablate.ledger import Ledger, StaleAttempt
from ablate.looks import Look
from ablate.objects import ObjectStore
from ablate.places import Url
from ablate.store import LocalStore, Store
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
    assert contents.compact(ledger.root, at_least=1), "a copy of the copies"
    assert ledger.contents().trials.equals(ledger.trials())
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
    folder = ledger.own_checkpoint_dir("t")
    for step in (2, 4):
        checkpoint(folder, step)
        (folder / "step-9.tmp").mkdir(exist_ok=True)
        (folder / "step-9.tmp" / "half").write_text("half")
        ledger.append_report("t", attempt=attempt, report=report(step + 2))
    checkpoint(folder, 6)  # never pushed: the machine dies

    here = elsewhere(ledger, tmp_path, monkeypatch)
    again = here.claim("t")
    found = {path.relative_to(here.root).as_posix() for path in files(here.own_checkpoint_dir("t"))}
    assert found == {"checkpoints/t/step-4/model.safetensors", "checkpoints/t/step-4/state.json"}
    checkpoint(here.own_checkpoint_dir("t"), 8)
    here.keep_checkpoint("t", attempt=attempt)
    assert here.store.names("checkpoints/t/step-8") == [], "an attempt that was replaced keeps nothing"
    here.keep_checkpoint("t", attempt=again)
    assert here.store.names("checkpoints/t/step-8") == ["model.safetensors", "state.json"]
    assert here.store.names("checkpoints/t/step-4") == []

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store._objects.cache_clear()
    back = Ledger(ledger.place)
    assert (back.checkpoint_dir("t") / "step-6").is_dir(), "a reader takes nothing away from who trains here"
    assert {path.parent.name for path in files(back.own_checkpoint_dir("t"))} == {"step-8"}


def test_a_study_that_is_begun_anew_finds_nothing_of_the_old_one_here(bucket: Url, tmp_path: Path):
    study = study_files.load(tmp_path)
    ledger, _ = studies.open_study(study, bucket, resume=False)
    ledger.path("optuna.journal").write_text("of this study")
    assert studies.open_study(study, bucket, resume=True)[1] == "resumed"
    assert ledger.path("optuna.journal").exists()
    ledger.store.remove("")  # as with `aws s3 rm --recursive`, but for the copies
    ledger.root.mkdir(parents=True)
    ledger.path("optuna.journal").write_text("of a study that is no more")
    assert studies.open_study(study, bucket, resume=False)[1] == "new"
    assert not ledger.path("optuna.journal").exists()


def test_a_driver_in_a_bucket_keeps_the_next_one_out(bucket: Url, tmp_path: Path):
    ledger, _ = studies.open_study(study_files.load(tmp_path), bucket, resume=False)
    assert not studies.is_driven(ledger)
    with studies.driving(ledger):
        assert studies.is_driven(ledger)
        with pytest.raises(BadInput, match="another sweep is running it"), studies.driving(ledger):
            pass
        with pytest.raises(BadInput, match="another sweep is running it"):
            studies.open_study(study_files.load(tmp_path), bucket, resume=True)
    assert not studies.is_driven(ledger)
    assert not ledger.store.exists("driver.lock")


# ---- the lease, without a store


class Memory:
    """A slot in memory."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content, self.writes = content, 0
        self.slot = Slot(read=lambda: self.content, write=self.write, drop=lambda: self.write(None))

    def write(self, content: bytes | None) -> None:
        self.content, self.writes = content, self.writes + 1


def owned(**changes: object) -> bytes:
    """A lock's content: this process's, but for the changes."""
    return dataclasses.replace(Owner.here(), **changes).written()  # type: ignore[arg-type]


AWAY = "another-machine"


@pytest.mark.parametrize(
    ("content", "held"),
    [
        (None, False),
        (b"", False),
        (b"[1]", False),
        (b'{"owner": 1}', False),
        (owned(), True),
        (owned(born=1.0), False),  # another process that got the number since
        (owned(pid=2**22 + 1), False),
        (owned(namespace=1, born=1.0), True),  # a container beside this one
        (owned(host=AWAY, pid=1), True),
        (owned(host=AWAY, at="2026-01-01T00:00:00+00:00"), False),
        (owned(host=AWAY, at="soon"), False),
    ],
)
def test_who_is_taken_for_alive(content: bytes | None, held: bool):
    memory = Memory(content)
    assert lease.is_held(memory.slot) is held
    if held:
        with pytest.raises(Held), lease.hold(memory.slot, settle_s=0):
            pass
        assert memory.writes == 0
    else:
        with lease.hold(memory.slot, settle_s=0):
            assert lease.is_held(memory.slot)
        assert memory.content is None


def test_of_many_that_take_a_lease_at_once_one_gets_it():
    memory, got, start, leave = Memory(), [], threading.Barrier(6), threading.Event()

    def take() -> None:
        start.wait()
        with contextlib.suppress(Held), lease.hold(memory.slot, settle_s=0.5):
            got.append(1)
            leave.wait(30)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 20
    while sum(thread.is_alive() for thread in threads) > 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    leave.set()
    for thread in threads:
        thread.join()
    assert got == [1]


def test_a_heart_beats_until_the_lease_is_lost():
    memory = Memory()
    with lease.hold(memory.slot, settle_s=0, beat_s=0.01):
        end = time.monotonic() + 20
        while memory.writes < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        first = Owner.read(memory.content)
        other = owned(host=AWAY)
        memory.content = other
        lost = threading.enumerate()
        while any(thread.name == "lease" and thread.is_alive() for thread in lost):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert first is not None
        assert memory.content == other, "nothing is written over another's"
    assert memory.content == other, "nor taken away"


def test_a_url_in_a_ledger_travels(bucket: Url):
    ledger = Ledger(bucket / "tides")
    assert pickle.loads(pickle.dumps(ledger)) == ledger
    assert isinstance(places.parse(str(bucket)), Url)
