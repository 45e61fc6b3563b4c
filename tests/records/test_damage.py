"""Whatever stands in a study's folder, its readers return bounded values or name the file and say why: no traceback, no
endless wait, and no other file is read wrongly because of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ablate.errors import BadInput, CannotWrite
from ablate.records import draws, json_files, lease, study_reader
from ablate.records.atomic_files import Unreadable
from ablate.records.ledger import Ledger
from ablate.records.schema import SCHEMA_VERSION
from tests import synthetic
from tests.study_files import METRICS, report

pytestmark = pytest.mark.timeout(60)


# ---- JSON

DEEP = "[" * 200_000 + "]" * 200_000
BAD_JSON = {
    "empty": "",
    "cut off": '{"a": ',
    "no UTF-8": b"\xff\xfe{}",
    "an infinite number": '{"a": 1e400}',
    "NaN": "NaN",
    "a whole number without end": "9" * 5_000,
    "a whole number that no double holds": "1" + "0" * 400,
    "200,000 levels": DEEP,
    "65 levels": "[" * 65 + "]" * 65,
    "half a surrogate pair": '{"study": "\\ud800"}',
    "half a surrogate pair in a key": '[{"\\udfff": 1}]',
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_json_beyond_the_bounds_is_unreadable(case: str, tmp_path: Path):
    text, path = BAD_JSON[case], tmp_path / "file.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(Unreadable):
        json_files.read(path)


@pytest.mark.parametrize("size", [json_files.MOST_BYTES + 1, 3 * 2**30])
def test_a_file_without_end_is_not_read(size: int, tmp_path: Path):
    """The file is sparse: it takes no room on the disk, and all of the memory."""
    for name in ("study.json", "driver.lock", "logs/t-1.txt", "samples/t.json"):
        (path := tmp_path / name).parent.mkdir(exist_ok=True)
        path.write_text("{}")
        os.truncate(path, size)
    ledger = Ledger(tmp_path)
    with pytest.raises(BadInput, match=r"study.json: cannot be read \(larger than 64 MiB"):
        ledger.read_study()
    with pytest.raises(BadInput, match="larger than 64 MiB"):
        ledger.samples("t")
    assert ledger.store.owner("driver.lock") is None
    assert ledger.log("t", attempt=1) == ""


def fifo(path: Path) -> None:
    os.mkfifo(path)


def nothing(path: Path) -> None:
    path.symlink_to(path.parent / "gone")


def itself(path: Path) -> None:
    path.symlink_to(path)


NO_FILES: dict[str, Callable[[Path], Any]] = {
    "a named pipe": fifo,
    "a link to nothing": nothing,
    "a link to itself": itself,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_no_file_is_not_opened(case: str, tmp_path: Path):
    NO_FILES[case](tmp_path / "study.json")
    with pytest.raises(Unreadable):
        json_files.read(tmp_path / "study.json")
    with pytest.raises(BadInput, match=r"study\.json: .*cannot be read"):
        Ledger(tmp_path).read_study()


@pytest.mark.parametrize("content", [DEEP.encode(), b"[]", b'{"pid": 1}', b"null", b"1e400"])
def test_the_content_of_a_lock_that_names_no_owner_names_none(content: bytes):
    assert lease.Owner.read(content) is None
    owner = json.loads(lease.Owner.here().written())
    assert lease.Owner.read(json.dumps({**owner, "pid": "4242"}).encode()) is None
    absurd = lease.Owner.read(json.dumps({**owner, "pid": 2**62}).encode())
    assert absurd is not None
    assert absurd.runs is False


# ---- parts


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Three ended trials."""
    ledger = Ledger(tmp_path / "ema")
    ledger.write_study(synthetic.study_json(space=synthetic.SPACE))
    synthetic.add_search(ledger, count=3, failed=False)
    return ledger


def rewritten(path: Path, **cells: Any) -> None:
    """Write a part again with another value in each of these columns."""
    part = pq.read_table(path)
    for name, column in cells.items():
        part = part.set_column(part.column_names.index(name), name, [column])
    pq.write_table(part, path)


def with_metadata(path: Path, version: str) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({"schema_version": version}), path)


