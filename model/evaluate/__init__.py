"""What a trained model is measured by: losses, facts, samples, use of its bank, and the bank's entries as text.

`Evaluator` keeps a run's held-out data and measures a model on it; `read_bank` reads a checkpoint's bank.
"""

from model.evaluate.bank_contents import Bank, Entry, read_bank, select_entries, summarise_bank
from model.evaluate.evaluator import Evaluator, entries_of

__all__ = ["Bank", "Entry", "Evaluator", "entries_of", "read_bank", "select_entries", "summarise_bank"]
