"""`python -m benchmarks.model [--json] [--quick]`: what the memory costs beside a network without one.

Everything is measured in this run, each pair in turn. Times of a machine mean nothing elsewhere, so only ratios are
claimed. `--quick` takes seconds on tiny shapes: it shows that the benchmark works, not what anything costs.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks import _literal
from benchmarks._bounds import render
from benchmarks.instruments import subject
from benchmarks.instruments.measure import Comparison, Effort, compare, peak_bytes, peak_resident_bytes, seconds
from benchmarks.instruments.subject import QUICK_SHAPES, SHAPES, Run, Shape

MIB = 2**20
TIE = 1e-4
"""Tokens whose logits agree to this share are a tie, which rounding decides."""
MOST_ROWS = 2**18


@dataclass(frozen=True)
class Row:
    """One ratio. What does not apply is None: `L`, `K` of a layer that reads nothing, `entries` without an update."""

    shape: int
    variant: str
    L: int | None
    K: int | None
    N: int | None
    entries: int | None
    value: float


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    shapes: tuple[Shape, ...]
    lengths: tuple[int, ...]
    selected: tuple[int, ...]
    updated: tuple[int, ...]
    growth: tuple[int, ...]
    effort: Effort
    update_effort: Effort
    growth_effort: Effort

    def grid(self, shape: Shape) -> list[tuple[int, int]]:
        """(L, K), one of them at a time off the shape's own."""
        own = (shape.tokens, shape.selected)
        lengths = [(L, shape.selected) for L in self.lengths if shape.tokens != L]
        return [own, *lengths, *((shape.tokens, K) for K in self.selected if shape.selected != K)]


FULL = Plan(
    shapes=SHAPES,
    lengths=(4, 8, 16, 32),
    selected=(8, 16, 32),
    updated=(1_024, 16_384),
    growth=tuple(2**power for power in range(12, 23, 2)),
    effort=Effort(rounds=9, least=3, budget_s=8.0),
    update_effort=Effort(rounds=5, least=1, budget_s=6.0),
    growth_effort=Effort(rounds=25, least=5, budget_s=25.0),
)
QUICK = Plan(
    shapes=QUICK_SHAPES,
    lengths=(4, 8),
    selected=(8, 16),
    updated=(64, 256),
    growth=(2**10, 2**12),
    effort=Effort(rounds=2, least=1, budget_s=0.5),
    update_effort=Effort(rounds=2, least=1, budget_s=0.5),
    growth_effort=Effort(rounds=2, least=1, budget_s=0.5),
)


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def steps(shape: Shape, plan: Plan) -> list[Row]:
    """The training step of every variant over the control's; `token` at every L and K."""
    control = Run(subject.configure(shape, {"model.memory": "none"}))
    rows = []
    for name, keys in subject.variants().items():
        for L, K in plan.grid(shape) if name == "token" else [(shape.tokens, shape.selected)]:
            sized = keys | {"model.knowledge_length": L, "model.num_selected": K}
            run = Run(subject.configure(shape, sized))
            found = compare(run.step, control.step, effort=plan.effort, warm_up=2)
            reads = run.reads_bank
            row = Row(shape.number, name, L if reads else None, K if reads else None, shape.entries, None, found.ratio)
            rows.append(_told("step / none", row, found))
            del run
            gc.collect()
    return rows


def growth(shape: Shape, plan: Plan) -> list[Row]:
    """The step of `token` at every size of the bank over that at the smallest."""
    first, *others = plan.growth
    smallest = Run(subject.configure(shape, {"model.knowledge_num": first}))
    rows = [Row(shape.number, "token", shape.tokens, shape.selected, first, None, 1.0)]
    for N in others:
        run = Run(subject.configure(shape, {"model.knowledge_num": N}))
        found = compare(run.step, smallest.step, effort=plan.growth_effort, warm_up=2)
        row = Row(shape.number, "token", shape.tokens, shape.selected, N, None, found.ratio)
        rows.append(_told(f"step / step at N {first:,}", row, found))
        del run
        gc.collect()
    return rows


