"""The loss a chunk at a time against cross-entropy on all logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from model.data.batches import IGNORED
from model.loss import summed_nats, token_nats
from tests.model.probes import peak_bytes


def problem(*, dtype: torch.dtype, V: int = 23) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States [2, 7, 5], a table [V, 5], targets [2, 7], four of them left out."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 7, 5, generator=generator, dtype=dtype).requires_grad_()
    table = torch.randn(V, 5, generator=generator, dtype=dtype).requires_grad_()
    target = torch.randint(0, V, (2, 7), generator=generator)
    target[0, 3:6] = IGNORED
    target[1, 6] = IGNORED
    return hidden, table, target


def on_all_logits(hidden: torch.Tensor, table: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    logits = (hidden @ table.T).flatten(0, 1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, target.flatten(), ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 23 * 4, 2**25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradients_are_those_of_all_logits(chunk_bytes: int, dtype: torch.dtype) -> None:
    hidden, table, target = problem(dtype=dtype)
    nats = summed_nats(hidden, table, target, chunk_bytes=chunk_bytes)
    expected = on_all_logits(hidden, table, target)
    torch.testing.assert_close(nats, expected)
    ours = torch.autograd.grad(3 * nats, (hidden, table))
    theirs = torch.autograd.grad(3 * expected, (hidden, table))
    torch.testing.assert_close(ours, theirs)
    assert not ours[0][target == IGNORED].any()


def test_loss_under_autocast_equals_all_logits_within_rounding() -> None:
    hidden, table, target = problem(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        nats = summed_nats(hidden, table, target, chunk_bytes=4 * 23 * 4)
        expected = on_all_logits(hidden, table, target)
    exact = on_all_logits(hidden, table, target)
    assert nats.dtype == torch.float32
    assert nats.item() != exact.item(), "the products were formed in bf16"
    assert nats.item() == pytest.approx(expected.item(), rel=1e-6)
    ours, theirs = (torch.autograd.grad(loss, (hidden, table)) for loss in (nats, expected))
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)


def test_loss_without_gradients_is_the_sum_of_token_costs() -> None:
    hidden, table, target = problem(dtype=torch.float32)
    nats = token_nats(hidden.flatten(0, 1), table, target.flatten(), chunk_bytes=4 * 23 * 4)
    logits = (hidden @ table.T).flatten(0, 1)
    each = F.cross_entropy(logits, target.flatten(), ignore_index=IGNORED, reduction="none")
    torch.testing.assert_close(nats, each.detach())
    with torch.no_grad():
        assert summed_nats(hidden, table, target, chunk_bytes=4 * 23 * 4).item() == nats.sum().item()


def test_loss_of_huge_logits_and_of_nan() -> None:
    hidden, table, target = problem(dtype=torch.float32)
    loud = hidden * 1e4
    torch.testing.assert_close(summed_nats(loud, table, target), on_all_logits(loud, table, target))
    assert summed_nats(hidden * torch.nan, table, target).isnan()


def test_loss_never_holds_the_logits_of_all_positions() -> None:
    V, P, D = 4_000, 512, 16
    hidden = torch.randn(P, D).requires_grad_()
    table, target = torch.randn(V, D).requires_grad_(), torch.randint(0, V, (P,))
    chunk = P * V * 4 // 16
    ours = peak_bytes(lambda: summed_nats(hidden, table, target, chunk_bytes=chunk).backward())
    whole = peak_bytes(lambda: F.cross_entropy(hidden @ table.T, target, reduction="sum").backward())
    gradients = 4 * (P * D + V * D)
    assert ours <= 3 * gradients + 2 * chunk
    assert whole >= 2 * P * V * 4
