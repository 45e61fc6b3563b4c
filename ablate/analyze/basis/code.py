"""Which trials were trained by the same code: that of one hash, or of one commit where a hash was not kept yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

UNKNOWN = "unknown"


def codes(hashes: Sequence[str | None], commits: Sequence[str | None]) -> list[str]:
    """What names the code of each trial, the same for trials of the same code: its hash; without one the hash that
    another trial of its commit has, or else its commit."""
    pairs = list(zip(hashes, commits, strict=True))
    of_commit: defaultdict[str, set[str]] = defaultdict(set)
    for code, commit in pairs:
        if code and commit:
            of_commit[commit].add(code)

    def named(code: str | None, commit: str | None) -> str:
        if code or not commit:
            return code or UNKNOWN
        same = of_commit[commit]
        return next(iter(same)) if len(same) == 1 else commit  # several: files of that commit were edited

    return [named(code, commit) for code, commit in pairs]
