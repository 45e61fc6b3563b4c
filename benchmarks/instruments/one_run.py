"""`python -m benchmarks.instruments.one_run OVERRIDES`: trains one configuration in a process of its own, and prints
what it took.

OVERRIDES is a JSON object of dotted keys; `preset` is one of them. The last line of stdout is a JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from model.api import Report, Verdict, resolve, train


def main(argv: list[str]) -> int:
    """Train, then print."""
    overrides: dict[str, Any] = json.loads(argv[0])
    config = resolve(str(overrides.pop("preset")), overrides)
    reports: list[Report] = []

    def note(report: Report) -> Verdict:
        reports.append(report)
        return Verdict.CONTINUE

    with tempfile.TemporaryDirectory() as folder:
        result = train(config, note, checkpoint_dir=Path(folder))
    rates = [float(report.metrics["tokens_per_s"]) for report in reports]  # pyright: ignore[reportArgumentType]
    found = {
        "device": result.device,
        "tokens_per_s": median(rates[1:] or rates),  # in the first, caches were cold and kernels were loaded
        "reserved_gib": result.metrics.get("peak_reserved_gib"),
        "losses": [loss for report in reports for loss in report.losses],
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
