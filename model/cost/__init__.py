"""What a run will cost, said before it starts: by formula (`estimate`), and its peak of memory (`footprint`).

Imports no torch; a `footprint` that is in no cache yet does.
"""

from model.cost.formulas import Estimate, estimate, is_recorded
from model.cost.peak_memory import CONTEXT_GIB, PROCESS_GIB, Footprint, footprint

__all__ = ["CONTEXT_GIB", "PROCESS_GIB", "Estimate", "Footprint", "estimate", "footprint", "is_recorded"]
