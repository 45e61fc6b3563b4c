"""Shared fixtures: a ledger in a temporary folder, and one private Ray for all tests that need one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ablate.records.ledger import Ledger
from ablate.records.locations import Url
from ablate.running import inline
from ablate.running.runner import Halt, Listener
from ablate.running.trial import StudyContext
from tests.fakes import Act, Scripted
from tests.records import s3
from tests.study_files import SMALL

if TYPE_CHECKING:
    from ablate.running.ray.cluster import Cluster


@pytest.fixture
def context(tmp_path: Path) -> StudyContext:
    """What the trials of a study called `fake` share, in a temporary folder."""
    return StudyContext(Ledger(tmp_path / "fake"), swanlab="disabled", objective="val_loss", git_commit="0" * 40)


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local S3 server, started once."""
    with s3.serving(tmp_path_factory.mktemp("s3") / "server.log") as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Url:
    """An empty bucket on it, which this test's environment finds; copies are kept under `tmp_path`/cache."""
    for name, value in {**s3.KEYS, "AWS_ENDPOINT_URL": s3_endpoint, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return s3.bucket(s3_endpoint)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A private Ray with eight logical CPUs and one logical card, started once (it takes six seconds)."""
    # Imported here, so that tests without Ray do not wait for it.
    import ray.cloudpickle

    from ablate.running.ray.cluster import connect
    from tests import fakes

    ray.cloudpickle.register_pickle_by_value(fakes)  # workers need not find tests/
    with connect("fake", cpus=8, gpus=1) as cluster:
        yield cluster


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder for studies, which does not exist yet."""
    return tmp_path / "results"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Scripted]:
    """Let `--inline` train with a script instead of the model."""

    def script(*acts: Act) -> Scripted:
        train = Scripted(list(acts), folder=tmp_path)

        @contextmanager
        def start(context: StudyContext, *, halt: Halt, on_event: Listener) -> Iterator[Any]:
            yield inline.InlineRunner(context, halt=halt, on_event=on_event, train=train)

        monkeypatch.setattr(inline, "start", start)
        return train

    return script
