"""`python -m benchmarks.gpu.read [--json] [--tune]`: three ways to read the bank on a GPU, beside each other.

`bags` is model.bank.bank_read's embedding bags; `products` and `triton` are the candidates of this folder. Times are
medians of CUDA events after a warm-up, which compiles. Errors are against fp64 on a sample: |x - exact| / |exact|. A
row of a table counts as moved each time that it is read, from memory or a cache; a share of the copy's rate above 1
came from a cache.

`--tune` times the kernels under other tiles too. Without a GPU it says so and measures nothing.

Letters: P positions, K entries selected, L tokens an entry, M = K*L, S = P*M slots, D dim, V vocabulary, N entries.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from benchmarks.gpu import product_read
from benchmarks.gpu_check import find_card
from model.bank import bank_read

WARM_UP, REPEATS = 3, 20
SAMPLE = 256
"""Positions whose read and weights' slope are held against fp64."""
COLUMNS = 16
"""Columns of the table's slope that are."""
OFFSET = 1.5
"""Of Zipf-Mandelbrot's law, 1 / (rank + offset): the first of 6,400 tokens has 5% of the slots."""
WOULD = "the read of the bank and both its gradients, by embedding bags and in Triton: times, errors, bytes a second"


@dataclass(frozen=True)
class Shape:
    """A size of the read; `zipf`: some tokens are more frequent than others."""

    P: int
    K: int
    L: int
    D: int
    V: int
    N: int
    zipf: bool

    @property
    def S(self) -> int:
        """Slots."""
        return self.P * self.K * self.L


SEED = Shape(P=24_576, K=16, L=8, D=512, V=6_400, N=2**20, zipf=False)
SHAPES = {
    "seed-1.4.6, random": SEED,
    "seed-1.4.6, Zipf": Shape(**{**asdict(SEED), "zipf": True}),
    "tiny": Shape(P=512, K=8, L=8, D=128, V=2_048, N=1_024, zipf=True),
}


@dataclass(frozen=True)
class Scene:
    """What a read is given, the tokens that it meets, and G."""

    weight_PK: Tensor
    table_VD: Tensor
    index_PK: Tensor
    bank_NL: Tensor
    token_PM: Tensor
    slope_PD: Tensor


@dataclass(frozen=True)
class Part:
    """A part of a path: what is timed, the bytes that it moves, and what its result has to be on a sample."""

    work: Callable[[], Any]
    moved: int
    sampled: Callable[[Any], Tensor] | None = None
    exact: Tensor | None = None


def scene(shape: Shape) -> Scene:
    """Random, on the GPU."""
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device="cuda")

    odds_V = torch.arange(shape.V, device="cuda").add(1 + OFFSET).reciprocal()
    odds_V = odds_V[torch.randperm(shape.V, generator=generator, device="cuda")] if shape.zipf else odds_V.fill_(1)
    ends_V = odds_V.double().cumsum(0)
    drawn_NL = torch.rand((shape.N, shape.L), generator=generator, device="cuda", dtype=torch.float64)
    bank_NL = torch.searchsorted(ends_V, drawn_NL * ends_V[-1], out_int32=True).clamp_(max=shape.V - 1)
    index_PK = torch.randint(0, shape.N, (shape.P, shape.K), generator=generator, device="cuda")
    weight_PK = normal(shape.P, shape.K).softmax(dim=-1)
    token_PM = bank_NL[index_PK].view(shape.P, -1)
    return Scene(weight_PK, normal(shape.V, shape.D), index_PK, bank_NL, token_PM, normal(shape.P, shape.D))


@dataclass(frozen=True)
class Exact:
    """fp64: m and dw at the sampled positions, dE in the sampled columns."""

    read_sD: Tensor
    slope_sK: Tensor
    slope_Vc: Tensor


