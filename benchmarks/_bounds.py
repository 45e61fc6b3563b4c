"""The ratios of benchmarks.model as tables, each line with the bound that it is held to."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate


def render(found: dict[str, Any], *, own: tuple[int, int], last_N: int) -> str:
    """Tables, each line with the bound that it is held to; `own`: the L and K that the bounds are for."""
    parts = []
    for key, title in _TITLES.items():
        table = []
        for row in found[key]:
            bound = _bound(key, row, own=(row["L"], row["K"]) == own, last=row["N"] == last_N)
            table.append([*row.values(), *(_verdict(row["value"], bound))])
        headers = ["shape", "variant", "L", "K", "N", "entries", "ratio", "bound", "held"]
        parts.append(f"{title}\n" + tabulate(table, headers=headers, floatfmt=".3f", missingval="-", intfmt=","))
    whole = found["all_entries_update"]
    beyond = whole["peak_bytes_beyond_sums"]
    parts.append(
        f"One update of all {whole['entries']:,} entries: {whole['seconds']:.1f} s here; "
        f"{beyond / 2**30:.2f} GiB beyond its sums (bound: at most 1 GiB, {'held' if beyond <= 2**30 else 'not held'})"
    )
    return "\n\n".join(parts)


Bound = tuple[str, float] | None

_TITLES = {
    "step_ratio_vs_none": "Training step (batch, forward, backward, clipping, optimiser) over the control's",
    "ema_speedup": "EMA update: the literal algorithm's time over ours, same tokens",
    "activation_ratio": "Read, peak extra bytes: ours over literal",
    "activation_ratio_with_table_gradient": "The same, with E's gradient formed in both",
    "bank_growth": "Step of `token` over that with the smallest bank",
    "ema_share_of_steps": "Updates over steps, one update in five micro-batches",
}
_AT_LEAST = {1_024: 1.1, 16_384: 2.5}


def _bound(key: str, row: dict[str, Any], *, own: bool, last: bool) -> Bound:
    """What a line is held to; `own`: it has the shape's own L and K; `last`: it has the largest bank."""
    if key == "step_ratio_vs_none" and row["variant"] == "token" and own:
        return "at most", 1.4
    if key == "ema_speedup" and row["entries"] in _AT_LEAST and own:
        return "at least", _AT_LEAST[row["entries"]]
    if key == "activation_ratio" and own:
        return "at most", 1 / 8
    if key == "bank_growth" and last:
        return "at most", 1.3
    return None


def _verdict(value: float, bound: Bound) -> tuple[str, str]:
    if bound is None:
        return "", ""
    word, limit = bound
    held = value <= limit if word == "at most" else value >= limit
    return f"{word} {limit:g}", "yes" if held else "NO"
