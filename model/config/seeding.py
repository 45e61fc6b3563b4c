"""Seeds of random streams by name.

A stream depends on the run's seed and its own name only. So an arm that adds or removes a module changes no other
module's numbers, and what two arms share they share bit for bit.
"""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed for the stream `name` of the run `seed`."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def reseeded(seed: int, reseed: int) -> int:
    """The seed of the streams that `train.reseed` replaces; the run's own seed where `reseed` is 0."""
    return stream_seed(seed, f"reseed/{reseed}") if reseed else seed
