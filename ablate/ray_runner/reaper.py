"""Removes placement groups that nobody holds any more.

Tune that stops a Train run abruptly leaves the run's group behind, and the next trial waits for its resources for ever.
Train's own cleaner needs the dashboard and a single Ray on the host; the table of groups needs neither.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import ray
import ray._private.state
from ray._raylet import PlacementGroupID
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

_GONE = "REMOVED"
_Data: Any = gcs_pb2.__dict__["PlacementGroupTableData"]  # generated: unknown to type checkers


def reap(group_ids: Collection[str]) -> list[str]:
    """Remove those of `group_ids` (hex) that still stand; returns them."""
    table = placement_group_table()
    left = [group_id for group_id in group_ids if group_id in table and table[group_id]["state"] != _GONE]
    for group_id in left:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group_id))))
    return left


def orphans() -> list[str]:
    """Groups of this driver's job whose creator, a Train controller, is dead: that of a trial that was killed while it
    waited for its resources is known to nobody else, and would take them as soon as they are free."""
    # The public table does not tell who made a group.
    accessor: Any = ray._private.state.state._connect_and_get_accessor()
    job = ray.get_runtime_context().get_job_id()
    table = [_Data.FromString(group) for group in accessor.get_placement_group_table()]
    left = [group for group in table if group.creator_actor_id and group.creator_actor_dead]
    ids = [group.placement_group_id.hex() for group in left if group.state != _Data.REMOVED]
    return [group_id for group_id in ids if group_id.endswith(job)]


def reap_all() -> list[str]:
    """Remove every group that this driver's job still holds; other jobs of a shared cluster keep theirs."""
    # The last four bytes of a group's id are its job's.
    job = ray.get_runtime_context().get_job_id()
    return reap([group_id for group_id in placement_group_table() if group_id.endswith(job)])
