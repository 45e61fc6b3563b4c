"""`python -m benchmarks.footprint [--json] [--quick]`: predicted peaks of memory against measured ones.

On the CPU the truth is a whole trial (steps, updates, evaluations, the last one too), by the allocator's own account.
There is no card here: what it adds is held against a simulation of CUDA's allocator that serves the same blocks
(benchmarks/instruments/allocator.py), which tests the rounding and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmarks.instruments import allocator
from benchmarks.instruments.measure import peak_bytes
from model.api import Config, Verdict, footprint, resolve, train
from model.cost.fake_step import trace_step
from model.cost.peak_memory import BLOCK, LARGE_SEGMENT, SMALL_SEGMENT

GIB, MIB = 2**30, 2**20
WITHIN, SHARE, UNDER = 0.10, 0.90, 0.05
"""What is held: this share of the predictions within 10% of the truth, and none under it by more than 5%."""

_CHOICES: dict[str, list[Any]] = {
    "model.dim": [64, 128, 192, 256],
    "model.n_layers": [1, 2, 3, 4],
    "model.n_heads": [2, 4, 8],
    "model.vocab_size": [512, 1024, 2048],
    "model.max_seq_len": [32, 64, 128],
    "model.memory": ["token", "token", "token", "vector", "hybrid", "none", "blind"],
    "model.knowledge_num": [1_024, 4_096, 16_384, 65_536, 262_144],
    "model.knowledge_length": [2, 4, 8, 16],
    "model.knowledge_dim": [32, 64, 128],
    "model.num_selected": [4, 8, 16],
    "model.query_norm": ["none", "layer", "cosine"],
    "model.read_norm": ["none", "rms"],
    "model.ema": ["on", "on", "on", "off"],
    "model.ema_state": ["requantized", "requantized", "sparse_cache"],
    "model.cache_mib": [4, 32],
    "model.ema_rescale": ["none", "match_norm"],
    "model.encode": ["dot", "cosine"],
    "model.ema_update_freq": [1, 2],
    "train.batch_size": [2, 4, 8, 16, 32],
    "train.accumulation_steps": [1, 2],
    "train.gradient_checkpointing": ["off", "on"],
    "train.precision": ["fp32", "fp32", "bf16"],
    "eval.val_batch_size": [4, 8],
}

_SIMULATED: dict[str, list[Any]] = {
    "train.batch_size": [8, 16, 24, 48],
    "model.knowledge_length": [4, 8, 16],
    "train.gradient_checkpointing": ["off", "on"],
    "train.accumulation_steps": [1, 12],
    "model.memory": ["token", "token", "vector", "none"],
}
"""Around the preset of experiment 1.4.6."""


@dataclass(frozen=True)
class Row:
    """One configuration: what was said and what was, MiB; `ratio` of the two."""

    keys: dict[str, Any]
    predicted_mib: float
    true_mib: float
    ratio: float
    parts: dict[str, float]


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def drawn(count: int, *, most_positions: int) -> list[Config]:
    """So many random small configurations, always the same ones; a few steps each, every kind of work in them."""
    draw, found = random.Random(0), []
    while len(found) < count:
        keys = {key: draw.choice(choices) for key, choices in _CHOICES.items()}
        if draw.random() < 0.2:
            keys["model.memory_layers"] = str(draw.randrange(keys["model.n_layers"]))
        positions = keys["train.batch_size"] * keys["model.max_seq_len"]
        if positions > most_positions:
            continue
        steps = 2 * keys["train.accumulation_steps"] * keys["model.ema_update_freq"]
        keys |= {"train.tokens": steps * positions, "train.report_every": 100}
        keys |= {"eval.val_tokens": 2 * keys["eval.val_batch_size"] * keys["model.max_seq_len"]}
        keys |= {"eval.prompts": 4, "eval.new_tokens": 8, "eval.fact_probes": 8, "data.facts_entities": 32}
        found.append(resolve("tiny", keys))
    return found


def measured(config: Config) -> int:
    """Bytes that a whole trial holds at most, by the CPU allocator's account."""
    with tempfile.TemporaryDirectory() as folder:
        return peak_bytes(lambda: train(config, lambda _: Verdict.CONTINUE, checkpoint_dir=Path(folder)))