def updates(shape: Shape, plan: Plan) -> list[Row]:
    """The literal EMA update over ours, both from the selections to the new tokens; the tokens are compared.

    Left out: more than MOST_ROWS rows of the head, which take the literal algorithm minutes.
    """
    rows = []
    for entries in plan.updated:
        for L, K in plan.grid(shape):
            if entries * L <= MOST_ROWS:
                made = subject.scene(shape, L=L, K=K, positions=-(-4 * entries // K), entries=entries)
                found = _compare_updates(made, plan.update_effort)
                row = Row(shape.number, "token", L, K, shape.entries, entries, found.ratio)
                rows.append(_told("literal update / ours", row, found))
    return rows


def _compare_updates(made: subject.Scene, effort: Effort) -> Comparison:
    start_NL, results = made.bank_NL.clone(), {}

    def literal() -> None:
        means = subject.means(made)
        old_SL = start_NL[means.entry_S].long()
        results["literal"] = _literal.encode(old_SL, means.mean_SD, table_VD=made.table_VD, decay=subject.DECAY)

    def ours() -> None:
        made.bank_NL.copy_(start_NL)
        results["ours"] = subject.update(made)

    found = compare(literal, ours, effort=effort, warm_up=0)
    check_tokens(made, literal_SL=results["literal"], ours_NL=results["ours"], start_NL=start_NL)
    return found


def check_tokens(
    made: subject.Scene, *, literal_SL: torch.Tensor, ours_NL: torch.Tensor, start_NL: torch.Tensor
) -> None:
    """Raise AssertionError where the update's tokens are not the literal algorithm's, ties aside."""
    means = subject.means(made)
    ours_SL, old_SL = ours_NL[means.entry_S].long(), start_NL[means.entry_S].long()
    worst = _literal.worst_difference(ours_SL, literal_SL, old_SL, mean_SD=means.mean_SD, table_VD=made.table_VD)
    assert worst <= TIE, f"tokens differ by more than a tie: {worst:.1e} of their logit"


def activations(shape: Shape, plan: Plan, *, table_gradient: bool) -> list[Row]:
    """Peak extra bytes of the read's forward and backward, ours over the literal one's. `table_gradient`: with E's
    gradient and what it takes to form it, in both."""
    rows = []
    for L, K in plan.grid(shape):
        made = subject.scene(shape, L=L, K=K, positions=shape.positions, entries=min(shape.entries, shape.positions))
        table_VD = made.table_VD.requires_grad_(table_gradient)
        weight_PK = made.selection.weight_BTK.requires_grad_()
        wanted = [weight_PK, table_VD] if table_gradient else [weight_PK]
        ours_read = subject.read(made)

        def literal(made: subject.Scene = made, wanted: list[torch.Tensor] = wanted) -> object:
            read_PD = _literal.read(wanted[0], made.selection.index_BTK, made.bank_NL, made.table_VD)
            return read_PD, torch.autograd.grad(read_PD, wanted, made.features_PD)

        def ours(made: subject.Scene = made, wanted: list[torch.Tensor] = wanted, read: Any = ours_read) -> object:
            read_PD = read(wanted[0], made.table_VD)
            return read_PD, torch.autograd.grad(read_PD, wanted, made.features_PD)

        mine, theirs = peak_bytes(ours), peak_bytes(literal)
        row = Row(shape.number, "token", L, K, shape.entries, None, mine / theirs)
        rows.append(row)
        say(f"  read's peak / literal: {mine / MIB:,.1f} / {theirs / MIB:,.1f} MiB  {_described(row)}")
    return rows


def shares(shape: Shape, plan: Plan) -> Row:
    """What the updates add to training: their time over that of the steps, one update every fifth micro-batch, with the
    entries that these steps (the first of a run on real text) really select."""
    run = Run(subject.configure(shape, {"model.ema": "on", "model.ema_update_freq": 5}))
    for _ in range(5):
        run.step()
    run.metrics()  # the first update warmed it up
    for _ in range(5 * plan.effort.least):
        run.step()
    metrics = run.metrics()
    share, entries = metrics["ema_ms"] / (5 * metrics["step_ms"]), round(metrics["entries_updated"])
    row = Row(shape.number, "token", shape.tokens, shape.selected, shape.entries, entries, share)
    say(f"  updates / steps: {share:.3f}  {_described(row)}")
    return row


def all_entries(shape: Shape) -> dict[str, Any]:
    """One update that touches every entry: its time, and its peak of resident bytes beyond the sums ([N, D] and [N],
    fp32)."""
    made = subject.scene(
        shape, L=shape.tokens, K=shape.selected, positions=shape.entries // shape.selected, entries=shape.entries
    )
    took_s: list[float] = []
    peak = peak_resident_bytes(lambda: took_s.append(seconds(lambda: subject.update(made))))
    beyond = peak - 4 * shape.entries * (shape.dim + 1)
    say(f"  update of all entries: {took_s[0]:.1f} s, {beyond / MIB:,.0f} MiB beyond its sums")
    return {"shape": shape.number, "entries": shape.entries, "seconds": took_s[0], "peak_bytes_beyond_sums": beyond}


def measure(plan: Plan) -> dict[str, Any]:
    """Everything, by the names of the JSON's keys."""
    found: dict[str, list[Row]] = {
        "step_ratio_vs_none": [],
        "ema_speedup": [],
        "activation_ratio": [],
        "bank_growth": [],
        "activation_ratio_with_table_gradient": [],
        "ema_share_of_steps": [],
    }
    for shape in plan.shapes:
        say(f"shape {shape.number}: {shape}")
        found["activation_ratio"] += activations(shape, plan, table_gradient=False)
        found["activation_ratio_with_table_gradient"] += activations(shape, plan, table_gradient=True)
        found["step_ratio_vs_none"] += steps(shape, plan)
        found["bank_growth"] += growth(shape, plan)
        found["ema_share_of_steps"].append(shares(shape, plan))
        found["ema_speedup"] += updates(shape, plan)
    rows = {key: [asdict(row) for row in value] for key, value in found.items()}
    whole = all_entries(plan.shapes[-1])
    return {**rows, "all_entries_update": whole, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _told(what: str, row: Row, found: Comparison) -> Row:
    times = f"{found.first_s:.3f} / {found.second_s:.3f} s, {found.rounds} rounds"
    say(f"  {what}: {found.ratio:.3f}  ({times})  {_described(row)}")
    return row


def _described(row: Row) -> str:
    return f"{row.variant}, L {row.L}, K {row.K}, N {row.N:,}" + (f", {row.entries:,} entries" if row.entries else "")


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model",
        description="Step, update, read and growth of the token memory as ratios measured in this run.",
        epilog="example: python -m benchmarks.model --json > ratios.json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes, seconds: shows that it works, measures nothing"
    )
    arguments = parser.parse_args(argv)
    plan = QUICK if arguments.quick else FULL
    if arguments.quick:
        torch.set_num_threads(1)  # tiny works would only wait for each other
    begun_s = time.perf_counter()
    found = measure(plan)
    say(f"took {(time.perf_counter() - begun_s) / 60:.1f} minutes")
    own = (plan.shapes[0].tokens, plan.shapes[0].selected)
    print(json.dumps(found, indent=1) if arguments.json else render(found, own=own, last_N=plan.growth[-1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
