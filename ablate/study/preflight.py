"""Checks before anything is started or written: whether a trial fits on this machine, and results can be written."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from itertools import takewhile

from ablate.errors import BadInput
from ablate.records import provenance, store
from ablate.records.locations import Place, Url
from ablate.scheduling import packing
from ablate.scheduling.packing import Slots
from ablate.scheduling.placement import Node
from ablate.spec.models import Resources


@dataclass(frozen=True)
class Machine:
    """CPUs and GPUs to plan with. `card`: the first GPU's name; None where there is none. `elsewhere`: the GPUs are in
    another machine, whose CPUs are unknown."""

    cpus: int
    gpus: int
    card: str | None
    elsewhere: bool


def machine(*, gpus: int | None, card: str | None) -> Machine:
    """This machine, or the one that the user describes: `gpus` logical GPUs, a `card` of another machine."""
    visible = _visible_gpus()
    name = card or (provenance.device() if visible else None)
    count = gpus if gpus is not None else max(visible, 1 if card else 0)
    return Machine(cpus=os.cpu_count() or 1, gpus=count, card=name, elsewhere=card is not None)


def slots(resources: Resources, here: Machine) -> Slots:
    """How trials fit on `here`; on another machine, only GPUs count. Raises BadInput where no trial fits."""
    cpus = sys.maxsize if here.elsewhere and resources.gpu != 0 else here.cpus
    nodes = [Node.of("here", cpus=cpus, gpus=here.gpus)]
    return packing.fit(resources, nodes=nodes, cuda=here.card is not None)


def check_results(results: Place) -> None:
    """Raise BadInput where studies cannot be written to `results`. It need not exist yet."""
    if isinstance(results, Url):
        store.at(results)  # raises BadInput for a bucket that cannot be used
        return
    hint = "give a writable folder: --results DIR"
    try:
        existing = next(path for path in [results, *results.absolute().parents] if path.exists() or path.is_symlink())
    except OSError as error:  # such as a name that is too long
        raise BadInput("--results", "", results, error.strerror or str(error), hint) from None
    if not existing.is_dir():
        raise BadInput("--results", "", results, f"{existing} is not a folder", hint)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise BadInput("--results", "", results, f"{existing} is not writable", hint)


def _visible_gpus() -> int:
    """How many GPUs a CUDA program started here would see. Does not start CUDA."""
    import pynvml  # not at the top: a command that trains nothing should not load it

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return count
    named = takewhile(lambda part: part and not part.startswith("-"), map(str.strip, chosen.split(",")))
    return min(count, len(list(named)))  # CUDA stops at the first that names none: `-1` hides all
