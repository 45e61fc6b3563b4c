"""`python -m benchmarks.gpu.step [--json] [--quick]`: what a training step takes on the GPU that is here, and where.

Three sizes: `tiny`, some 30 million parameters on sequences of 512, and `seed-1.4.6`. Each with its micro-batches
launched kernel by kernel and replayed as a CUDA graph; by phase, from torch's profiler, as a share of what the card's
data sheet allows. Without a GPU it says so; `--quick` then runs small shapes on the CPU, to try the script.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tabulate import tabulate
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.instruments import limits
from benchmarks.instruments.count import Counter
from benchmarks.instruments.subject import Run
from model.config import Config, resolve
from model.cost import estimate

_MILLIONS_30 = {"model.n_layers": 10, "model.n_heads": 8, "train.batch_size": 16, "train.accumulation_steps": 1}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"preset": "tiny"},
    "30M": {"preset": "seed-1.4.6", **_MILLIONS_30},
    "seed-1.4.6": {"preset": "seed-1.4.6"},
}
QUICK: Mapping[str, Mapping[str, Any]] = {"tiny": {"preset": "tiny", "model.dim": 32, "model.vocab_size": 512}}
MEMORIES = ("none", "token", "vector")
COMPARED = 6
"""Steps whose losses must be equal, launched and replayed."""
PROFILED = 5
"""Steps in a profile: the bank is updated in one of them."""
PHASE = "phase: "


def configured(size: Mapping[str, Any], memory: str) -> Config:
    """A run on built-in text that never ends."""
    keys = {**size, "model.memory": memory, "model.ema_update_freq": PROFILED, "data.corpus": "pydoc"}
    keys |= {"train.epochs": None, "train.tokens": 10**10, "eval.val_tokens": 8_192, "eval.prompts": 4}
    return resolve(str(keys.pop("preset")), keys)


def measured(run: Run, *, most_s: float) -> dict[str, Any]:
    """Steps for about so many seconds, after some to warm up; the losses of the first ones."""
    for _ in range(COMPARED):
        run.step()
    losses = run.losses()
    run.metrics()
    begun_s = time.perf_counter()
    steps = 0
    while steps < PROFILED or (time.perf_counter() - begun_s < most_s and steps < 200):
        run.step()
        steps += 1
        if steps % PROFILED == 0:
            run.losses()  # waits for the device, as a report does
    metrics = run.metrics()
    timed = {key: metrics.get(key) for key in ("step_ms", "tokens_per_s", "ema_ms")}
    return timed | {"losses": losses, "failed": run.failed}


class _Phases(Counter):
    """Names the phase of every operator in the profile."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator under the name of its phase."""
        del types
        self._last = self.found()
        with record_function(PHASE + self._last):
            return func(*args, **(kwargs or {}))


def by_phase(run: Run) -> dict[str, Any]:
    """Milliseconds a step: of kernels (on a CPU, of operators) by phase, and of the longest kernels by name."""
    cuda = torch.cuda.is_available()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as found, _Phases():
        for _ in range(PROFILED):
            run.step()
        if cuda:
            torch.cuda.synchronize()
    total: dict[str, float] = defaultdict(float)
    for event in found.events() or []:
        if event.name.startswith(PHASE) and event.device_type == DeviceType.CPU:
            total[event.name.removeprefix(PHASE)] += event.device_time_total if cuda else event.cpu_time_total
    kernels = [
        {"kernel": each.key[:120], "ms": each.self_device_time_total / 1e3 / PROFILED, "calls": each.count / PROFILED}
        for each in found.key_averages()
        if each.device_type == DeviceType.CUDA and not each.key.startswith(PHASE)
    ]
    return {
        "phases_ms": {phase: micros / 1e3 / PROFILED for phase, micros in total.items()},
        "kernels": sorted(kernels, key=lambda each: -each["ms"])[:30],
    }


def allowed(config: Config, card: limits.Card) -> dict[str, float]:
    """Milliseconds a step by phase, if each takes the longer of its arithmetic and its memory traffic; without the
    bank's update, whose cost depends on what is touched."""
    costs = limits.count_step(config)
    bound = {phase: 1e3 * limits.bound_s({phase: cost}, card) for phase, cost in costs.items()}
    return bound | {"optimiser": bound["optimiser"] / config.train.accumulation_steps}