def on_the_cpu(count: int, *, most_positions: int) -> list[Row]:
    """Prediction and truth of random configurations."""
    rows = []
    for config in drawn(count, most_positions=most_positions):
        begun_s = time.perf_counter()
        said = footprint(config, device="cpu")
        said_s = time.perf_counter() - begun_s
        truth = measured(config)
        parts = {name: size * GIB / MIB for name, size in said.parts.items()}
        row = Row(
            _described(config), said.reserved_gib * GIB / MIB, truth / MIB, said.reserved_gib * GIB / truth, parts
        )
        say(
            f"  {row.ratio:.3f}  {row.predicted_mib:7.1f} / {row.true_mib:7.1f} MiB  {said_s:.1f} s  "
            f"{json.dumps(row.keys)}"
        )
        rows.append(row)
    return rows


def on_a_card(count: int, *, expandable: bool, preset: str) -> list[Row]:
    """The prediction's share that an allocator decides, against the simulated one serving the same blocks."""
    draw, rows = random.Random(1), []
    for _ in range(count):
        keys = {key: draw.choice(choices) for key, choices in _SIMULATED.items()}
        config = resolve(preset, keys | ({"data.train": "text.jsonl"} if preset != "tiny" else {}))
        found = trace_step(config, device="cuda", bf16=True, batch=config.train.batch_size)
        said = max(found.step, found.update) + found.blocks * BLOCK // 2 + SMALL_SEGMENT + LARGE_SEGMENT
        truth = allocator.reserved(found.events, expandable=expandable)
        rows.append(
            Row(keys, said / MIB, truth / MIB, said / truth, {"allocated": max(found.step, found.update) / MIB})
        )
        say(f"  {said / truth:.3f}  {said / MIB:8.1f} / {truth / MIB:8.1f} MiB simulated  {keys}")
    return rows


def _described(config: Config) -> dict[str, Any]:
    model, train_ = config.model, config.train
    sizes = {"D": model.dim, "layers": model.n_layers, "V": model.vocab_size, "T": model.max_seq_len}
    bank = {"N": model.knowledge_num, "L": model.knowledge_length, "K": model.num_selected, "ema": model.ema}
    step = {"batch": train_.batch_size, "accumulation": train_.accumulation_steps, "precision": train_.precision}
    kinds = {"memory": model.memory, "state": model.ema_state, "checkpointing": train_.gradient_checkpointing}
    return {**kinds, **sizes, **bank, **step, "val_batch": config.eval.val_batch_size}


def summary(rows: list[Row]) -> dict[str, Any]:
    """How far off the predictions are."""
    ratios = sorted(row.ratio for row in rows)
    return {
        "configurations": len(ratios),
        "within_10_percent": sum(abs(ratio - 1) <= WITHIN for ratio in ratios) / len(ratios),
        "most_under": max(0.0, 1 - ratios[0]),
        "most_over": max(0.0, ratios[-1] - 1),
        "quantiles": [ratios[round(share * (len(ratios) - 1))] for share in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)],
        "within_10_percent_where_no_update_is_the_peak": _within([row for row in rows if not row.parts.get("update")]),
        "held": sum(abs(r - 1) <= WITHIN for r in ratios) >= SHARE * len(ratios) and ratios[0] >= 1 - UNDER,
    }


def _within(rows: list[Row]) -> float | None:
    return sum(abs(row.ratio - 1) <= WITHIN for row in rows) / len(rows) if rows else None


def main(argv: list[str] | None = None) -> int:
    """The command; exit 1 where the CPU's predictions are not held."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.footprint",
        description="Predicted peaks of memory against measured ones on the CPU, and against a simulated allocator.",
        epilog="example: python -m benchmarks.footprint --json > footprint.json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="a few tiny configurations: shows that it works")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # predictions are made, and not remembered
        count, preset, card = (4, "tiny", 2) if arguments.quick else (60, "seed-1.4.6", 12)
        rows = {"cpu": on_the_cpu(count, most_positions=256 if arguments.quick else 2_048)}
        rows["card_expandable"] = on_a_card(card, expandable=True, preset=preset)
        rows["card_segments"] = on_a_card(card, expandable=False, preset=preset)
    found = {name: summary(some) for name, some in rows.items()}
    if arguments.json:
        print(json.dumps({**found, "rows": {name: [asdict(row) for row in some] for name, some in rows.items()}}))
    else:
        quantiles = ["least", "5%", "25%", "50%", "75%", "95%", "most"]
        table = [[name, s["configurations"], s["within_10_percent"], *s["quantiles"]] for name, s in found.items()]
        print(tabulate(table, headers=["", "n", "within 10%", *quantiles], floatfmt=".3f"))
        print(f"cpu: at least {SHARE:.0%} within {WITHIN:.0%}, none under by more than {UNDER:.0%}:", end=" ")
        print("held" if found["cpu"]["held"] else "NOT held")
    return 0 if found["cpu"]["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
