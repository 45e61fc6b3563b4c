"""The lock of a study: one sweep at a time starts trials of it. The lock says which process holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ablate.errors import BadInput
from ablate.records.atomic_files import Unreadable
from ablate.records.lease import Held
from ablate.records.ledger import Ledger

_FILE = "driver.lock"


@contextmanager
def hold(ledger: Ledger) -> Iterator[None]:
    """Hold the study's lock while trials are started. Raises BadInput where another sweep holds it.

    A process that was killed no longer holds it; see `store.Store.hold`.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(ledger.store.hold(_FILE))
        except Held:
            raise _refusal(ledger) from None
        except Unreadable as error:
            raise _no_lock(ledger, error) from None
        yield


def check_free(ledger: Ledger) -> None:
    """Raise BadInput where a sweep holds the lock now."""
    if is_held(ledger):
        raise _refusal(ledger)


def is_held(ledger: Ledger) -> bool:
    """Whether a sweep holds the lock now, as far as this machine can see. Raises BadInput where that cannot be told."""
    try:
        return ledger.store.held(_FILE)
    except Unreadable as error:
        raise _no_lock(ledger, error) from None


def holder(ledger: Ledger) -> str:
    """Who holds the lock, or held it last: `process 4242 on host, since 2026-01-02T03:04:05+00:00`."""
    owner = ledger.store.owner(_FILE)
    return "another process" if owner is None else f"process {owner.pid} on {owner.host}, since {owner.since}"


def _no_lock(ledger: Ledger, error: Unreadable) -> BadInput:
    return BadInput(str(ledger.place / _FILE), "", "", f"not a lock of a study: {error}", "move it away")


def _refusal(ledger: Ledger) -> BadInput:
    hint = "wait for it, or interrupt it (ablate.status shows its progress)"
    rule = f"another sweep is running it: {holder(ledger)}"
    return BadInput(str(ledger.place), "study", ledger.root.name, rule, hint)
