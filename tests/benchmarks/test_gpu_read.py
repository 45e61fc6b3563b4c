"""benchmarks.gpu_read without a GPU, and what it makes of a variant that fails."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import gpu_read
from benchmarks.gpu_read import Part, measure, render


def test_without_a_gpu_it_says_so_and_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_read, "find_card", lambda: None)
    monkeypatch.setattr(gpu_read, "check", lambda _: pytest.fail("something was measured"))
    assert gpu_read.main([]) == 0
    assert "no GPU" in capsys.readouterr().out
    assert gpu_read.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"card": None, "not_measured": gpu_read.WOULD}


def test_a_variant_that_fails_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def milliseconds(work: gpu_read.Callable[[], object]) -> float:
        work()
        return 2.0

    def broken() -> None:
        raise RuntimeError("an illegal\nmemory access")

    monkeypatch.setattr(gpu_read, "milliseconds", milliseconds)
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    good = measure(Part(lambda: torch.tensor([3.0, 4.5]), 4_000_000, lambda found: found, exact), rate=4e9)
    assert good == {"ms": 2.0, "error": 0.1, "moved_gb": 0.004, "share": 0.5, "failed": None}
    bad = measure(Part(broken, 4_000_000), rate=4e9)
    assert bad["failed"] == "RuntimeError: an illegal memory access"
    rows = [
        {"shape": "tiny", "path": path, "part": "forward", **row} for path, row in (("bags", good), ("triton", bad))
    ]
    text = render({"card": "a card", "torch": "2", "copy_gb_s": 4.0, "rows": rows})
    assert "an illegal memory access" in text
    assert "1.0e-01" in text
