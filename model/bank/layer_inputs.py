"""What a layer that replaces the feed-forward net may use besides the states: one object for all of them.

Letters: B batch, T tokens, V vocabulary, D dim.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from model.bank.memory_bank import MemoryBank


@dataclass(frozen=True)
class LayerInputs:
    """`ids_BT`: the tokens whose states the layer gets. `table_VD`: the embedding table. `replace_read_D` replaces what
    a bank's read gives by a constant, so that an evaluation measures what reading is worth."""

    ids_BT: Tensor
    bank: MemoryBank
    table_VD: Tensor
    replace_read_D: Tensor | None = None
