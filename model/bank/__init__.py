"""The token memory: what can stand in the feed-forward net's place, the bank that it reads, and the bank's updates.

`python -m model.bank` prints the entries of a trained bank as text.
"""

from model.bank.bank_updater import BankUpdater, fill_bank
from model.bank.ema import UpdateStats, update_bank, update_metrics
from model.bank.encode import output_head, self_encode_rate
from model.bank.knowledge import initial_bank
from model.bank.layer_inputs import LayerInputs
from model.bank.memory import MEMORIES, Read
from model.bank.memory_bank import MemoryBank
from model.bank.primitives.ranks import sum_over_ranks
from model.bank.primitives.segment_sum import pretending
from model.bank.product_key import cached_pairs

__all__ = [
    "MEMORIES", "BankUpdater", "LayerInputs", "MemoryBank", "Read", "UpdateStats", "cached_pairs", "fill_bank",
    "initial_bank", "output_head", "pretending", "self_encode_rate", "sum_over_ranks", "update_bank", "update_metrics",
]  # fmt: skip
