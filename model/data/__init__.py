"""What a run reads: a corpus's documents, knowledge and probes; their token ids; batches in a reproducible order.

Imports no torch. `model.data.tokenizer` is imported by its own name: a study that gives none does without the library.
"""

from model.data.batches import IGNORED, Batches, FixedRows, fixed_rows
from model.data.check import content_hash
from model.data.corpus import Documents, load_documents
from model.data.facts import Fact, Probe
from model.data.ngrams import ngram_floors
from model.data.token_documents import TokenDocuments

__all__ = [
    "IGNORED", "Batches", "Documents", "Fact", "FixedRows", "Probe", "TokenDocuments", "content_hash", "fixed_rows",
    "load_documents", "ngram_floors",
]  # fmt: skip
