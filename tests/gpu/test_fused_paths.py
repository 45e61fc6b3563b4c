"""Each fast path on the GPU against its formula in fp64 on the host: in fp32, and in bf16 where autocast reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.bank.bank_read import pool, read_tokens
from model.bank.ema import update_bank, update_metrics
from model.bank.encode import nearest_tokens
from model.bank.memory import Read
from model.bank.primitives.segment_sum import grouped_sum
from model.bank.primitives.top_k import top_k
from model.bank.product_key import Factors, Selection, _best, balance_loss, retrieve, selection_counts  # pyright: ignore[reportPrivateUsage]
from model.data import IGNORED
from model.layers import Attention, rotary_table
from model.loss import summed_nats, token_nats
from tests.gpu import CLOSE, DEVICE, autocast, distance, on_device
from tests.model.bank import test_update as updates
from tests.oracles import token_memory as oracle
from tests.oracles import variants

PRECISIONS = ["fp32", "bf16"]


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """As in a run: some operators have other kernels then."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    yield
    torch.use_deterministic_algorithms(False)


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def integers(high: int, *shape: int, seed: int) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def assert_gradients(ours: Tensor, literal: Tensor, *, of: tuple[Tensor, ...], to: tuple[Tensor, ...], near: float):
    """The gradients of both sums are near each other."""
    found = torch.autograd.grad(ours, of)
    exact = torch.autograd.grad(literal, to)
    for one, other in zip(found, exact, strict=True):
        assert one.shape == other.shape
        assert distance(one, other) < near


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("B", "T", "D", "V", "chunk_bytes"),
    [(2, 7, 16, 300, 4 * 300 * 4), (8, 64, 128, 2_048, 2**25), (8, 64, 128, 2_048, 2**20), (4, 96, 512, 6_400, 2**22)],
)
def test_loss_and_both_gradients(precision: str, B: int, T: int, D: int, V: int, chunk_bytes: int) -> None:
    hidden = normal(B, T, D, seed=0).requires_grad_()
    table = normal(V, D, seed=1, scale=D**-0.5).requires_grad_()  # logits of a variance of 1
    target = integers(V, B, T, seed=2)
    target[0, 3:6] = IGNORED
    each = F.cross_entropy((hidden @ table.T).flatten(0, 1), target.flatten(), ignore_index=IGNORED, reduction="none")
    hidden_gpu, table_gpu, target_gpu = on_device(hidden), on_device(table), on_device(target)
    with autocast(precision):
        nats = summed_nats(hidden_gpu, table_gpu, target_gpu, chunk_bytes=chunk_bytes)
        costs = token_nats(hidden_gpu.flatten(0, 1), table_gpu, target_gpu.flatten(), chunk_bytes=chunk_bytes)
    assert nats.dtype == torch.float32
    assert distance(nats, each.sum()) < CLOSE[precision] / 10
    assert distance(costs, each) < CLOSE[precision]
    of, to = (hidden_gpu, table_gpu), (hidden, table)
    assert_gradients(3 * nats, 3 * each.sum(), of=of, to=to, near=CLOSE[precision])
    assert not torch.autograd.grad(summed_nats(*of, target_gpu), hidden_gpu)[0][0, 3:6].any()


