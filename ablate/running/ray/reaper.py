"""Removes placement groups that nobody holds any more.

Tune that stops a Train run abruptly leaves the run's group behind, and the next trial waits for its resources for ever.
Train's own cleaner needs the dashboard and a single Ray on the host; the table of groups needs neither.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import ray
from ray._private.state import state
from ray._raylet import ActorID, PlacementGroupID
from ray.core.generated.gcs_pb2 import (  # made by protobuf, without types
    JobTableData,  # pyright: ignore[reportAttributeAccessIssue]
    PlacementGroupTableData,  # pyright: ignore[reportAttributeAccessIssue]
)
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

_GONE = "REMOVED"


def reap(group_ids: Collection[str]) -> list[str]:
    """Remove those of `group_ids` (hex) that still stand; returns them."""
    table = placement_group_table()
    left = [group_id for group_id in group_ids if group_id in table and table[group_id]["state"] != _GONE]
    for group_id in left:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group_id))))
    return left


def reap_all() -> list[str]:
    """Remove every group that this driver's job still holds; other jobs of a shared cluster keep theirs."""
    # The last four bytes of a group's id are its job's.
    job = ray.get_runtime_context().get_job_id()
    return reap([group_id for group_id in placement_group_table() if group_id.endswith(job)])


def reap_orphans() -> list[str]:
    """Remove groups whose creator is dead: of this driver's job, and of sweeps whose driver has died.

    A group outlives the actor that made it for as long as that actor's job lives, and so does what it reserves.
    """
    mine, dead = ray.get_runtime_context().get_job_id(), _dead_sweeps()
    rows = [PlacementGroupTableData.FromString(row) for row in _accessor().get_placement_group_table()]
    return reap(
        [
            row.placement_group_id.hex()
            for row in rows
            if (job := row.creator_job_id.hex()) in dead or (job == mine and _is_orphan(row))
        ]
    )


def _is_orphan(row: Any) -> bool:
    """Whether an actor made the group and has died. A driver's own groups (Tune's) count as a dead actor's in Ray."""
    return row.creator_actor_dead and not ActorID(row.creator_actor_id).is_nil()


def _dead_sweeps() -> set[str]:
    """Jobs on this cluster that were sweeps (`cluster.connect` names their study) and whose driver is gone."""
    jobs = _accessor().get_job_table(skip_submission_job_info_field=True, skip_is_running_tasks_field=True)
    entries = [JobTableData.FromString(job) for job in jobs]
    return {entry.job_id.hex() for entry in entries if entry.is_dead and "study" in entry.config.metadata}


def _accessor() -> Any:
    """Ray's tables as the public functions get them, but with who made a group and who was a job's driver."""
    return state._connect_and_get_accessor()
