"""What an EMA update does to each kind of bank, against the literal algorithm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bank.bank_read import pool
from model.bank.ema import UpdateStats, update_bank, update_metrics
from model.bank.encode import encode, output_head, self_encode_rate
from model.bank.memory import Read
from model.bank.memory_bank import CONTENTS, MemoryBank
from model.bank.product_key import Selection, cosine_factors, normalise_halves, retrieve
from model.config import ModelConfig, resolve
from model.cost.formulas import bank_bytes
from tests.model.bank.test_token_memory import random_selection
from tests.oracles import variants as oracle

V, D, L, N = 270, 8, 4, 16


def configured(**overrides: Any) -> ModelConfig:
    small = {"dim": D, "n_heads": 2, "vocab_size": V, "knowledge_num": N, "knowledge_length": L, "knowledge_dim": 6,
             "num_selected": 3, "residual_dim": 5, "ema_decay": 0.6}  # fmt: skip
    return resolve("tiny", {f"model.{key}": value for key, value in {**small, **overrides}.items()}).model


def make_table() -> torch.Tensor:
    return torch.randn(V, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def make_bank(config: ModelConfig) -> MemoryBank:
    bank = MemoryBank(config).double()
    bank.initialise(seed=1)
    if config.stores_tokens:
        bank.tokens_NL.copy_(torch.randint(0, V, (N, L), generator=torch.Generator().manual_seed(8)))
    return bank


def make_reads(*, width: int, seed: int = 0, positions: int = 10) -> list[Read]:
    reads = []
    for layer in range(2):
        selection = random_selection(positions, entries=N, K=3, seed=2 * seed + layer)
        generator = torch.Generator().manual_seed(50 + 2 * seed + layer)
        features = torch.randn(positions, width, generator=generator, dtype=torch.float64)
        reads.append(Read(features, features, selection, features, features, features))
    return reads


def layers(reads: list[Read]) -> oracle.Layers:
    return [(read.features_BTD, read.selection.weight_BTK, read.selection.index_BTK) for read in reads]


@pytest.mark.parametrize("chunk_bytes", [30_000, 2**28])
@pytest.mark.parametrize("frozen", [0, 7])
@pytest.mark.parametrize("encode", ["dot", "cosine"])
@pytest.mark.parametrize("ema_rescale", ["none", "match_norm"])
@pytest.mark.parametrize("memory", ["token", "hybrid"])
def test_tokens_and_residuals_equal_the_literal_update(
    chunk_bytes: int, frozen: int, encode: str, ema_rescale: str, memory: str
) -> None:
    config = configured(memory=memory, encode=encode, ema_rescale=ema_rescale, freeze_ratio=frozen / N)
    bank, table, reads = make_bank(config), make_table(), make_reads(width=D)
    literal = oracle.TokenBank(bank.tokens_NL.clone(), table, decay=0.6, frozen=frozen)
    literal.cosine, literal.match_norm = encode == "cosine", ema_rescale == "match_norm"
    if memory == "hybrid":
        literal.residual_NR, literal.sketch_RD = bank.residual_NR.clone(), bank.sketch_RD
    before = bank.tokens_NL.clone()
    stats = UpdateStats(0, 0, torch.zeros(()), None)
    for _ in range(2):
        stats = update_bank(bank, reads, table_VD=table, config=config, chunk_bytes=chunk_bytes)
        last, after = before, bank.tokens_NL.clone()
        literal.update(layers(reads))
        assert torch.equal(bank.tokens_NL, literal.tokens_NL)
        if memory == "hybrid":
            torch.testing.assert_close(bank.residual_NR, literal.residual_NR)
            assert bank.residual_NR[frozen:].any()
        assert stats.flipped is not None
        assert stats.flipped.item() == (after != last).sum().item()
        before = after
    touched = torch.cat([read.selection.index_BTK.flatten() for read in reads]).unique()
    assert stats.entries == int((touched >= frozen).sum())
    assert stats.slots == stats.entries * L
    assert torch.equal(bank.tokens_NL[:frozen], make_bank(config).tokens_NL[:frozen])
    assert not torch.equal(bank.tokens_NL, make_bank(config).tokens_NL)


@pytest.mark.parametrize("frozen", [0, 7])
@pytest.mark.parametrize("ema_rescale", ["none", "match_norm"])
@pytest.mark.parametrize("chunk_bytes", [1, 2**28])
def test_vectors_equal_the_literal_update(frozen: int, ema_rescale: str, chunk_bytes: int) -> None:
    config = configured(memory="vector", ema_rescale=ema_rescale, freeze_ratio=frozen / N)
    bank, reads = make_bank(config), make_reads(width=6)
    before = bank.vectors_NQ.clone()
    match = ema_rescale == "match_norm"
    expected = oracle.vector_update(before, layers(reads), decay=0.6, frozen=frozen, match_norm=match)
    stats = update_bank(bank, reads, table_VD=make_table(), config=config, chunk_bytes=chunk_bytes)
    torch.testing.assert_close(bank.vectors_NQ, expected)
    assert torch.equal(bank.vectors_NQ[:frozen], before[:frozen])
    assert not torch.equal(bank.vectors_NQ, before)
    assert stats.flipped is None
    found = update_metrics([stats])
    assert found.keys() == {"entries_updated", "ema_scale_ratio"}, "a vector has no tokens to flip"
    if match:
        assert found["ema_scale_ratio"] == pytest.approx(0.4 / 0.6)


@settings(max_examples=25, deadline=None)
@given(
    capacity=st.integers(1, N + 2),
    seeds=st.lists(st.integers(0, 30), min_size=2, max_size=6),
    chunk_bytes=st.sampled_from([30_000, 2**28]),
    memory=st.sampled_from(["token", "hybrid"]),
    rescale=st.sampled_from(["none", "match_norm"]),
)
def test_the_feature_cache_equals_the_oracle(
    capacity: int, seeds: list[int], chunk_bytes: int, memory: str, rescale: str
) -> None:
    """Updates of few entries each, so that places are kept, taken over and missed."""
    config = configured(memory=memory, ema_state="sparse_cache", ema_rescale=rescale)
    bank, table = make_bank(config), make_table()
    bank.cache_features_CLD = torch.zeros(capacity, L, D, dtype=torch.float64)
    bank.cache_entry_C, bank.cache_used_C = torch.full((capacity,), -1), torch.zeros(capacity, dtype=torch.int64)
    literal = oracle.TokenBank(bank.tokens_NL.clone(), table, decay=0.6, match_norm=rescale == "match_norm")
    literal.cache = [oracle.Place() for _ in range(capacity)]
    if memory == "hybrid":
        literal.residual_NR, literal.sketch_RD = bank.residual_NR.clone(), bank.sketch_RD
    for seed in seeds:
        reads = make_reads(width=D, seed=seed, positions=2)
        update_bank(bank, reads, table_VD=table, config=config, chunk_bytes=chunk_bytes)
        literal.update(layers(reads))
        assert torch.equal(bank.tokens_NL, literal.tokens_NL)
        kept = {place.entry: place.features_LD for place in literal.cache if place.entry is not None}
        slots = bank.cache_slot_N.tolist()
        assert {s for s in range(N) if slots[s] >= 0} == kept.keys()
        for s, features in kept.items():
            torch.testing.assert_close(bank.cache_features_CLD[slots[s]], features)
            assert bank.cache_entry_C[slots[s]] == s
        if memory == "hybrid":
            torch.testing.assert_close(bank.residual_NR, literal.residual_NR)


def test_cache_mib_bounds_the_bytes_of_the_feature_cache() -> None:
    config = configured(dim=512, n_heads=8, knowledge_num=1_048_576, ema_state="sparse_cache", cache_mib=8)
    assert config.cached_entries == 8 * 2**20 // (4 * L * 512)
    bank = MemoryBank(config)
    assert bank.cache_features_CLD.numel() * 4 == 8 * 2**20


@pytest.mark.parametrize(
    "overrides",
    [{}, {"memory": "vector"}, {"memory": "hybrid"}, {"ema_state": "sparse_cache"}, {"memory": "none"}],
)
def test_bank_bytes_equal_the_buffers(overrides: dict[str, Any]) -> None:
    config = configured(**overrides)
    names = (*CONTENTS, "cache_features_CLD", "cache_entry_C", "cache_used_C", "cache_slot_N")
    held = [buffer for name, buffer in MemoryBank(config).named_buffers() if name in names]
    assert bank_bytes(config) == sum(buffer.numel() * buffer.element_size() for buffer in held)


def test_the_sketch_is_orthonormal_and_seeded() -> None:
    one, same, other = (MemoryBank(configured(memory="hybrid")) for _ in range(3))
    for bank, seed in ((one, 1), (same, 1), (other, 2)):
        bank.initialise(seed=seed)
    torch.testing.assert_close(one.sketch_RD @ one.sketch_RD.T, torch.eye(5))
    assert torch.equal(one.sketch_RD, same.sketch_RD)
    assert not torch.equal(one.sketch_RD, other.sketch_RD)


@pytest.mark.parametrize("query_norm", ["none", "layer", "cosine"])
def test_initial_vectors_have_the_variance_of_queries(query_norm: str) -> None:
    from model.transformer import Transformer, initialise

    model = Transformer(configured(memory="vector", query_norm=query_norm, dim=64, knowledge_dim=512))
    initialise(model, seed=0)
    reads = model(torch.arange(64)[None]).reads
    query = torch.cat([read.query_BTQ for read in reads])
    assert model.bank.vectors_NQ.square().mean().item() == pytest.approx(query.square().mean().item(), rel=0.25)


def test_pool_equals_the_literal_sum_and_has_the_right_gradients() -> None:
    selection = random_selection(7, entries=25, K=5, seed=1)
    rows = torch.randn(25, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = oracle.pool(selection.weight_BTK, selection.index_BTK, rows)
    torch.testing.assert_close(pool(selection, rows), expected)
    weight = selection.weight_BTK.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: pool(Selection(w, selection.index_BTK), rows), (weight,))


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 8), K=st.integers(1, 8), half=st.integers(2, 6), seed=st.integers(0, 2**31))
def test_cosine_retrieval_equals_an_exhaustive_top_k(n: int, K: int, half: int, seed: int) -> None:
    K = min(K, n)
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(3, 2 * half, generator=generator, dtype=torch.float64)
    keys = torch.randn(2, n, half, generator=generator, dtype=torch.float64)
    temperature = torch.tensor([1.7], dtype=torch.float64)
    found, _ = retrieve(cosine_factors(normalise_halves(query), keys, temperature), num_selected=K)
    for position in range(3):
        weights, indices = oracle.cosine_retrieve(query[position], keys, 1.7, K)
        torch.testing.assert_close(found.weight_BTK[position], weights)
        assert found.index_BTK[position].tolist() == indices.tolist()


def test_a_frozen_bank_does_not_change() -> None:
    config = configured(freeze_ratio=1.0)
    bank, before = make_bank(config), make_bank(config)
    stats = update_bank(bank, make_reads(width=D), table_VD=make_table(), config=config)
    assert stats.entries == 0
    assert torch.equal(bank.tokens_NL, before.tokens_NL)
    assert update_metrics([stats]) == {"entries_updated": 0.0}
    assert update_metrics([]) == {}


@pytest.mark.parametrize("memory", ["token", "vector"])
def test_ema_scale_ratio_is_absent_at_a_decay_of_0(memory: str) -> None:
    config = configured(memory=memory, ema_decay=0.0)
    reads = make_reads(width=6 if memory == "vector" else D)
    stats = update_bank(make_bank(config), reads, table_VD=make_table(), config=config)
    assert stats.entries > 0
    assert update_metrics([stats]).keys() == {"entries_updated"} | ({"token_flip_rate"} if memory == "token" else set())


@pytest.mark.parametrize("entries", [49, 100, 961, 1024, 1_048_576])
def test_freeze_ratio_of_k_rows_freezes_k_rows(entries: int) -> None:
    for rows in range(0, entries + 1, 1 + entries // 1000):
        config = configured(knowledge_num=entries, freeze_ratio=rows / entries)
        assert config.frozen_entries == rows
    assert configured(knowledge_num=entries, freeze_ratio=1.5 / entries).frozen_entries == 1


def test_update_metrics_are_means_over_the_slots_of_all_updates() -> None:
    one = UpdateStats(2, 8, torch.tensor(4.0), torch.tensor(2))
    two = UpdateStats(4, 16, torch.tensor(8.0), torch.tensor(1))
    expected = {"entries_updated": 3.0, "ema_scale_ratio": 12 / 24, "token_flip_rate": 3 / 24}
    assert update_metrics([one, two]) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_encode_at_a_decay_of_1_equals_the_self_encode_rate(kind: str) -> None:
    table = torch.randn(12, 4, generator=torch.Generator().manual_seed(4))
    table[3] *= 10
    head = output_head(table, configured(encode=kind))
    tokens = torch.arange(12).reshape(4, 3)
    same = encode(tokens, torch.zeros(4, 4), table_VD=table, head_VD=head, decay=1.0) == tokens
    rate = self_encode_rate(table, head_VD=head, chunk_bytes=100).item()
    assert same.float().mean().item() == pytest.approx(rate)
    assert rate == 1.0 if kind == "cosine" else rate < 1.0, "|E[t]| |W[v]| cos is largest at v = t for unit rows"
