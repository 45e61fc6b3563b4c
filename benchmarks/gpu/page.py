"""`python -m benchmarks.gpu.page FOLDER [FOLDER ...] > docs/gpu.md`: the page of what benchmarks/gpu.sh measured.

A folder for each card: benchmarks/data/gpu/* are those of the page here. A part that is missing is left out; what
somebody has to say of the numbers stands in a folder's notes.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.instruments import limits
from model.cost.formulas import RECORDED_FLOPS

HEAD = """\
# Measured on GPUs

Written by `python -m benchmarks.gpu.page` from what `benchmarks/gpu.sh` measured; see [benchmarks.md](benchmarks.md).
Nobody has run it on an RTX 4090 yet. Where you have one, run it and send the folder.
"""
STEP = """\
**Launched**: kernel by kernel. **Replayed**: the micro-batch as one CUDA graph, which a run chooses where a micro-batch
is at most {limit:g} TFLOP and the bank small; "same" says whether the first losses are equal bit for bit. MFU: the
share of the data sheet's {flops:.0f} TFLOPS (bf16, dense) that the step's arithmetic is, with the time of updates.
"""


def page(folders: list[Path]) -> str:
    """The page."""
    return "\n".join([HEAD, *(part for folder in folders for part in _card(folder))])


def _card(folder: Path) -> list[str]:
    step, versions = _read(folder / "step.json"), (folder / "versions.txt").read_text().splitlines()
    date = next((line for line in versions if line[:2] == "20" and len(line) == 10), "")
    card = step.get("card", "a GPU")
    parts = [f"## {card}, {date}, PyTorch {step.get('torch', '?')}\n"]
    for name, make in (("step", _step), ("read", _reads), ("check", _check), ("sweep", _sweep)):
        found = _read(folder / f"{name}.json")
        if found:
            parts.append(make(found))
    tests, notes = folder / "tests.txt", folder / "notes.md"
    if tests.exists():
        parts.append(f"`pytest -m gpu`: {tests.read_text().strip().splitlines()[-1].strip('= ')}\n")
    if notes.exists():
        parts.insert(1, notes.read_text())
    return parts


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _step(found: Mapping[str, Any]) -> str:
    card = limits.card_of(found["card"])
    ceilings = found["ceilings"]
    lines = ["### A training step\n"]
    lines.append(
        f"The card reaches {ceilings['bf16_flops'] / 1e12:.0f} TFLOPS in bf16 products, "
        f"{ceilings['fp32_flops'] / 1e12:.0f} in fp32, {ceilings['copy_bytes_per_s'] / 1e9:,.0f} GB/s in copies.\n"
    )
    if card is not None:
        lines.append(STEP.format(limit=RECORDED_FLOPS / 1e12, flops=card.tensor_flops / 1e12))
    rows = []
    for made in found["steps"]:
        one, other = made.get("launched", {}), made.get("replayed", {})
        same = {True: "yes", False: "NO", None: None}[made.get("same_losses")]
        best = {key: max(one.get(key) or 0, other.get(key) or 0) for key in ("tokens_per_s", "mfu")}
        times = one.get("step_ms"), other.get("step_ms"), one.get("ema_ms")
        name = made["size"], made["memory"], made["tokens"]
        rows.append([*name, *times, best["tokens_per_s"], 100 * best["mfu"], same])
    heads = ["size", "memory", "tokens", "launched, ms", "replayed, ms", "update, ms", "tokens/s", "MFU, %", "same"]
    lines.append(_table(rows, heads, ("", "", ",.0f", ".2f", ".2f", ".2f", ",.0f", ".1f", "")))
    lines.append(
        "\nBy phase: milliseconds of kernels a step, and what the data sheet allows (roofline.md's arithmetic).\n"
    )
    for made in found["steps"]:
        if card is None or "profile" not in made or made["size"] == "tiny":
            continue
        bound, phases = made.get("allowed_ms", {}), made["profile"]["phases_ms"]
        rows = [
            [phase, ms, bound.get(phase), 100 * bound[phase] / ms if phase in bound and ms > 0.01 else None]
            for phase, ms in sorted(phases.items(), key=lambda item: -item[1])
        ]
        both = [sum(phases[phase] for phase in bound if phase in phases), sum(bound.values())]
        rows.append(["sum without the update", *both, 100 * both[1] / both[0] if bound else None])
        heads = [f"{made['size']}, {made['memory']}", "ms", "allowed, ms", "share, %"]
        lines += [_table(rows, heads, ("", ".2f", ".2f", ".0f")), ""]
    return "\n".join(lines)


def _reads(found: Mapping[str, Any]) -> str:
    return "\n".join(["### The read, by itself\n", "```", json.dumps(found, indent=1), "```", ""])


def _check(found: Mapping[str, Any]) -> str:
    if found.get("card") is None:
        return ""
    rows = [
        [row["size"], row["predicted_gib"], row["reserved_gib"], None if row["error"] is None else 100 * row["error"],
         row["failed"]]
        for row in found["memory"]
    ]  # fmt: skip
    heads = ["seed-1.4.6 with", "predicted GiB", "reserved GiB", "off by, %", "failed"]
    lines = ["### Peaks of memory, predicted and measured\n", _table(rows, heads, ("", ".2f", ".2f", ".1f", "")), ""]
    for row in found["pairs"]:
        gain = row["failed"] or f"{row['gain']:.2f} times the tokens/s of one alone"
        lines.append(f"- Two at once, {row['pair']}: {gain}.")
    rerun = found["rerun"]
    same = f"all {rerun['steps']} losses identical" if rerun["identical"] else "NOT identical"
    lines.append(f"- The same run again: {rerun['failed'] or same}.\n")
    return "\n".join(lines)


def _sweep(found: Mapping[str, Any]) -> str:
    keys = ("at_once", "mps", "seconds", "tokens_per_hour", "gain", "tokens_per_s_each", "peak_gib", "failed")
    rows = [[row.get(key) for key in keys] for row in found["sweeps"]]
    heads = ["at a time", "MPS", "seconds", "tokens an hour", "over one", "tokens/s of each", "peak GiB", "failed"]
    table = _table(rows, heads, ("", "", ".1f", ",.0f", ".2f", ",.0f", ".2f", ""))
    return f"### A study on shares of the card\n\n`benchmarks.gpu.sweep`: four trials through Ray.\n\n{table}\n"


def _table(rows: list[list[Any]], heads: list[str], formats: tuple[str, ...]) -> str:
    return tabulate(rows, headers=heads, floatfmt=formats, tablefmt="pipe", missingval="")


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.page", description="Writes docs/gpu.md to stdout.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what benchmarks/gpu.sh wrote")
    folders: list[Path] = parser.parse_args(argv).folders
    for folder in folders:
        if not (folder / "versions.txt").is_file():
            parser.error(f"{folder}: no versions.txt is there; give a folder that benchmarks/gpu.sh wrote")
    sys.stdout.write(page(folders))
    return 0


if __name__ == "__main__":
    sys.exit(main())
