"""`python -m benchmarks.roofline > docs/roofline.md`: what an RTX 4090 allows the full-size preset.

Nothing is measured. FLOPs, bytes and kernels are counted on the model's own code: the step at full size on fake
tensors, an EMA update on three small real ones, from which its cost an entry and a selection follows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from benchmarks.instruments.count import Cost
from benchmarks.instruments.limits import (
    COVERAGE,
    LAUNCH_S,
    RTX_4090,
    SOURCE_TOKENS_PER_S,
    Roofline,
    bound_s,
    compute_s,
    count,
    memory_s,
)
from model.cost.formulas import estimate

PAGE = """\
# Roofline of `seed-1.4.6` on an RTX 4090

**Nothing on this page was measured on a card.** It is arithmetic: `python -m benchmarks.roofline > docs/roofline.md`
counts the model's own code, operator by operator, and divides by the card's limits. The code runs on a CPU for that,
with the operators that it chooses on a card, in pieces as large as there.

| limit | | |
|---|---|---|
| bf16 matrix products, fp32 sums, dense | {tensor:g} TFLOPS | [waredb][1] |
| fp32 | {vector:g} TFLOPS | [waredb][1] |
| memory | {memory:,.0f} GB/s | [waredb][1], [The FPS Review][2] |
| second-level cache | 72 MB | [waredb][1] |
| launch of a kernel | {launch:g} µs | assumed; [4 to 6 were measured][3] on another card |

[1]: https://waredb.com/processor/nvidia-geforce-rtx-4090
[2]: https://www.thefpsreview.com/gpu-family/nvidia-geforce-rtx-4090-gpu-family-specifications
[3]: https://susun-blog.com/blog/pegainfer-3-cuda-graph

## A token, by phase

A micro-batch is {batch} x {seq_len} = {tokens:,} tokens; the optimiser steps every {accumulation} of them, the EMA
updates the bank every {freq}. Here an update touches {coverage:.0%} of the {N:,} entries, which is what the source
aimed at.

{phases}

- **FLOPs**, forward and backward: matrix products and the sums of decoded rows, nothing that is done element by
  element. Without the read they are {counted:.2f} MFLOP a step's token; `model.cost.estimate` says {estimated:.2f}. The
  difference is exact, and a test holds it: attention's backward forms its scores again, and the estimate counts the
  gains of norms as if they were matrices.
- **Memory**: what every operator reads and writes, with no two of them fused and nothing left in the cache from one to
  the next. A compiler that fuses moves less. **Rows** are rows of the embedding table, read again for every stored
  token of every entry, and their gradients. The table takes {table:.1f} MB in fp32 and fits the cache, so they are not
  held against memory.
- **Kernels**: operators that do something (views do nothing), one launch each at the least. PyTorch's CPU build splits
  norms into several; a card's has one that is fused, which moves less. The optimiser's and the update's are
  shared out over their micro-batches.

## What that allows

A phase takes the longer of its arithmetic and its memory traffic; phases follow each other.

{allowed}

