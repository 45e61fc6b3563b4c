"""The one shape of a complaint about input: `place: key: value: rule; cure`, on one line, exit 2."""

from __future__ import annotations

from ablate import escape


class BadInput(Exception):
    """What the user gave breaks a rule; nothing was written. `place` is `file:line`, `--flag` or a path."""

    def __init__(self, place: str, key: str, value: object, rule: str, cure: str) -> None:
        self.place, self.key, self.value, self.rule, self.cure = place, key, value, rule, cure
        super().__init__(str(self))

    def __str__(self) -> str:
        """One line, whatever the parts contain."""
        parts = [_one_line(part) for part in (self.place, self.key, self.value) if part not in ("", None)]
        return f"{': '.join(parts)}: {_one_line(self.rule)}; {_one_line(self.cure)}"


def _one_line(part: object) -> str:
    text = escape.printable(str(part)[:2_000]).replace("\n", " ")
    return text if len(text) <= 200 else text[:197] + "..."
