"""Small runs on the GPU, and the processes that some tests start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from model.api import ALLOCATOR_VARIABLES, EXPANDABLE, Config, resolve
from tests import ROOT

SHORT_EVALUATION = {
    "eval.val_tokens": 1_024,
    "eval.prompts": 4,
    "eval.new_tokens": 8,
    "eval.fact_probes": 8,
}


def tiny(overrides: Mapping[str, Any], *, steps: int) -> Config:
    """The preset `tiny`, for some steps and with a short evaluation."""
    keys = {**SHORT_EVALUATION, **overrides}
    batch = keys.get("train.batch_size", 8)
    return resolve("tiny", keys | {"train.tokens": steps * batch * 64})


def environment(**more: str) -> dict[str, str]:
    """Of a process that finds this checkout, and whose allocator grows in place as a trial's does."""
    kept = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, **EXPANDABLE, "PYTHONPATH": os.pathsep.join(paths), **more}
