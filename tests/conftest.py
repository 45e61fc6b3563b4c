"""What all tests share: fixtures, and how `pytest -n 2` deals them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from ablate.records.ledger import Ledger
from ablate.records.locations import Url
from ablate.report.render import canvas
from ablate.running import inline
from ablate.running.runner import Halt, Listener
from ablate.running.trial import StudyContext
from tests.fakes import Act, Scripted
from tests.records import s3
from tests.study_files import METRICS, SMALL


class Files(LoadScopeScheduling):
    """Give each file to one worker, so that its fixtures are made once, and the whole folder `running` to one as well.

    Two Rays on one host confuse each other, and the limits of a second that its other files test would run out while a
    Ray starts beside them. (xdist's own groups, `--dist loadgroup`, group nothing with pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        folder = "tests/running/"
        return folder if nodeid.startswith(folder) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return Files(config, log)


@pytest.fixture
def context(tmp_path: Path) -> StudyContext:
    """The context of a study called `fake`, in a temporary folder."""
    return StudyContext(
        Ledger(tmp_path / "fake", METRICS), swanlab="disabled", objective="val_loss", git_commit="0" * 40
    )


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local S3 server, started once."""
    with s3.serving(tmp_path_factory.mktemp("s3") / "server.log") as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Url:
    """An empty bucket on the S3 server. The environment gives access to it; local copies go to `tmp_path`/cache."""
    for name, value in {**s3.KEYS, "AWS_ENDPOINT_URL": s3_endpoint, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return s3.bucket(s3_endpoint)


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
def empty_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are empty: drawing takes nine tenths of a report's time."""
    monkeypatch.setattr(canvas, "to_svg", lambda _: "<svg/>")
    monkeypatch.setattr(canvas, "to_png", lambda _: b"")
    monkeypatch.setattr(canvas, "to_pdf", lambda _: b"")


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_figures: None) -> Callable[..., Scripted]:  # noqa: ARG001
    """Make `--inline` play a script of acts instead of training the model. Figures of reports are empty."""

    def script(*acts: Act) -> Scripted:
        train = Scripted(list(acts), folder=tmp_path)

        @contextmanager
        def start(context: StudyContext, *, halt: Halt, on_event: Listener) -> Iterator[Any]:
            yield inline.InlineRunner(context, halt=halt, on_event=on_event, train=train)

        monkeypatch.setattr(inline, "start", start)
        return train

    return script
