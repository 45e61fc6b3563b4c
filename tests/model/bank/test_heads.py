"""Heads of retrieval, their temperature, and the oracle that hands over entries."""

from __future__ import annotations

import pytest
import torch

from model.bank.layer_inputs import LayerInputs
from model.bank.memory import TokenMemory, hand_over
from model.bank.memory_bank import MemoryBank
from model.config import ConfigError, ModelConfig, resolve
from model.cost import estimate
from model.transformer import Transformer, initialise
from tests.oracles import token_memory as oracle

D, Q, N, L, K, V = 16, 6, 25, 3, 2, 300
IDS = torch.zeros(1, 4, dtype=torch.int64)


def config(**overrides: object) -> ModelConfig:
    small = {"dim": D, "n_heads": 2, "vocab_size": V, "knowledge_num": N, "knowledge_length": L, "knowledge_dim": Q,
             "num_selected": K, "query_norm": "none", "read_norm": "none", **overrides}  # fmt: skip
    return resolve("tiny", {f"model.{key}": value for key, value in small.items()}).model


def layer(of: ModelConfig) -> tuple[TokenMemory, MemoryBank, torch.Tensor]:
    made, generator = TokenMemory(of).double(), torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.normal_(generator=generator)
    bank = MemoryBank(of)
    bank.tokens_NL.random_(0, V, generator=generator)
    return made, bank, torch.randn(V, D, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("temperature", [None, 0.3])
def test_heads_equal_the_mean_of_literal_heads(heads: int, temperature: float | None) -> None:
    learned = "fixed" if temperature is None else "learned"
    made, bank, table = layer(config(memory_heads=heads, query_temperature=learned))
    if temperature is not None:
        made.temperature_1.data.fill_(temperature)
    u = torch.randn(1, 4, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, read = made(u, LayerInputs(IDS, bank, table))
    n, expected, balances = 5, torch.zeros(4, D, dtype=torch.float64), []
    for head in range(heads):
        keys = made.keys_2nh[:, head * n : (head + 1) * n]
        queries = (u[0] @ made.query.weight[head * Q : (head + 1) * Q].T) * (temperature or 1.0)
        found = [oracle.retrieve(query, keys, K) for query in queries]
        weights, indices = (torch.stack(part) for part in zip(*found, strict=True))
        expected += oracle.decode(weights, indices, bank.tokens_NL, table) / heads
        scores = torch.stack([queries[:, : Q // 2] @ keys[0].T, queries[:, Q // 2 :] @ keys[1].T])
        balances.append(oracle.balance(scores, indices))
    torch.testing.assert_close(read.read_BTD[0], expected)
    torch.testing.assert_close(read.balance, torch.stack(balances).mean())
    torch.testing.assert_close(read.selection.weight_BTK.sum(dim=-1), torch.ones(1, 4, dtype=torch.float64))
    assert read.counts_2n.shape == (2, heads * n)
    assert read.counts_2n.sum() == 2 * 4 * heads * K


def test_the_temperature_has_a_gradient() -> None:
    made, bank, table = layer(config(query_temperature="learned"))
    fused, _ = made(torch.randn(1, 4, D, dtype=torch.float64), LayerInputs(IDS, bank, table))
    fused.sum().backward()
    assert made.temperature_1.grad is not None
    assert made.temperature_1.grad.abs() > 0


@pytest.mark.parametrize("overrides", [
    {"memory_heads": 4, "knowledge_dim": 4}, {"memory_heads": 3, "query_temperature": "learned", "query_norm": "layer"},
    {"memory": "blind"}, {"memory": "blind", "read_norm": "rms", "knowledge_dim": 2},
])  # fmt: skip
def test_parameters_are_predicted(overrides: dict[str, object]) -> None:
    of = resolve("tiny", {f"model.{key}": value for key, value in {"dim": D, "n_heads": 2, **overrides}.items()})
    assert estimate(of).parameters == sum(parameter.numel() for parameter in Transformer(of.model).parameters())


def test_blind_is_matched_and_all_of_its_weights_live() -> None:
    """As many parameters as the token memory, but for the norm of its query; each has a gradient."""
    token, blind = (resolve("tiny", {"model.memory": memory}) for memory in ("token", "blind"))
    norms = 2 * token.model.n_layers * token.model.knowledge_dim
    assert estimate(token).active_parameters - estimate(blind).active_parameters == norms
    model = Transformer(blind.model)
    initialise(model, seed=0)
    ids = torch.arange(32)[None]
    output = model(ids, ids.roll(-1))
    assert output.nats is not None
    output.nats.backward()
    dead = sum(
        int((parameter.grad == 0).sum()) for parameter in model.blocks.parameters() if parameter.grad is not None
    )
    assert all(parameter.grad is not None for parameter in model.blocks.parameters())
    assert dead < 0.001 * sum(parameter.numel() for parameter in model.blocks.parameters())


def test_an_oracle_hands_over_entries_where_it_knows_them() -> None:
    made, bank, table = layer(config().model_copy(update={"read": "oracle"}))
    u = torch.randn(2, 4, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    right = torch.tensor([[-1, 7, -1, -1], [-1, -1, -1, 0]])
    _, own = made(u, LayerInputs(IDS, bank, table))
    _, told = made(u, LayerInputs(IDS, bank, table, right_BT=right))
    for b, t, entry in ((0, 1, 7), (1, 3, 0)):
        expected = table[bank.tokens_NL[entry].long()].mean(dim=0)
        torch.testing.assert_close(told.read_BTD[b, t], expected)
        own.read_BTD[b, t] = expected
    torch.testing.assert_close(told.read_BTD, own.read_BTD)
    assert torch.equal(hand_over(own.selection, torch.full((2, 4), -1)).index_BTK, own.selection.index_BTK)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.corpus": "pydoc"}, "data.corpus: pydoc: not with model.read oracle; use facts"),
        ({"model.kb_init": "random"}, "model.kb_init: random: not with model.read oracle"),
        ({"data.facts_entities": 300}, "model.knowledge_num: 1024: not with model.read oracle; use 35 squared or more"),
        ({"data.knowledge": "kb.json"}, "data.knowledge: kb.json: not with model.read oracle; remove it"),
    ],
)
def test_an_oracle_needs_facts_that_it_knows(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("tiny", {"model.read": "oracle", **overrides})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.memory": "vector", "model.memory_heads": 2}, "model.memory_heads: 2: not with model.memory vector"),
        ({"model.refresh": "frequency", "model.memory_heads": 2}, "model.refresh: frequency: not with several"),
    ],
)
def test_what_heads_do_not_go_with(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("tiny", overrides)
    assert str(caught.value).startswith(message)