DAY = 86_400 * 10**6
BAD_ROWS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (lambda path: os.truncate(path, path.stat().st_size // 2), "cut off"),
    "empty": (lambda path: path.write_bytes(b""), "cut off"),
    "a version that is no number": (lambda path: with_metadata(path, "abc"), "schema version is 'abc'"),
    "a version of 5,000 digits": (lambda path: with_metadata(path, "9" * 5_000), "schema version is '999"),
    "a time of another age": (
        lambda path: rewritten(path, finished_at=pa.array([2**62], pa.timestamp("us", tz="UTC"))),
        "finished_at is no time",
    ),
    "text for a number": (
        lambda path: rewritten(path, **{"param.train.balance_loss_coef": pa.array(["much"])}),
        "param.train.balance_loss_coef is 'much'",
    ),
    "another number than was trained": (
        lambda path: rewritten(path, **{"param.train.balance_loss_coef": pa.array([7.0])}),
        "param.train.balance_loss_coef is '7.0'",
    ),
    "a list for a metric": (lambda path: rewritten(path, val_loss=pa.array([[1.0]])), "do not fit"),
    "no time spent": (lambda path: rewritten(path, wall_s=pa.nulls(1, pa.float64())), "has no wall_s"),
    "endless time": (lambda path: rewritten(path, wall_s=pa.array([float("inf")])), "wall_s is inf"),
    "time before it began": (lambda path: rewritten(path, wall_s=pa.array([-1.0])), "wall_s is -1.0"),
    "time that is no number": (lambda path: rewritten(path, wall_s=pa.array([float("nan")])), "wall_s is nan"),
    "tokens below zero": (lambda path: rewritten(path, tokens_seen=pa.array([-1])), "tokens_seen is -1"),
    "no attempt": (lambda path: rewritten(path, attempt=pa.array([0])), "attempt is 0"),
    "an end that is none": (lambda path: rewritten(path, status=pa.array(["great"])), "status 'great'"),
    "a configuration that is none": (lambda path: rewritten(path, config_json=pa.array([DEEP])), "config_json"),
    "another trial's": (lambda path: rewritten(path, trial_id=pa.array(["b" * 12])), "another trial"),
    "two rows": (lambda path: pq.write_table(pa.concat_tables([pq.read_table(path)] * 2), path), "another trial"),
    "a named pipe": (lambda path: (path.unlink(), fifo(path)), "not a regular file"),
    "a link to nothing": (lambda path: (path.unlink(), nothing(path)), "No such file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "not a regular file"),
}


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_damaged_row_is_named_and_no_other_row_suffers(case: str, which: int, ledger: Ledger):
    """Whichever part it is: were types taken from the first, one damaged part could leave out all others."""
    paths = sorted(ledger.path("trials").iterdir())
    damage, reason = BAD_ROWS[case]
    damage(paths[which])
    whole = {path.stem for path in paths if path != paths[which]}
    assert set(ledger.trials().column("trial_id").to_pylist()) == ledger.final_ids() == whole
    assert {row.trial_id for row in ledger.rows()} == whole
    (problem,) = ledger.problems()
    assert problem.startswith(f"{paths[which]}: ")
    assert reason in problem
    assert not study_reader.compact(ledger.root, metrics=METRICS, at_least=1)
    assert ledger.tables().problems == (problem,)


@pytest.mark.parametrize("case", ["cut off", "a link to nothing", "a folder", "another trial's"])
def test_a_damaged_row_is_set_aside_and_never_deleted(case: str, ledger: Ledger):
    path = sorted(ledger.path("trials").iterdir())[0]
    damage, _ = BAD_ROWS[case]
    for name in (path.name, f"{path.name}.1"):
        if not os.path.lexists(path):
            path.write_bytes(b"again")
        else:
            damage(path)
        (line,) = ledger.set_aside()
        assert line.startswith(f"{path}: ")
        assert f"moved to damaged/trials/{name}" in line
        assert os.path.lexists(ledger.path("damaged", "trials", name))
        assert not os.path.lexists(path)
    assert ledger.set_aside() == []


def test_a_row_of_a_newer_version_is_not_damaged(ledger: Ledger):
    path = sorted(ledger.path("trials").iterdir())[0]
    with_metadata(path, str(SCHEMA_VERSION + 1))
    with pytest.raises(BadInput, match="update this package"):
        ledger.set_aside()
    assert path.exists()


BAD_REPORTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a time of another age": (
        lambda path: rewritten(path, time=pa.array([2**62] * 10, pa.timestamp("us", tz="UTC"))),
        "time is no time",
    ),
    "a version of 5,000 digits": (lambda path: with_metadata(path, "9" * 5_000), "schema version is '999"),
    "a version below zero": (lambda path: with_metadata(path, "-1"), "schema version is '-1'"),
    "a step below zero": (lambda path: rewritten(path, step=pa.array([*range(1, 10), -1])), "step is -1"),
    "tokens below zero": (lambda path: rewritten(path, tokens_seen=pa.array([-5] * 10)), "tokens_seen is -5"),
    "endless time": (lambda path: rewritten(path, wall_s=pa.array([float("inf")] * 10)), "wall_s is inf"),
    "time that is no number": (lambda path: rewritten(path, wall_s=pa.array([float("nan")] * 10)), "wall_s is nan"),
    "no step": (lambda path: rewritten(path, step=pa.nulls(10, pa.int64())), "empty step"),
    "another trial's": (lambda path: rewritten(path, trial_id=pa.array(["b" * 12] * 10)), "another trial"),
    "text for tokens": (lambda path: rewritten(path, tokens_seen=pa.array(["many"] * 10)), "do not fit"),
    "a named pipe": (lambda path: (path.unlink(), fifo(path)), "not a regular file"),
}