def every(size: int, at_most: int) -> slice:
    """A sample of `at_most` out of `size`."""
    return slice(None, None, max(1, size // at_most))


def exact(made: Scene, shape: Shape) -> Exact:
    """As the formulas say it."""
    s, c = every(shape.P, SAMPLE), every(shape.D, COLUMNS)
    rows_sKD = made.table_VD.double()[made.token_PM[s]].view(-1, shape.K, shape.L, shape.D).mean(dim=2)
    weight_PK, slope_PD = made.weight_PK.double(), made.slope_PD.double()
    slope_Vc = torch.zeros_like(made.table_VD[:, c], dtype=torch.float64)
    share_PM = (weight_PK / shape.L).repeat_interleave(shape.L, dim=1)
    for share_pM, token_pM, slope_pD in zip(
        share_PM.split(4_096), made.token_PM.split(4_096), slope_PD.split(4_096), strict=True
    ):
        slope_Vc.index_add_(0, token_pM.flatten(), (share_pM[..., None] * slope_pD[:, None, c]).flatten(0, 1))
    return Exact(
        torch.einsum("sk,skd->sd", weight_PK[s], rows_sKD),
        torch.einsum("sd,skd->sk", slope_PD[s], rows_sKD),
        slope_Vc,
    )


def bags(made: Scene, shape: Shape) -> tuple[Callable[[], Any], ...]:
    """Read, weights' slope, table's slope, its sort, all by autograd: by embedding bags."""
    chunk_bytes = bank_read.CHUNK_BYTES
    inputs = made.index_PK, made.bank_NL, chunk_bytes
    weight_PK, table_VD = made.weight_PK.clone().requires_grad_(), made.table_VD.clone().requires_grad_()
    return (
        lambda: bank_read._Read.apply(made.weight_PK, made.table_VD, *inputs),
        lambda: bank_read._weight_slope(
            made.slope_PD, made.token_PM, made.table_VD, K=shape.K, chunk_bytes=chunk_bytes
        ),
        lambda: bank_read._table_slope(
            made.slope_PD, made.weight_PK, made.token_PM, V=shape.V, chunk_bytes=chunk_bytes
        ),
        lambda: made.token_PM.flatten().sort(stable=True),
        lambda: torch.autograd.grad(
            [bank_read._Read.apply(weight_PK, table_VD, *inputs)],  # pyright: ignore[reportArgumentType]
            [weight_PK, table_VD],
            [made.slope_PD],
        ),
    )


def products(made: Scene, shape: Shape) -> tuple[Callable[[], Any], ...]:
    """The same by products in bf16; what takes the place of a sort is adding up the shares."""
    chunk_bytes = bank_read.CHUNK_BYTES
    inputs = made.slope_PD, made.token_PM, made.table_VD
    weights = made.slope_PD, made.weight_PK, made.token_PM

    def read() -> Tensor:
        return product_read.read(made.weight_PK, made.table_VD, made.token_PM, chunk_bytes=chunk_bytes)

    def weight() -> Tensor:
        return product_read.weight_slope(*inputs, K=shape.K, chunk_bytes=chunk_bytes)

    def table() -> Tensor:
        return product_read.table_slope(*weights, V=shape.V, chunk_bytes=chunk_bytes)

    def add() -> Tensor:
        return product_read.shares(made.weight_PK[:4_096], made.token_PM[:4_096], V=shape.V)

    return read, weight, table, add, lambda: (read(), weight(), table())[1:]


def kernels(made: Scene, shape: Shape) -> tuple[Callable[[], Any], ...]:
    """The same in Triton."""
    from benchmarks.gpu import triton_read

    chunk_bytes = bank_read.CHUNK_BYTES
    weight_PK, table_VD = made.weight_PK.clone().requires_grad_(), made.table_VD.clone().requires_grad_()

    def read(weight_PK: Tensor, table_VD: Tensor) -> Tensor:
        return triton_read.read(weight_PK, table_VD, made.index_PK, made.bank_NL, chunk_bytes=chunk_bytes)

    return (
        lambda: read(made.weight_PK, made.table_VD),
        lambda: triton_read.weight_slope(made.slope_PD, made.token_PM, made.table_VD, K=shape.K),
        lambda: triton_read.table_slope(
            made.slope_PD, made.weight_PK, made.token_PM, V=shape.V, chunk_bytes=chunk_bytes
        ),
        lambda: made.token_PM.flatten().to(torch.int16).sort(stable=True),
        lambda: torch.autograd.grad([read(weight_PK, table_VD)], [weight_PK, table_VD], [made.slope_PD]),
    )


PATHS = {"bags": bags, "products": products, "triton": kernels}


def parts(path: str, made: Scene, shape: Shape, correct: Exact) -> Mapping[str, Part]:
    """The parts of a path, by name."""
    read, weight, table, sort, both = PATHS[path](made, shape)
    S, P, D = shape.S, shape.P, shape.D
    moved = [4 * (S * D + P * D + 3 * S), 4 * (S * D + P * D + S), 4 * (S * D + shape.V * D + 4 * S)]
    s, c = every(P, SAMPLE), every(D, COLUMNS)
    return {
        "forward": Part(read, moved[0], lambda read_PD: read_PD[s], correct.read_sD),
        "weights' slope": Part(weight, moved[1], lambda slope_PK: slope_PK[s], correct.slope_sK),
        "table's slope": Part(table, moved[2], lambda slope_VD: slope_VD[:, c], correct.slope_Vc),
        "of that, its sort or sum": Part(sort, 4 * 4 * S),
        "all, by autograd": Part(both, sum(moved), lambda slopes: slopes[1][:, c], correct.slope_Vc),
    }


def milliseconds(work: Callable[[], Any]) -> float:
    """The median of REPEATS runs, by the GPU's own clock."""
    for _ in range(WARM_UP):
        work()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]
    for begun, ended in events:
        begun.record()
        work()
        ended.record()
    torch.cuda.synchronize()
    return median(begun.elapsed_time(ended) for begun, ended in events)


def copy_rate() -> float:
    """Bytes a second of a copy of 1 GiB, read and written."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (milliseconds(lambda: target.copy_(source)) / 1e3)


def measure(part: Part, rate: float) -> dict[str, Any]:
    """Time, error and bytes of a part; or why there are none."""
    try:
        ms, error = milliseconds(part.work), None
        if part.sampled is not None and part.exact is not None:
            found = part.sampled(part.work()).double()
            error = float((found - part.exact).norm() / part.exact.norm())
    except Exception as failure:  # noqa: BLE001 - whatever a variant fails of is its result; the others go on
        return {"ms": None, "error": None, "moved_gb": None, "share": None, "failed": reason(failure)}
    share = part.moved / (ms / 1e3) / rate
    return {"ms": ms, "error": error, "moved_gb": part.moved / 1e9, "share": share, "failed": None}


def reason(failure: Exception) -> str:
    """On one line."""
    return " ".join(f"{type(failure).__name__}: {failure}".split())[:500]


def check(card: str) -> dict[str, Any]:
    """Everything, by the names of the JSON's keys. Triton's turn comes last: an error of its kernels can end CUDA."""
    rate = copy_rate()
    rows = []
    for path, (name, shape) in itertools.product(PATHS, SHAPES.items()):
        print(f"  {path}: {name}", file=sys.stderr, flush=True)
        try:
            made = scene(shape)
            found = parts(path, made, shape, exact(made, shape))
        except Exception as failure:  # noqa: BLE001 - as above
            rows.append({"shape": name, "path": path, "part": "all", "ms": None, "failed": reason(failure)})
            continue
        rows += [{"shape": name, "path": path, "part": part, **measure(work, rate)} for part, work in found.items()]
    return {"card": card, "torch": torch.__version__, "copy_gb_s": rate / 1e9, "rows": rows}


def tune(shape: Shape) -> list[dict[str, Any]]:
    """The kernels under other tiles, and the table's slope with bags of other lengths."""
    from benchmarks.gpu import triton_read

    made = scene(shape)
    read, weight, table, *_ = kernels(made, shape)
    rows = []
    for kernel, work in (("POOL", read), ("WEIGHTS", weight), ("TABLE", table)):
        own = getattr(triton_read, kernel)
        for launch in launches():
            setattr(triton_read, kernel, own._replace(**launch))
            rows.append({"kernel": kernel, **launch, **timed(work)})
        setattr(triton_read, kernel, own)
    inputs = made.slope_PD, made.weight_PK, made.token_PM
    for longest in (128, 256, 1_024, 2_048):
        found = timed(
            lambda longest=longest: triton_read.table_slope(
                *inputs, V=shape.V, chunk_bytes=bank_read.CHUNK_BYTES, longest=longest
            )
        )
        rows.append({"kernel": f"TABLE, bags of {longest}", **found})
    return rows


def launches() -> Iterator[dict[str, int]]:
    """Tiles to try: rows, columns, warps, stages, rounds of the loop."""
    for tile in (
        (16, 128, 4, 1, 1),
        (16, 128, 4, 1, 2),
        (16, 128, 4, 1, 4),
        (16, 128, 4, 1, 8),
        (16, 128, 4, 2, 1),
        (16, 128, 4, 3, 1),
        (16, 128, 2, 1, 2),
        (8, 128, 2, 1, 2),
        (8, 128, 1, 1, 2),
        (16, 64, 2, 1, 2),
        (16, 32, 1, 1, 4),
        (32, 32, 2, 1, 2),
        (16, 256, 4, 1, 2),
        (16, 256, 8, 1, 2),
        (16, 512, 8, 1, 1),
        (32, 128, 4, 1, 1),
    ):
        yield dict(zip(("rows", "columns", "warps", "stages", "unroll"), tile, strict=True))


def timed(work: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds, or why there are none."""
    try:
        return {"ms": milliseconds(work), "failed": None}
    except Exception as failure:  # noqa: BLE001 - as above
        return {"ms": None, "failed": reason(failure)}


def render(found: Mapping[str, Any]) -> str:
    """The same in tables."""
    own = {(row["shape"], row["part"]): row["ms"] for row in found["rows"] if row["path"] == "bags"}
    lines = []
    for row in found["rows"]:
        base = own.get((row["shape"], row["part"]))
        gain = base / row["ms"] if base and row["ms"] else None
        lines.append([*(row.get(key) for key in ("shape", "path", "part", "ms")), gain])
        lines[-1] += [_scientific(row.get("error")), row.get("moved_gb"), row.get("share"), row["failed"]]
    heads = ["shape", "path", "part", "ms", "bags / this", "error", "GB moved", "share of copy", "failed"]
    text = f"{found['card']}, torch {found['torch']}; a copy moves {found['copy_gb_s']:,.0f} GB/s\n\n"
    text += tabulate(lines, headers=heads, floatfmt=".3f", missingval="-", disable_numparse=[5])
    if "tune" in found:
        text += "\n\n" + tabulate(found["tune"], headers="keys", floatfmt=".3f", missingval="-")
    return text


def _scientific(value: float | None) -> str | None:
    return None if value is None else f"{value:.1e}"


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.read",
        description=f"On the GPU that is here: {WOULD}. Takes seconds; nothing is measured without a GPU.",
        epilog="example: python -m benchmarks.gpu.read --json > read.json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--tune", action="store_true", help="time the kernels under other tiles too: a minute more")
    arguments = parser.parse_args(argv)
    card = find_card()
    if card is None:
        without = {"card": None, "not_measured": WOULD}
        print(json.dumps(without) if arguments.json else f"CUDA sees no GPU, so nothing was measured: not {WOULD}.")
        return 0
    found = check(card)
    if arguments.tune:
        found["tune"] = tune(SHAPES["seed-1.4.6, Zipf"])
    print(json.dumps(found, indent=1) if arguments.json else render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
