"""How many bytes the model's loops work on at once.

They are constants of the code, not keys of a configuration. They stand here, where no torch is imported, because the
loops and the formulas of `model.cost` both need them.
"""

from __future__ import annotations

UPDATE_BYTES = 2**27
"""Bound on each temporary of an EMA update; the sums themselves ([entries, dim] fp32) come on top."""

LOGITS_BYTES = 2**25
"""Bound on the fp32 logits that exist at once; their gradient takes their place."""

CPU_CACHE_BYTES = 2**21
CUDA_CACHE_BYTES = 2**28
"""What a loop over pieces works on at once: what a core's cache holds; on a GPU, enough to fill it."""
