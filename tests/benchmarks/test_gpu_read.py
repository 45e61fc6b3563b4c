"""benchmarks.gpu.read without a GPU, and what it makes of a variant that fails."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu import product_read
from benchmarks.gpu import read as gpu_read
from benchmarks.gpu.read import Part, measure, render


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


def test_a_read_by_products_is_the_read() -> None:
    """Within what bf16 rounds; tokens repeat within a position, and chunks are smaller than the whole."""
    P, K, L, D, V, chunk_bytes = 37, 4, 3, 16, 11, 4 * 11 * 8
    generator = torch.Generator().manual_seed(0)
    token_PM = torch.randint(0, V, (P, K * L), generator=generator, dtype=torch.int32)
    weight_PK = torch.randn(P, K, generator=generator).softmax(dim=-1).requires_grad_()
    table_VD = torch.randn(V, D, generator=generator).requires_grad_()
    slope_PD = torch.randn(P, D, generator=generator)
    rows_PKD = table_VD[token_PM.long()].unflatten(1, (K, L)).mean(dim=2)
    exact = torch.einsum("pk,pkd->pd", weight_PK, rows_PKD)
    exact.backward(slope_PD)
    weight, table = weight_PK.detach(), table_VD.detach()
    found = {
        "read": (product_read.read(weight, table, token_PM, chunk_bytes=chunk_bytes), exact),
        "weights": (
            product_read.weight_slope(slope_PD, token_PM, table, K=K, chunk_bytes=chunk_bytes),
            weight_PK.grad,
        ),
        "table": (
            product_read.table_slope(slope_PD, weight, token_PM, V=V, chunk_bytes=chunk_bytes),
            table_VD.grad,
        ),
    }
    for name, (ours, whole) in found.items():
        assert whole is not None
        assert (ours - whole).norm() / whole.norm() < 1e-2, name
