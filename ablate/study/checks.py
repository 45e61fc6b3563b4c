"""Short runs of a trainer that say what its numbers can carry: are they the same twice, does the seed reach them, does
every parameter, does a resumed run equal one that was not interrupted, and what does a trial take."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablate.errors import ParameterError
from ablate.records import json_files
from ablate.records.atomic_files import Unreadable
from ablate.records.ledger import Ledger
from ablate.spec import designs
from ablate.spec.models import StudySpec
from ablate.trainers import Config, Report, Verdict
from ablate.trials import plan

REPORTS = 2
"""Reports of a short run: one to be interrupted after, and one to compare."""

FILE = "check.json"
"""In the study's folder."""

Numbers = tuple[tuple[int, str, float], ...]
"""(progress, metric, value) of every report of a run."""


@dataclass(frozen=True)
class Checked:
    """What the short runs of a study showed, by the code whose hash is `code_hash`.

    `apart`: the largest relative difference between two runs of the same seed: 0 where they are equal bit for bit, and
    2, the largest that there is, where they did not report the same things.
    `seed_reaches`: whether another seed gave other numbers. `inert`: searched keys and arms that changed nothing.
    `resumed_apart`: the largest relative difference of a run that was interrupted and resumed; None where a run had
    only one report. `trial_s`: the time of a whole trial, scaled by its budget. `error`: why a run failed; the rest is
    then not known.
    """

    at: str
    code_hash: str
    trials: int
    reports: int = 0
    apart: float | None = None
    seed_reaches: bool | None = None
    inert: tuple[str, ...] = ()
    resumed_apart: float | None = None
    peak_gib: float | None = None
    trial_s: float | None = None
    error: str = ""

    @property
    def complaints(self) -> tuple[str, ...]:
        """What a reader of the results has to know; empty where all is well."""
        if self.error:
            return (f"a short run failed: {self.error}",)
        found = []
        if self.apart:
            found.append(f"the same seed twice is {in_words(self.apart)}")
        if self.seed_reaches is False:
            found.append("another seed gives the same numbers: the seed does not reach the trainer")
        if self.inert:
            found.append(
                f"{', '.join(self.inert)} changed nothing in the first reports: perhaps it does not reach the trainer"
            )
        if self.resumed_apart:
            found.append(f"a resumed run, beside one that was not interrupted, is {in_words(self.resumed_apart)}")
        return tuple(found)


def check(spec: StudySpec, *, say: Callable[[str], None] = lambda _: None) -> Checked:
    """Train short runs in this process, one after the other; nothing of them is kept."""
    head = {"at": datetime.now(UTC).isoformat(), "code_hash": spec.trainer.code_hash, "trials": plan.planned(spec)}
    try:
        return Checked(**head, **_found(spec, say))
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        say(traceback.format_exc().rstrip())
        return Checked(**head, error=f"{type(error).__name__}: {error}"[:500])


def _found(spec: StudySpec, say: Callable[[str], None]) -> dict[str, Any]:
    seed = spec.trainer.description.seed
    base = spec.base.override({seed: spec.base.seed + 1})
    first = _run(base)
    say(f"{len(first.progress)} reports in {first.wall_s:.2g} s; the same again")
    apart = _apart(first.numbers, _run(base).numbers)
    say("another seed")
    other = _run(base.override({seed: base.seed + 1}))
    inert = []
    for name, config in _variants(spec, base):
        say(name)
        if _run(config).numbers == first.numbers:
            inert.append(name)
    resumed = None
    if len(first.progress) > 1:
        say("interrupted after the first report, and resumed")
        resumed = _apart(first.numbers, _interrupted(base, until=first.progress[-1]))
    budget = base.cost.budget or 0
    return {
        "reports": len(first.progress),
        "apart": apart,
        "seed_reaches": other.numbers != first.numbers,
        "inert": tuple(inert),
        "resumed_apart": resumed,
        "peak_gib": first.peak_gib,
        "trial_s": first.wall_s * budget / first.progress[-1] if first.progress and first.progress[-1] else None,
    }