Of the phases, **{slowest}** takes most, then **{second}**. The step moves {bytes_us:.1f} µs of bytes a token and
computes {flops_us:.1f}: at these widths most kernels pass over activations once and compute little, so fusing them
gains more than faster products would. An update's cost grows with the entries that it touches, {entry:.1f} MB of
traffic each. With a bank used as evenly as can be, a micro-batch's {selections:,} selections touch {even:.0%} of it.
"""


def page(found: Roofline) -> str:
    """docs/roofline.md."""
    model, train = found.config.model, found.config.train
    costs, step = found.per_token(coverage=COVERAGE), found.per_token(coverage=0)
    slowest = sorted(costs, key=lambda phase: -max(compute_s(costs[phase]), memory_s(costs[phase])))
    return PAGE.format(
        tensor=RTX_4090.tensor_flops / 1e12,
        vector=RTX_4090.vector_flops / 1e12,
        memory=RTX_4090.bytes_per_s / 1e9,
        launch=1e6 * LAUNCH_S,
        batch=train.batch_size,
        seq_len=model.max_seq_len,
        tokens=found.tokens,
        accumulation=train.accumulation_steps,
        freq=model.ema_update_freq,
        coverage=COVERAGE,
        N=model.knowledge_num,
        phases=_phases(found, costs),
        counted=sum(c.tensor_flops + c.vector_flops for phase, c in step.items() if phase != "read") / 1e6,
        estimated=estimate(found.config).flops_per_token / 1e6,
        table=4 * model.vocab_size * model.dim / 1e6,
        allowed=_allowed(found),
        slowest=slowest[0],
        second=slowest[1],
        bytes_us=1e6 * sum(map(memory_s, step.values())),
        flops_us=1e6 * sum(map(compute_s, step.values())),
        entry=found.update.entry.bytes / 1e6,
        selections=found.selections,
        even=found.uniform_coverage,
    )


def _phases(found: Roofline, costs: Mapping[str, Cost]) -> str:
    table = []
    for phase, cost in costs.items():
        kernels = cost.kernels * found.tokens
        table.append([phase, *_amounts(cost), kernels, 1e6 * compute_s(cost), 1e6 * memory_s(cost)])
    total = Cost()
    for cost in costs.values():
        total = total.plus(cost)
    last = [total.kernels * found.tokens, 1e6 * compute_s(total), 1e6 * memory_s(total)]
    table.append(["sum", *_amounts(total), *last])
    units = ["bf16 MFLOP", "fp32 MFLOP", "memory, kB", "rows, kB", "kernels a micro-batch"]
    headers = ["phase", *units, "arithmetic, µs", "memory, µs"]
    formats = ("", ".2f", ".2f", ",.1f", ",.1f", ",.0f", ".3f", ".3f")
    return tabulate(table, headers=headers, floatfmt=formats, tablefmt="pipe")


def _amounts(cost: Cost) -> list[float]:
    return [cost.tensor_flops / 1e6, cost.vector_flops / 1e6, cost.bytes / 1e3, cost.row_bytes / 1e3]


def allowed(found: Roofline) -> dict[str, float]:
    """Tokens a second, by what is counted."""
    without, uniform = found.per_token(coverage=0), found.per_token(coverage=found.uniform_coverage)
    aimed = found.per_token(coverage=COVERAGE)
    kernels = sum(cost.kernels for cost in aimed.values())
    return {
        "arithmetic alone, no update of the bank": 1 / sum(map(compute_s, without.values())),
        "arithmetic and memory, no update of the bank": 1 / bound_s(without),
        f"the same, updates of {COVERAGE:.0%} of the bank": 1 / bound_s(aimed),
        f"the same, updates of {found.uniform_coverage:.0%} (even use)": 1 / bound_s(uniform),
        f"updates of {COVERAGE:.0%}, rows from memory and not from the cache": 1 / bound_s(aimed, cached_rows=False),
        "launches alone": 1 / (kernels * LAUNCH_S),
    }


def _allowed(found: Roofline) -> str:
    table = [[what, f"{rate:,.0f}", f"{SOURCE_TOKENS_PER_S / rate:.0%}"] for what, rate in allowed(found).items()]
    headers = ["counted", "tokens/s at most", f"the source's {SOURCE_TOKENS_PER_S:,} are"]
    return tabulate(table, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=("left", "right", "right"))


def as_json(found: Roofline) -> dict[str, Any]:
    """The same numbers: a token's cost by phase, and what is allowed."""
    costs = found.per_token(coverage=COVERAGE)
    return {"per_token": {phase: asdict(cost) for phase, cost in costs.items()}, "tokens_per_s": allowed(found)}


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roofline",
        description="FLOPs, bytes and kernels of the full-size preset against an RTX 4090's limits; unmeasured.",
        epilog="example: python -m benchmarks.roofline > docs/roofline.md",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    found = count()
    sys.stdout.write(json.dumps(as_json(found), indent=1) + "\n" if arguments.json else page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
