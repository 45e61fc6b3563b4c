"""The tests of reports draw few figures."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def hardly_drawn(request: pytest.FixtureRequest) -> None:
    """In a test's own report figures are empty, unless it is marked `figures`. Reports that a module's tests share have
    every figure in every format: they are written before this fixture."""
    if request.node.get_closest_marker("figures") is None:
        request.getfixturevalue("empty_figures")
