"""Best-fit decreasing, literally: every piece, longest first, into the fullest row that still takes it."""

from __future__ import annotations


def row_sizes(lengths: list[int], *, capacity: int) -> list[int]:
    """How full the rows are in the end, sorted. (Which of several equally full rows takes a piece is left open.)"""
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [r for r, used in enumerate(rows) if used + length <= capacity]
        if fitting:
            rows[max(fitting, key=lambda r: rows[r])] += length
        else:
            rows.append(length)
    return sorted(rows)