@dataclass(frozen=True)
class _Short:
    numbers: Numbers
    progress: tuple[int, ...]
    wall_s: float
    peak_gib: float | None


def _run(config: Config, *, folder: Path | None = None, until: int = REPORTS, end: Verdict = Verdict.STOP) -> _Short:
    """Train until so many reports."""
    reports: list[Report] = []

    def tell(report: Report) -> Verdict:
        reports.append(report)
        return end if len(reports) >= until else Verdict.CONTINUE

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ablate-check-") as temporary:
        config.trainer.train(config, tell, checkpoint_dir=folder or Path(temporary) / "trial")
    peaks = [report.metrics["peak_gib"] for report in reports if "peak_gib" in report.metrics]
    return _Short(
        numbers=tuple(number for report in reports for number in _numbers(config, report)),
        progress=tuple(report.tokens_seen for report in reports),
        wall_s=time.monotonic() - began,
        peak_gib=max((float(peak) for peak in peaks if not isinstance(peak, list)), default=None),
    )


def _interrupted(config: Config, *, until: int) -> Numbers:
    """The numbers up to a progress, of a run that was interrupted after its first report. A trainer without
    checkpoints begins again, and what it reports again counts."""
    with tempfile.TemporaryDirectory(prefix="ablate-check-") as temporary:
        folder = Path(temporary) / "trial"
        before = _run(config, folder=folder, until=1, end=Verdict.INTERRUPT)
        after = _run(config, folder=folder)
    kept = [number for number in before.numbers if number[0] < after.progress[0]]
    return tuple(number for number in (*kept, *after.numbers) if number[0] <= until)


def _numbers(config: Config, report: Report) -> Iterator[tuple[int, str, float]]:
    """What the training decides: losses, and the metrics that are not of time and memory."""
    for number, loss in enumerate(report.losses):
        yield report.tokens_seen, f"loss {number}", loss
    measured = {metric.name for metric in config.trainer.description.metrics if _is_of_the_machine(metric.unit)}
    for name, value in report.metrics.items():
        if name not in measured and isinstance(value, int | float):
            yield report.tokens_seen, name, float(value)


def _is_of_the_machine(unit: str) -> bool:
    return unit in ("GiB", "s", "ms", "%", "W", "J") or unit.endswith("/s")


def _apart(one: Numbers, other: Numbers) -> float:
    """The largest relative difference of two runs."""
    if one == other:
        return 0.0
    if [number[:2] for number in one] != [number[:2] for number in other]:
        return 2.0
    pairs = [(a[2], b[2]) for a, b in zip(one, other, strict=True)]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-300) for a, b in pairs)


def in_words(difference: float) -> str:
    """A difference of two runs, as `apart` gives it."""
    if difference == 0:
        return "identical, bit for bit"
    return "another row of reports" if difference == 2 else f"up to {difference:.2g} apart (relative)"


def _variants(spec: StudySpec, base: Config) -> Iterator[tuple[str, Config]]:
    """Every searched parameter at another value than the base's, and every arm."""
    for key, distribution in spec.search.items():
        for value in reversed(distribution.ends):
            if value != base[key]:
                try:
                    yield key, base.override({key: value})
                except ParameterError:  # it only goes together with another value
                    continue
                break
    for arm in designs.expand(spec.ablation, base) if spec.ablation else ():
        if arm.design != "reseed":
            yield f"arm {arm.name}", base.override(arm.overrides)


def write(ledger: Ledger, checked: Checked) -> None:
    """Keep it in the study's folder."""
    ledger.write_check(asdict(checked))


def read(ledger: Ledger, *, code_hash: str | None) -> Checked | None:
    """What `write` kept of this code; None where the study was never checked, or with other code, or the file cannot be
    read."""
    try:
        found = json_files.read(ledger.store.fetch(FILE)) if ledger.store.exists(FILE) else None
        checked = None if found is None else Checked(**{**found, "inert": tuple(found["inert"])})
    except (Unreadable, TypeError, KeyError):
        return None
    return checked if checked is not None and checked.code_hash == (code_hash or "") else None
