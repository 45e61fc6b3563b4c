"""The report: what the analyses found becomes sections, the sections one document, and the document tables, figures and
pages. `python -m ablate.report STUDY` writes it; `findings.py` computes, `sections/` words, `writer.py` writes.

The package can be called: `ablate.report(step, val_loss=3.2)` in a user's script reports to the study that runs it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from ablate.trainers.own.emit import emit


class _Callable(ModuleType):
    def __call__(self, progress: int, /, **metrics: Any) -> None:
        emit(progress, **metrics)


sys.modules[__name__].__class__ = _Callable