@pytest.mark.parametrize("case", BAD_REPORTS)
def test_damaged_reports_are_named_and_left_out(case: str, ledger: Ledger):
    paths = sorted(ledger.path("history").iterdir())
    damage, reason = BAD_REPORTS[case]
    damage(paths[0])
    assert len(set(ledger.history().column("trial_id").to_pylist())) == 2
    (problem,) = ledger.problems()
    assert reason in problem
    assert len(ledger.final_ids()) == 3


def test_a_part_that_vanishes_while_the_folder_is_read_is_no_error(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    assert study_reader.compact(ledger.root, metrics=METRICS, at_least=1)
    paths, listed = sorted(ledger.path("trials").iterdir()), os.scandir

    class Scan:
        """What `os.scandir` gives; the first part is gone before anyone asks for more."""

        def __init__(self, folder: Path) -> None:
            self.entries = list(listed(folder))
            paths[0].unlink(missing_ok=True)

        def __enter__(self) -> list[Any]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Scan)
    assert ledger.tables().trials.num_rows == 2


# ---- draws, samples, looks


def test_damaged_draws_are_named_and_left_out(ledger: Ledger):
    for number in range(3):
        draws.record(draws.Draw(number, "a" * 12, {"train.lr": 0.1}), store=ledger.store)
    folder = ledger.path("draws")
    far = {"number": 2_000_000_000, "trial_id": "a" * 12, "params": {}}
    (folder / "2000000000.json").write_text(json.dumps(far))
    (folder / "000004.json").write_text(json.dumps({**far, "number": 1}))
    (folder / "000005.json").write_text(json.dumps({**far, "number": -1}))
    (folder / "000006.json").write_text(DEEP)
    (folder / "000007.json").write_text('{"number": 1e400}')
    fifo(folder / "000008.json")
    found, problems = draws.recorded(ledger.store)
    assert [draw.number for draw in found] == [0, 1, 2]
    assert [problem.partition(":")[0] for problem in problems] == [
        f"draws/{name}.json" for name in ("000004", "000005", "000006", "000007", "2000000000")
    ]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"prompt": 1}]', DEEP])
def test_damaged_samples_are_bad_input(text: str, ledger: Ledger):
    (trial_id, *_) = sorted(ledger.final_ids())
    assert ledger.samples(trial_id) == []
    ledger.path("samples").mkdir()
    ledger.path("samples", f"{trial_id}.json").write_text(text)
    with pytest.raises(BadInput, match=rf"samples/{trial_id}\.json: not readable as samples"):
        ledger.samples(trial_id)


@pytest.mark.parametrize("text", ["", "null", DEEP, '{"at": "now", "planned_seeds": 1e400, "shown": {}}'])
def test_damaged_looks_are_named(text: str, ledger: Ledger):
    ledger.path("looks").mkdir()
    ledger.path("looks", "one.json").write_text(text)
    fifo(ledger.path("looks", "two.json"))
    looks, problems = ledger.looks()
    assert looks == []
    assert len(problems) == 2


# ---- what is deleted while it is written


def test_a_writer_whose_files_are_deleted_stops_the_study(ledger: Ledger):
    attempt = ledger.claim("t")
    ledger.store.remove("history")
    with pytest.raises(CannotWrite, match="deleted while it ran"):
        ledger.append_report("t", attempt=attempt, report=report(1))


def test_a_file_in_the_place_of_a_folder_is_no_trial_that_has_ended(tmp_path: Path):
    ledger = Ledger(tmp_path / "odd")
    ledger.root.mkdir()
    ledger.path("draws").write_text("")
    with pytest.raises(NotADirectoryError):
        draws.record(draws.Draw(0, "", {}), store=ledger.store)
    ledger.path("history").write_text("")
    with pytest.raises(NotADirectoryError):
        ledger.claim("t")
