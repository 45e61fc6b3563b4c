"""The tests of reports draw each figure once, users three times: drawing takes nine tenths of a report's time."""

from __future__ import annotations

import pytest

from ablate.report.render import canvas


@pytest.fixture(autouse=True)
def drawn_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a test's own report figures are drawn as SVG alone. Reports that a module's tests share have every format:
    they are written before this fixture."""
    if request.path.name != "test_files.py":  # it reads pixels
        monkeypatch.setattr(canvas, "to_png", lambda _: b"")
        monkeypatch.setattr(canvas, "to_pdf", lambda _: b"")
