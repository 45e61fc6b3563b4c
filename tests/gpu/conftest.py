"""Marks every test of this folder, and skips it where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model import engine  # noqa: F401 - sets cuBLAS's workspace, before anything here starts cuBLAS

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before `-m gpu` looks for the marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A GPU's machine may have another version of torch: what that warns about must not fail a run there."""
    marks = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
    if not torch.cuda.is_available():
        marks.append(pytest.mark.skip(reason="CUDA sees no GPU"))
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("skipif") is None:  # those say themselves when
            for mark in marks:
                item.add_marker(mark)
