"""`python -m benchmarks.gpu_check [--json]`: what only a card can show, in minutes on one of 24 GB.

The project was built without a card: its predictions of memory, its roofline and its advice on trials that share a
card are arithmetic. This holds them against the card that is here. Where there is none it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

Overrides = Mapping[str, Any]

MICRO_BATCHES, REPORT_EVERY = 24, 6
ROOFLINE_CARD = "RTX 4090"
"""docs/roofline.md has this card's limits and no other's."""
MPS = "nvidia-cuda-mps-control"
MOST_S = 900.0
BASE: Overrides = {
    "preset": "seed-1.4.6",
    "data.corpus": "pydoc",  # real text, nothing to download
    "train.epochs": None,
    "train.accumulation_steps": 2,
    "train.report_every": REPORT_EVERY,
    "eval.val_tokens": 24_576,
    "eval.prompts": 4,
    "eval.new_tokens": 8,
}
SIZES: Mapping[str, Overrides] = {
    "batch 8": {"train.batch_size": 8},
    "batch 16": {"train.batch_size": 16},
    "batch 48": {"train.batch_size": 48},
    "batch 16, checkpointing": {"train.batch_size": 16, "train.gradient_checkpointing": "on"},
    "batch 16, 32 tokens an entry": {"train.batch_size": 16, "model.knowledge_length": 32},
    "batch 16, fp32": {"train.batch_size": 16, "train.precision": "fp32"},
    "batch 16, no memory": {"train.batch_size": 16, "model.memory": "none"},
}
FULL, SMALL = "batch 48", "batch 8"
"""Which of SIZES is held against the roofline, and which runs in pairs and is repeated."""
WOULD = (
    "the predicted peak of memory against what is reserved, tokens/s against the roofline, two trials at once with and "
    "without MPS, a run repeated bit for bit"
)


@dataclass(frozen=True)
class Outcome:
    """What a run measured; `failed` says why it did not, and everything else is then None or empty."""

    tokens_per_s: float | None
    reserved_gib: float | None
    losses: tuple[float, ...]
    failed: str | None


@dataclass(frozen=True)
class Server:
    """MPS: what a client's environment must have, or why it could not be started."""

    environment: Mapping[str, str]
    failed: str | None


@dataclass(frozen=True)
class Tools:
    """What a check stands on; tests put other things in their place.

    `launch` runs configurations at the same time, each in its own process; `predict` gives GiB that PyTorch will
    reserve; `roofline` tokens/s by what is counted.
    """

    launch: Callable[[Sequence[Overrides], Mapping[str, str]], list[Outcome]]
    predict: Callable[[Overrides], float]
    roofline: Callable[[], Mapping[str, float]]


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def configured(size: str) -> dict[str, Any]:
    """The keys of a run of that size."""
    keys = {**BASE, **SIZES[size]}
    return keys | {"train.tokens": MICRO_BATCHES * keys["train.batch_size"] * 512}


def check(card: str, tools: Tools) -> dict[str, Any]:
    """Everything, by the names of the JSON's keys."""
    runs = {}
    for size in SIZES:
        say(f"  {size}")
        (runs[size],) = tools.launch([configured(size)], {})
    return {
        "card": card,
        "memory": [_memory_row(size, runs[size], tools.predict(configured(size))) for size in SIZES],
        "speed": _speed(card, runs[FULL], tools),
        "pairs": _pairs(runs[SMALL], tools),
        "rerun": _rerun(runs[SMALL], tools),
    }


def _memory_row(size: str, run: Outcome, predicted_gib: float) -> dict[str, Any]:
    """`error`: how far the prediction lies above (+) or below what was reserved, as a share of that."""
    error = None if run.reserved_gib is None else predicted_gib / run.reserved_gib - 1
    row = {"size": size, "predicted_gib": predicted_gib, "reserved_gib": run.reserved_gib, "error": error}
    return row | {"failed": run.failed}


def _speed(card: str, run: Outcome, tools: Tools) -> dict[str, Any]:
    """Tokens/s, and as a share of each of the roofline's limits where they are this card's."""
    found: dict[str, Any] = {"size": FULL, "tokens_per_s": run.tokens_per_s, "failed": run.failed, "shares": None}
    if run.tokens_per_s is None:
        return found
    if ROOFLINE_CARD not in card:
        return found | {"no_shares": f"the roofline has the limits of an {ROOFLINE_CARD}, and this is another card"}
    shares = {limit: run.tokens_per_s / most for limit, most in tools.roofline().items()}
    return found | {"shares": shares}


def _pairs(alone: Outcome, tools: Tools) -> list[dict[str, Any]]:
    """Two runs at once: their tokens/s together over one's alone, without and with MPS."""
    rows = [_pair("without MPS", alone, tools, Server({}, None))]
    with mps_server() as server:
        rows.append(_pair("with MPS", alone, tools, server))
    return rows


def _pair(what: str, alone: Outcome, tools: Tools, server: Server) -> dict[str, Any]:
    row: dict[str, Any] = {"pair": what, "gain": None, "failed": server.failed or alone.failed}
    if row["failed"]:
        return row
    say(f"  two at once, {what}")
    both = tools.launch([configured(SMALL)] * 2, server.environment)
    rates = [run.tokens_per_s for run in both if run.tokens_per_s is not None]
    if len(rates) < 2 or alone.tokens_per_s is None:
        return row | {"failed": next(run.failed for run in both if run.failed)}
    return row | {"gain": sum(rates) / alone.tokens_per_s}