def row(name: str, size: Mapping[str, Any], memory: str, card: limits.Card | None, *, most_s: float) -> dict[str, Any]:
    """All of one size and memory; `failed` where something did not work."""
    config = configured(size, memory)
    tokens = config.train.batch_size * config.model.max_seq_len
    found: dict[str, Any] = {"size": name, "memory": memory, "tokens": tokens, "failed": {}}
    found["flops_per_token"] = estimate(config).flops_per_token

    def attempt(what: str, work: Callable[[], Any]) -> None:
        try:
            found[what] = work()
        except Exception as error:  # noqa: BLE001  one failure must not lose what else there is to measure
            found["failed"][what] = f"{type(error).__name__}: {str(error).strip()[:600]}"

    def launched() -> dict[str, Any]:
        run = Run(config, recorded=False)
        made = measured(run, most_s=most_s)
        attempt("profile", lambda: by_phase(run))
        return made

    attempt("launched", launched)
    if torch.cuda.is_available():
        attempt("replayed", lambda: measured(Run(config, recorded=True), most_s=most_s))
        attempt("peak_gib", lambda: torch.cuda.max_memory_reserved() / 2**30)
    if card is not None:
        attempt("allowed_ms", lambda: allowed(config, card))
        for how in ("launched", "replayed"):
            if how in found:
                found[how]["mfu"] = found[how]["tokens_per_s"] * found["flops_per_token"] / card.tensor_flops
    if "launched" in found and "replayed" in found:
        found["same_losses"] = found["launched"]["losses"] == found["replayed"]["losses"]
    return found


def ceilings() -> dict[str, float]:
    """What the card reaches: bf16 products, fp32 products, a copy (read and written)."""
    found = {}
    for name, dtype in (("bf16_flops", torch.bfloat16), ("fp32_flops", torch.float32)):
        one, other = (torch.randn(8_192, 8_192, device="cuda").to(dtype) for _ in range(2))
        found[name] = 2 * 8_192**3 / _seconds(lambda one=one, other=other: one @ other)
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    found["copy_bytes_per_s"] = 2 * source.nbytes / _seconds(lambda: target.copy_(source))
    return found


def _seconds(work: Any, *, times: int = 10) -> float:
    for _ in range(3):
        work()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


def render(found: Mapping[str, Any]) -> str:
    """The same in tables."""
    lines = []
    for made in found["steps"]:
        launched, replayed = made.get("launched", {}), made.get("replayed", {})
        cells = [made["size"], made["memory"], launched.get("step_ms"), replayed.get("step_ms")]
        lines.append([*cells, replayed.get("tokens_per_s"), replayed.get("mfu"), made.get("same_losses")])
    heads = ["size", "memory", "launched, ms", "replayed, ms", "tokens/s", "MFU", "same losses"]
    text = [str(found["card"]), "", tabulate(lines, headers=heads, floatfmt=",.2f", missingval="-")]
    for made in found["steps"]:
        bound = made.get("allowed_ms", {})
        rows = [
            [phase, ms, bound.get(phase), bound[phase] / ms if phase in bound and ms else None]
            for phase, ms in sorted(made.get("profile", {}).get("phases_ms", {}).items(), key=lambda item: -item[1])
        ]
        heads = [f"{made['size']} {made['memory']}", "ms", "allowed, ms", "share"]
        text += ["", tabulate(rows, headers=heads, floatfmt=".2f", missingval="-")]
        text += [f"failed: {what}: {why}" for what, why in made["failed"].items()]
    return "\n".join(text)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.step",
        description="Measures training steps on the GPU that is here, by phase, and holds them against its data sheet.",
        epilog="example: python -m benchmarks.gpu.step --json > step.json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="small shapes, on the CPU too")
    parser.add_argument("--seconds", type=float, default=1.2, help="of steps for each measurement (default 1.2)")
    arguments = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    if not cuda and not arguments.quick:
        print(json.dumps({"card": None}) if arguments.json else "CUDA sees no GPU, so nothing was measured.")
        return 0
    name = torch.cuda.get_device_name(0) if cuda else "cpu"
    found: dict[str, Any] = {"card": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    found["ceilings"] = ceilings() if cuda else {}
    found["steps"] = []
    for size, keys in (QUICK if arguments.quick else SIZES).items():
        for memory in MEMORIES if size == "seed-1.4.6" else MEMORIES[:2]:
            print(f"  {size} {memory}", file=sys.stderr, flush=True)
            found["steps"].append(row(size, keys, memory, limits.card_of(name), most_s=arguments.seconds))
    print(json.dumps(found, indent=1) if arguments.json else render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
