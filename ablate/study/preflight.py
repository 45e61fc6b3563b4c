"""What can be said before anything is started or written: does a trial fit on this machine, can results be kept."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from ablate.errors import BadInput
from ablate.records import provenance, store
from ablate.records.locations import Place, Url
from ablate.scheduling import packing
from ablate.scheduling.packing import Slots
from ablate.scheduling.placement import Node
from ablate.spec.models import Resources


@dataclass(frozen=True)
class Machine:
    """CPUs and cards to plan with. `card` is the first one's name, None where there is none; `elsewhere`: it is not
    here, and nothing is known of the CPUs beside it."""

    cpus: int
    gpus: int
    card: str | None
    elsewhere: bool


def machine(*, gpus: int | None, card: str | None) -> Machine:
    """This machine, or what the user says it is: `gpus` logical cards, a `card` that is not here."""
    visible = _visible_cards()
    name = card or (provenance.device() if visible else None)
    count = gpus if gpus is not None else max(visible, 1 if card else 0)
    return Machine(cpus=os.cpu_count() or 1, gpus=count, card=name, elsewhere=card is not None)


def slots(resources: Resources, here: Machine) -> Slots:
    """How trials fit on `here`. Raises BadInput where not one does. Of a machine elsewhere the cards alone decide."""
    cpus = sys.maxsize if here.elsewhere and resources.gpu != 0 else here.cpus
    nodes = [Node.of("here", cpus=cpus, gpus=here.gpus)]
    return packing.fit(resources, nodes=nodes, cuda=here.card is not None)


def check_results(results: Place) -> None:
    """Raise BadInput unless studies can be written to `results`, which need not exist yet."""
    if isinstance(results, Url):
        store.at(results)  # says itself what is wrong with a bucket
        return
    hint = "give a folder that can be written: --results DIR"
    there = next(path for path in [results, *results.absolute().parents] if path.exists())
    if not there.is_dir():
        raise BadInput("--results", "", results, f"{there} is not a folder", hint)
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadInput("--results", "", results, f"{there} is not writable", hint)


def _visible_cards() -> int:
    """Cards that CUDA programs started here would see, without starting CUDA."""
    import pynvml  # a command that trains nothing should not load it

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return count if chosen is None else min(count, len([part for part in chosen.split(",") if part.strip()]))
