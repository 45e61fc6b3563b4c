"""Shared fixtures: a ledger in a temporary folder, and one private Ray for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ablate.ledger import Ledger
from ablate.trial import Desk

if TYPE_CHECKING:
    from ablate.ray_runner.cluster import Cluster


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """What the trials of a study called `fake` share, in a temporary folder."""
    return Desk(Ledger(tmp_path / "fake"), swanlab="disabled", objective="val_loss", git_commit="0" * 40)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A private Ray with eight logical CPUs and one logical card, started once (it takes six seconds)."""
    # Imported here, so that tests without Ray do not wait for it.
    import ray.cloudpickle

    from ablate.ray_runner.cluster import connect
    from tests import fakes

    ray.cloudpickle.register_pickle_by_value(fakes)  # workers need not find tests/
    with connect("fake", cpus=8, gpus=1) as cluster:
        yield cluster