@pytest.mark.parametrize("chunk_bytes", [2**13, 2**28])
@pytest.mark.parametrize(
    ("P", "K", "L", "D", "V", "N"), [(20, 5, 3, 6, 40, 25), (600, 8, 8, 128, 2_048, 1_024), (300, 16, 32, 64, 512, 64)]
)
def test_read_and_both_gradients(chunk_bytes: int, P: int, K: int, L: int, D: int, V: int, N: int) -> None:
    """Token 0 fills a third of the bank, as a pad does: its gradient is a long sum."""
    weight = normal(P, K, seed=0).softmax(dim=-1).requires_grad_()
    index, bank = integers(N, P, K, seed=1), integers(V, N, L, seed=2).int()
    bank[: N // 3] = 0
    table, upstream = normal(V, D, seed=3).requires_grad_(), normal(P, D, seed=4)
    literal = (weight[..., None] * table[bank[index].long()].mean(dim=2)).sum(dim=1)
    with torch.no_grad():
        slow = oracle.decode(weight[:5], index[:5], bank, table)
    assert distance(literal[:5], slow) < 1e-12
    weight_gpu, table_gpu = on_device(weight), on_device(table)
    read = read_tokens(Selection(weight_gpu, on_device(index)), on_device(bank), table_gpu, chunk_bytes=chunk_bytes)
    assert distance(read, literal) < CLOSE["fp32"]
    ours = (read * on_device(upstream)).sum()
    of, to = (weight_gpu, table_gpu), (weight, table)
    assert_gradients(ours, (literal * upstream).sum(), of=of, to=to, near=CLOSE["fp32"])


def test_pool_and_its_gradient() -> None:
    weight, index = normal(200, 8, seed=0).softmax(-1).requires_grad_(), integers(256, 200, 8, seed=1)
    rows, upstream = normal(256, 32, seed=2), normal(200, 32, seed=3)
    literal = variants.pool(weight, index, rows)
    weight_gpu = on_device(weight)
    pooled = pool(Selection(weight_gpu, on_device(index)), on_device(rows))
    assert distance(pooled, literal) < CLOSE["fp32"]
    ours = (pooled * on_device(upstream)).sum()
    assert_gradients(ours, (literal * upstream).sum(), of=(weight_gpu,), to=(weight,), near=CLOSE["fp32"])


@pytest.mark.parametrize("chunk_bytes", [1_000, 2**17, None])
@pytest.mark.parametrize(("n", "K", "h"), [(32, 8, 32), (256, 16, 64), (1_024, 16, 64), (100, 3, 8)])
def test_retrieval_balance_and_their_gradients(n: int, K: int, h: int, chunk_bytes: int | None) -> None:
    """What is kept has the largest sums (of two within a rounding either may be kept); all else follows from it."""
    P = 48
    factors = Factors(
        normal(3, P // 3, 2 * h, seed=0, scale=h**-0.5).requires_grad_(), normal(2, n, h, seed=1).requires_grad_()
    )
    upstream = normal(P, K, seed=2)
    on_gpu = Factors(*map(on_device, factors))
    found, found_scores = retrieve(on_gpu, num_selected=K, chunk_bytes=chunk_bytes)
    counts = selection_counts(found, n=n)
    balance = balance_loss(on_gpu, found_scores, counts)
    index = found.index_BTK.cpu().view(P, K)

    halves = factors.query_BTQ.flatten(0, 1).chunk(2, dim=-1)
    scores = torch.stack([half @ keys.T for half, keys in zip(halves, factors.keys_2nh, strict=True)])
    kept = scores[0].gather(1, index // n) + scores[1].gather(1, index % n)
    best = (scores[0][:, :, None] + scores[1][:, None, :]).flatten(1).topk(K, dim=-1).values
    assert distance(torch.cat(found_scores, dim=1), scores) < CLOSE["fp32"]
    assert distance(kept, best) < 1e-6
    assert all(len(set(row)) == K for row in index.tolist())
    weight = kept.softmax(dim=-1)
    assert distance(found.weight_BTK.view(P, K), weight) < CLOSE["fp32"]
    assert counts.cpu().tolist() == [
        torch.bincount(half.flatten(), minlength=n).tolist() for half in (index // n, index % n)
    ]
    literal_balance = oracle.balance(scores, index)
    assert distance(balance, literal_balance) < CLOSE["fp32"]
    ours = (on_device(upstream) * found.weight_BTK.view(P, K)).sum() + 3 * balance
    literal = (upstream * weight).sum() + 3 * literal_balance
    assert_gradients(ours, literal, of=tuple(on_gpu), to=tuple(factors), near=CLOSE["fp32"])
    with torch.no_grad():
        assert distance(balance_loss(on_gpu, found_scores, counts), literal_balance) < CLOSE["fp32"]


@pytest.mark.parametrize("longest", [None, 1, 3])
def test_grouped_sum(longest: int | None) -> None:
    """Of groups that are empty, short, and longer than what one thread block adds up."""
    group = integers(40, 6_000, seed=0)
    group[:3_000] = 7
    group[group == 8] = 9
    group = group.sort().values
    rows, weight, position = normal(500, 48, seed=1), normal(6_000, seed=2), integers(500, 6_000, seed=3)
    exact = torch.zeros(42, 48, dtype=torch.float64).index_add(0, group, weight[:, None] * rows[position])
    ours = grouped_sum(
        on_device(rows),
        on_device(position),
        weight_S=on_device(weight),
        group_S=on_device(group),
        groups=42,
        longest=longest,
    )
    assert distance(ours, exact) < CLOSE["fp32"]
    assert not ours[[8, 40, 41]].any()


@pytest.mark.parametrize("chunk_bytes", [2**16, 2**28])
def test_nearest_tokens(chunk_bytes: int) -> None:
    """Each chosen token's product is the largest up to a rounding."""
    features, head = normal(700, 128, seed=0), normal(2_048, 128, seed=1)
    products = features @ head.T
    chosen = nearest_tokens(on_device(features), head_VD=on_device(head), chunk_bytes=chunk_bytes).cpu()
    assert distance(products.gather(1, chosen[:, None])[:, 0], products.amax(dim=-1)) < 1e-6
    assert (chosen == products.argmax(dim=-1)).double().mean() > 0.99


@pytest.mark.parametrize("K", [1, 8, 16, 32])
@pytest.mark.parametrize("n", [50, 256, 999, 1_024, 4_096])
def test_top_k_and_the_best_of_groups(n: int, K: int) -> None:
    """Nothing is rounded, so the values are equal bit for bit, and their columns hold them."""
    scores = normal(2, 33, n, seed=n).float()
    exact = scores.topk(K, dim=-1).values
    for values, columns in (top_k(scores.to(DEVICE), K), _best(scores.to(DEVICE), K)):
        assert torch.equal(values.cpu(), exact)
        assert torch.equal(scores.gather(-1, columns.cpu()), exact)


def fp32(read: Read) -> Read:
    """The read on the GPU."""
    selection = Selection(*map(on_device, read.selection))
    features = on_device(read.features_BTD)
    return Read(features, features, selection, features, features, features)


@pytest.mark.parametrize("chunk_bytes", [30_000, 2**28])
@pytest.mark.parametrize(
    "overrides",
    [
        {"memory": "token"},
        {"memory": "token", "encode": "cosine", "ema_rescale": "match_norm"},
        {"memory": "hybrid", "freeze_ratio": 7 / updates.N},
        {"memory": "hybrid", "ema_state": "sparse_cache"},
        {"memory": "vector", "ema_rescale": "match_norm"},
    ],
    ids=lambda overrides: " ".join(str(value) for value in overrides.values()),
)
def test_updates_of_a_bank(overrides: dict[str, Any], chunk_bytes: int) -> None:
    """Three updates: the tokens are those of the literal algorithm, one and all."""
    config = updates.configured(**overrides)
    table, width = updates.make_table(), 6 if config.memory == "vector" else updates.D
    bank, exact = updates.make_bank(config).float().to(DEVICE), updates.make_bank(config)
    literal = None
    if config.stores_tokens:
        literal = oracle_bank(config, exact)
    for seed in range(3):
        reads = updates.make_reads(width=width, seed=seed)
        stats = update_bank(
            bank, [fp32(read) for read in reads], table_VD=on_device(table), config=config, chunk_bytes=chunk_bytes
        )
        assert update_metrics([stats])["entries_updated"] == stats.entries > 0
        if literal is None:
            exact.vectors_NQ = variants.vector_update(
                exact.vectors_NQ, updates.layers(reads), decay=0.6, frozen=0, match_norm=True
            )
            assert distance(bank.vectors_NQ, exact.vectors_NQ) < CLOSE["fp32"]
            continue
        literal.update(updates.layers(reads))
        assert torch.equal(bank.tokens_NL.cpu(), literal.tokens_NL)
        if literal.residual_NR is not None:
            assert distance(bank.residual_NR, literal.residual_NR) < CLOSE["fp32"]
        for place in literal.cache or []:
            if place.entry is not None:
                kept = bank.cache_features_CLD[int(bank.cache_slot_N[place.entry])]
                assert distance(kept, place.features_LD) < CLOSE["fp32"]
    assert literal is None or not torch.equal(literal.tokens_NL, exact.tokens_NL), "the updates changed something"


def oracle_bank(config: Any, bank: Any) -> variants.TokenBank:
    """The literal bank with the contents of `bank`."""
    literal = variants.TokenBank(bank.tokens_NL.clone(), updates.make_table(), decay=0.6, frozen=config.frozen_entries)
    literal = replace(literal, cosine=config.encode == "cosine", match_norm=config.ema_rescale == "match_norm")
    if config.memory == "hybrid":
        literal.residual_NR, literal.sketch_RD = bank.residual_NR.clone(), bank.sketch_RD
    if bank.has_cache:
        literal.cache = [variants.Place() for _ in range(len(bank.cache_entry_C))]
    return literal


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("B", "T", "D", "H"), [(4, 64, 128, 4), (2, 200, 512, 32), (1, 33, 64, 1)])
def test_attention_and_its_gradients(precision: str, B: int, T: int, D: int, H: int) -> None:
    """scaled_dot_product_attention takes other kernels on a GPU than on the host, and in bf16 others than in fp32."""
    torch.manual_seed(0)
    exact = Attention(dim=D, n_heads=H).double()
    ours = Attention(dim=D, n_heads=H)
    ours.load_state_dict(exact.state_dict())
    ours.to(DEVICE)
    rotation = rotary_table(max_seq_len=256, head_dim=D // H, theta=10_000.0)
    x, upstream = normal(B, T, D, seed=1).requires_grad_(), normal(B, T, D, seed=2)
    x_gpu = on_device(x)
    with autocast(precision):
        mixed = ours(x_gpu, rotation.to(DEVICE))
    expected = exact(x, rotation.double())
    assert distance(mixed, expected) < CLOSE[precision]
    of, to = (x_gpu, *ours.parameters()), (x, *exact.parameters())
    found = (mixed.float() * on_device(upstream)).sum()
    assert_gradients(found, (expected * upstream).sum(), of=of, to=to, near=CLOSE[precision])
