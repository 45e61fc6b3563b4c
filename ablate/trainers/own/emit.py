"""`ablate.report`: how a command reports, without knowing whether it runs in a study."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

REPORTS = "ABLATE_REPORTS"
"""The variable that names the file to which a command of a study reports."""


def emit(progress: Any, /, **metrics: Any) -> None:
    """Report metrics at a progress, in units of the budget. Outside of a study they are printed, and that is all. Of
    the ranks that torchrun starts only the first reports."""
    if os.environ.get("RANK", "0") != "0":
        return
    line = json.dumps({"progress": progress, **metrics}, default=_number)
    path = os.environ.get(REPORTS)
    if path is None:
        print(", ".join([f"{progress}", *(f"{name} {value}" for name, value in metrics.items())]))
        return
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _number(value: Any) -> Any:
    """What JSON does not know: numpy's numbers and tensors of one element."""
    return value.item() if hasattr(value, "item") else float(value)
