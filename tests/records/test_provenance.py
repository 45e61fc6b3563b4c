"""Where numbers come from: what is unknown is null, not an error."""

from __future__ import annotations

from ablate.records import provenance


def test_unknown_facts_are_null():
    assert provenance.version("no-such-package-anywhere") is None
    assert provenance.git("no-such-command") is None
    assert provenance.device()
