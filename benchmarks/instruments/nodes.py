"""A Ray cluster of one's own, several nodes on this machine. The environment (token, temporary folder) is the caller's,
set before Ray is imported."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.instruments import victims


@contextlib.contextmanager
def cluster(root: Path) -> Iterator[tuple[str, Any, int]]:
    """Three nodes of two CPUs below `root`, the head without any; (address, what adds a node, the head's raylet)."""
    from ray.cluster_utils import Cluster

    patient = {"health_check_period_ms": 1_000, "health_check_failure_threshold": 8, "health_check_timeout_ms": 5_000}
    head = {"num_cpus": 0, "temp_dir": str(root / "ray"), "include_dashboard": True, "_system_config": patient}
    head |= {"dashboard_host": "127.0.0.1", "dashboard_port": _free_port()}  # another Ray may have the usual one
    nodes = Cluster(initialize_head=True, head_node_args=head)
    try:
        (raylet,) = victims.raylets(root)

        def add() -> None:
            nodes.add_node(num_cpus=2, wait=False)

        add()
        add()
        yield str(nodes.address), add, raylet.pid
    finally:
        nodes.shutdown()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def standing(address: str) -> list[str]:
    """Placement groups that the cluster still holds."""
    import ray
    from ray.util.placement_group import placement_group_table

    ray.init(address=address, log_to_driver=False, configure_logging=False)
    try:
        return [name for name, row in placement_group_table().items() if row["state"] != "REMOVED"]
    finally:
        ray.shutdown()
