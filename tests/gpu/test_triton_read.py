"""The read in Triton against its oracle; on a card, or in Triton's interpreter (TRITON_INTERPRET=1) on the CPU.

Letters: P positions, K entries selected, L tokens an entry, D dim, V vocabulary, N entries.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.oracles import token_memory as oracle

CUDA = torch.cuda.is_available()
INTERPRETED = find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if CUDA else "cpu"
CHUNK_BYTES = 2**28

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or INTERPRETED), reason="needs a CUDA GPU, or Triton and TRITON_INTERPRET=1"),
    pytest.mark.filterwarnings(
        "ignore:Conversion of an array with ndim:DeprecationWarning:triton"
    ),  # the interpreter's
]
on_a_card = pytest.mark.skipif(not CUDA, reason="needs a CUDA GPU")


class Scene(NamedTuple):
    """What a read is given, and G."""

    weight_PK: Tensor
    table_VD: Tensor
    index_PK: Tensor
    bank_NL: Tensor
    slope_PD: Tensor


def scene(P: int, K: int, L: int, D: int, *, V: int = 37, N: int = 25, frequent: float = 0.0, seed: int = 0) -> Scene:
    """Random; a share `frequent` of the stored tokens is one token, and a last token is in no entry."""
    generator = torch.Generator().manual_seed(seed)
    bank_NL = torch.randint(0, V - 1, (N, L), generator=generator, dtype=torch.int32)
    bank_NL[torch.rand(N, L, generator=generator) < frequent] = 5
    made = Scene(
        torch.rand(P, K, generator=generator).softmax(dim=-1),
        torch.randn(V, D, generator=generator),
        torch.randint(0, N, (P, K), generator=generator),
        bank_NL,
        torch.randn(P, D, generator=generator),
    )
    return Scene(*(tensor.to(DEVICE) for tensor in made))


def triton_read(made: Scene, *, chunk_bytes: int = CHUNK_BYTES) -> tuple[Tensor, ...]:
    """m, dw, dE."""
    from benchmarks.gpu import triton_read

    weight_PK, table_VD = made.weight_PK.clone().requires_grad_(), made.table_VD.clone().requires_grad_()
    read_PD = triton_read.read(weight_PK, table_VD, made.index_PK, made.bank_NL, chunk_bytes=chunk_bytes)
    return read_PD.detach(), *torch.autograd.grad(read_PD, (weight_PK, table_VD), made.slope_PD)


def literal_read(made: Scene) -> tuple[Tensor, ...]:
    """m, dw, dE in fp64, by autograd through the oracle."""
    weight_PK, table_VD, slope_PD = (tensor.double().cpu() for tensor in (made.weight_PK, made.table_VD, made.slope_PD))
    for tensor in (weight_PK, table_VD):
        tensor.requires_grad_()
    read_PD = oracle.decode(weight_PK, made.index_PK.cpu(), made.bank_NL.cpu(), table_VD)
    return read_PD.detach(), *torch.autograd.grad(read_PD, (weight_PK, table_VD), slope_PD)


def assert_agree(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """As well as fp32 allows: to a part in a million of the largest value."""
    for found, value in zip(ours, expected, strict=True):
        assert found.dtype == torch.float32
        worst = (found.double().cpu() - value.cpu()).abs().max()
        assert worst <= 1e-6 * value.abs().max()


@pytest.mark.parametrize(
    ("P", "K", "L", "D"),
    [(7, 5, 3, 16), (6, 2, 8, 48), (5, 16, 8, 128), (3, 1, 1, 208), (4, 3, 40, 32), (2, 20, 2, 256)],
)
def test_the_read_and_its_gradients_equal_the_literal_read(P: int, K: int, L: int, D: int) -> None:
    made = scene(P, K, L, D)
    assert_agree(triton_read(made), literal_read(made))


@on_a_card  # a program for each token
@pytest.mark.parametrize("V", [2**15 - 1, 2**15])
def test_the_last_token_of_a_large_vocabulary(V: int) -> None:
    """One whose tokens are sorted in 16 bits, and one whose tokens are not."""
    made = scene(3, 2, 2, 16, V=V)
    made.bank_NL[:, 0] = V - 1
    assert_agree(triton_read(made), literal_read(made))


@pytest.mark.parametrize("longest", [1, 3, 64, 1_000])
def test_the_slots_of_a_frequent_token_are_cut(longest: int) -> None:
    from benchmarks.gpu import triton_read

    made = scene(11, 4, 6, 32, frequent=0.5)
    token_PM = triton_read.tokens(made.index_PK, made.bank_NL)
    ours = triton_read.table_slope(
        made.slope_PD, made.weight_PK, token_PM, V=37, chunk_bytes=CHUNK_BYTES, longest=longest
    )
    assert_agree((ours,), literal_read(made)[2:])


def test_chunks_of_positions_add_up() -> None:
    made = scene(7, 3, 4, 16)
    assert_agree(triton_read(made, chunk_bytes=1), literal_read(made))
    assert_agree(triton_read(made, chunk_bytes=32 * 12 * 3), literal_read(made))


def test_the_backward_knows_the_tokens_that_were_read() -> None:
    """Though the bank has changed since."""
    from benchmarks.gpu import triton_read

    made = scene(5, 3, 4, 16)
    expected = literal_read(made)
    weight_PK = made.weight_PK.clone().requires_grad_()
    read_PD = triton_read.read(weight_PK, made.table_VD, made.index_PK, made.bank_NL, chunk_bytes=CHUNK_BYTES)
    made.bank_NL.zero_()
    assert_agree(torch.autograd.grad(read_PD, weight_PK, made.slope_PD), expected[1:2])


def test_it_repeats_bit_for_bit() -> None:
    made = scene(64, 8, 8, 64, frequent=0.3) if CUDA else scene(9, 4, 4, 32, frequent=0.3)
    first = triton_read(made)
    for _ in range(20 if CUDA else 1):
        assert all(torch.equal(one, other) for one, other in zip(first, triton_read(made), strict=True))


@on_a_card
@pytest.mark.parametrize("D", [512, 1_024])
def test_a_full_size(D: int) -> None:
    """Against the present path in fp64, whose gradients are checked elsewhere."""
    from model.bank.bank_read import read_tokens
    from model.bank.product_key import Selection

    made = scene(4_096, 16, 8, D, V=6_400, N=65_536, frequent=0.05)
    weight_PK, table_VD = made.weight_PK.double().requires_grad_(), made.table_VD.double().requires_grad_()
    read_PD = read_tokens(Selection(weight_PK, made.index_PK), made.bank_NL, table_VD)
    expected = read_PD.detach(), *torch.autograd.grad(read_PD, (weight_PK, table_VD), made.slope_PD.double())
    assert_agree(triton_read(made), expected)


@on_a_card
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_cuda_graph_holds_it_and_nothing_waits() -> None:
    """Captured with one input, replayed with another."""
    made, other = (scene(128, 8, 8, 128, V=2_048, N=1_024, frequent=0.05, seed=seed) for seed in (0, 1))
    expected = triton_read(other)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        triton_read(made)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.set_sync_debug_mode("error")
    try:
        triton_read(made)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = triton_read(made)
    for place, value in zip(made, other, strict=True):
        place.copy_(value)
    graph.replay()
    assert all(torch.equal(one, another) for one, another in zip(captured, expected, strict=True))