def _rerun(first: Outcome, tools: Tools) -> dict[str, Any]:
    """The same run again: how many losses are equal, bit for bit, from the first one on."""
    say(f"  {SMALL} again")
    (second,) = tools.launch([configured(SMALL)], {})
    failed = first.failed or second.failed
    if failed:
        return {"identical": None, "steps": None, "first_difference": None, "failed": failed}
    pairs = list(zip(first.losses, second.losses, strict=False))
    difference = next((step for step, (one, other) in enumerate(pairs, start=1) if one != other), None)
    whole = len(first.losses) == len(second.losses) > 0
    same = whole and difference is None
    return {"identical": same, "steps": len(pairs), "first_difference": difference, "failed": None}


@contextmanager
def mps_server() -> Iterator[Server]:
    """A daemon of our own for a while, on pipes of our own; it is told to quit whatever happens inside."""
    program = shutil.which(MPS)
    if program is None:
        yield Server({}, f"{MPS} is not on the PATH; it comes with NVIDIA's driver on Linux")
        return
    with tempfile.TemporaryDirectory() as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for place in places.values():
            Path(place).mkdir()
        said = Path(folder) / "said"
        with said.open("w") as stream:  # not a pipe: the daemon would keep it open
            started = subprocess.run([program, "-d"], env={**os.environ, **places}, stdout=stream, stderr=stream)
        if started.returncode:
            yield Server({}, f"{MPS} -d ended with {started.returncode}: {said.read_text().strip() or 'no reason'}")
            return
        try:
            yield Server(places, None)
        finally:
            environment = {**os.environ, **places}
            subprocess.run([program], input="quit\n", text=True, env=environment, timeout=60, stdout=subprocess.DEVNULL)


def launch(runs: Sequence[Overrides], environment: Mapping[str, str]) -> list[Outcome]:
    """Each in a process of its own, all at the same time."""
    command = [sys.executable, "-m", "benchmarks.instruments.one_run"]
    whole = {**os.environ, **environment}
    started = [
        subprocess.Popen(
            [*command, json.dumps(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=whole
        )
        for run in runs
    ]
    return [_outcome(process) for process in started]


def _outcome(process: subprocess.Popen[str]) -> Outcome:
    try:
        out, err = process.communicate(timeout=MOST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Outcome(None, None, (), f"took more than {MOST_S:.0f} s")
    if process.returncode:
        return Outcome(None, None, (), (err.strip().splitlines() or [f"ended with {process.returncode}"])[-1])
    found = json.loads(out.strip().splitlines()[-1])
    if found["reserved_gib"] is None:
        return Outcome(None, None, (), f"it ran on {found['device']}, not on the card")
    return Outcome(found["tokens_per_s"], found["reserved_gib"], tuple(found["losses"]), None)


def predict(run: Overrides) -> float:
    """GiB that PyTorch's allocator is to reserve, as a plan says it."""
    from model.api import resolve
    from model.cost.peak_memory import footprint

    keys = dict(run)
    return footprint(resolve(str(keys.pop("preset")), keys), device="cuda").reserved_gib


def roofline() -> Mapping[str, float]:
    """Tokens/s at most, by what is counted."""
    from benchmarks.instruments.limits import count
    from benchmarks.roofline import allowed

    return allowed(count())


def find_card() -> str | None:
    """The name of the first card that CUDA sees."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def render(found: Mapping[str, Any]) -> str:
    """The same in tables."""
    memory = [
        [row["size"], row["predicted_gib"], row["reserved_gib"], _share(row["error"]), row["failed"]]
        for row in found["memory"]
    ]
    heads = ["run", "predicted GiB", "reserved GiB", "prediction is off by", "failed"]
    speed, rerun = found["speed"], found["rerun"]
    lines = [found["card"], "", tabulate(memory, headers=heads, floatfmt=".2f", missingval="-"), ""]
    lines.append(f"{FULL}: " + (speed["failed"] or f"{speed['tokens_per_s']:,.0f} tokens/s"))
    lines += [f"  {share:.0%} of: {limit}" for limit, share in (speed["shares"] or {}).items()]
    lines += [f"  {speed['no_shares']}"] if "no_shares" in speed else []
    for row in found["pairs"]:
        gain = row["failed"] or f"{row['gain']:.2f} times the tokens/s of one alone"
        lines.append(f"two at once, {row['pair']}: {gain}")
    if rerun["failed"]:
        lines.append(f"again: {rerun['failed']}")
    elif rerun["identical"]:
        lines.append(f"again: all {rerun['steps']} losses identical")
    else:
        lines.append(f"again: NOT identical, first at step {rerun['first_difference'] or rerun['steps'] + 1}")
    return "\n".join(lines)


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:+.1%}"


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=f"On the card that is here: {WOULD}. Takes minutes; nothing is measured without a card.",
        epilog="example: python -m benchmarks.gpu_check --json > card.json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    card = find_card()
    if card is None:
        without = {"card": None, "not_measured": WOULD}
        print(json.dumps(without) if arguments.json else f"CUDA sees no card, so nothing was measured: not {WOULD}.")
        return 0
    found = check(card, Tools(launch=launch, predict=predict, roofline=roofline))
    print(json.dumps(found, indent=1) if arguments.json else render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
