"""One private Ray for all tests that need one: they stand in this folder, so that one worker of xdist runs them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray.cloudpickle

from ablate.running.ray.cluster import Cluster, connect
from tests import fakes


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[Cluster]:
    """A private Ray with eight logical CPUs and one logical card, started once: it takes six seconds."""
    ray.cloudpickle.register_pickle_by_value(fakes)  # workers need not find tests/
    with connect("fake", cpus=8, gpus=1) as cluster:
        yield cluster
