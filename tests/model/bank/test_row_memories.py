"""`ngram` and `values`: equal to the formulas, causal, sized as the control, and still where they are frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import checkpoint
from model.api import ConfigError, Verdict, estimate, resolve, train
from model.bank.layer_inputs import LayerInputs
from model.bank.memory_bank import MemoryBank
from model.bank.ngram_memory import NgramMemory, hash_factors, hashes
from model.bank.value_memory import ValueMemory
from model.config import ModelConfig, ngram_primes, row_memory
from model.optimizer import adamw, set_rate
from model.trainer import Trainer
from model.transformer import Transformer, initialise
from tests.model.test_training import Listener, comparable, small
from tests.oracles import row_memories as oracle

ROW_MEMORIES = ("ngram", "values")


def drawn(memory: str, **keys: Any) -> Transformer:
    """A small model with random weights, in fp64."""
    sizes = {"model__ngram_rows": 31, "model__values_num": 16, "model__values_selected": 3, "model__values_heads": 2}
    model = Transformer(small(**{"model__memory": memory, **sizes, **keys}).model).double()
    initialise(model, seed=4)
    return model


def layer_of(model: Transformer) -> Any:
    """The layer that has the memory."""
    return model.blocks[model.bank.config.layers_with_memory[0]].get_submodule("memory")


def states(config: ModelConfig, *, rows: int = 2, tokens: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(8)
    u_BTD = torch.randn(rows, tokens, config.dim, generator=generator, dtype=torch.float64)
    return u_BTD, torch.randint(0, config.vocab_size, (rows, tokens), generator=generator)


def apply(model: Transformer, u_BTD: Tensor, ids_BT: Tensor) -> Tensor:
    return layer_of(model)(u_BTD, LayerInputs(ids_BT, model.bank, model.table.weight))[0]


def test_an_ngram_layer_equals_its_formula() -> None:
    model = drawn("ngram")
    layer, config = layer_of(model), model.bank.config
    assert isinstance(layer, NgramMemory)
    u_BTD, ids_BT = states(config)
    primes = oracle.primes_below(31, count=8)
    assert list(ngram_primes(31)) == primes
    found_BTD = apply(model, u_BTD, ids_BT)
    for row in range(2):
        expected = oracle.ngram_layer(
            u_BTD[row],
            ids_BT[row].tolist(),
            tables=list(layer.rows_RE.split(primes)),
            factors=[[factor for factor in factors if factor] for factors in hash_factors()],
            before=config.vocab_size,
            W_k=layer.key.weight,
            W_v=layer.value.weight,
            swiglu_TD=layer.net(u_BTD[row]),
        )
        torch.testing.assert_close(found_BTD[row], expected)


@pytest.mark.parametrize("query_norm", ["none", "layer", "cosine"])
def test_a_values_layer_equals_its_formula(query_norm: str) -> None:
    model = drawn("values", model__query_norm=query_norm)
    layer, config = layer_of(model), model.bank.config
    assert isinstance(layer, ValueMemory)
    u_BTD, ids_BT = states(config)
    H, Q = config.values_heads, config.knowledge_dim
    u_D = u_BTD[1, 3]
    queries_HQ = layer.query_norm((layer.query.weight @ u_D).view(H, Q))
    keys_2Hnh = layer.keys_2Hnh
    if query_norm == "cosine":
        unit = queries_HQ.view(H, 2, -1) / queries_HQ.view(H, 2, -1).norm(dim=-1, keepdim=True)
        queries_HQ = unit.reshape(H, Q) * layer.temperature_1 * (Q // 2) ** 0.5
        keys_2Hnh = keys_2Hnh / keys_2Hnh.norm(dim=-1, keepdim=True)
    y_D = oracle.values_read(queries_HQ, keys_2Hnh, layer.rows_ND, config.values_selected)
    w = layer.gate.weight @ u_D
    expected_D = layer.net(u_D) + layer.out.weight @ (w * torch.sigmoid(w) * y_D)
    torch.testing.assert_close(apply(model, u_BTD, ids_BT)[1, 3], expected_D)


@pytest.mark.parametrize("memory", ROW_MEMORIES)
def test_gradients_equal_differences(memory: str) -> None:
    """A selection is constant under so small a step, and the rows' scale makes the weights matter."""
    model = drawn(memory)
    layer = layer_of(model)
    u_BTD, ids_BT = states(model.bank.config, rows=1, tokens=3)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    names = [name for name in parameters if not name.startswith("net.")]

    def out(u_BTD: Tensor, *changed: Tensor) -> Tensor:
        chosen = parameters | dict(zip(names, changed, strict=True))
        inputs = LayerInputs(ids_BT, model.bank, model.table.weight)
        return torch.func.functional_call(layer, chosen, (u_BTD, inputs))[0].sum(dim=-1)

    arguments = [u_BTD, *(parameters[name] for name in names)]
    arguments = [tensor.clone().requires_grad_() for tensor in arguments]
    assert torch.autograd.gradcheck(out, arguments, fast_mode=True)


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.integers(0, 2**31), min_size=1, max_size=20),
    largest=st.integers(19, 10_000),
)
def test_hashes_are_rows_of_their_tables_on_every_input(ids: list[int], largest: int) -> None:
    primes, factors = torch.tensor(ngram_primes(largest)), torch.tensor(hash_factors())
    found_BTS = hashes(torch.tensor([ids]), factors.T, before=2**31) % primes
    assert ((found_BTS >= 0) & (found_BTS < primes)).all()
    for table, own in enumerate(hash_factors()):
        expected = [
            oracle.ngram_row(ids, t, factors=own, prime=int(primes[table]), before=2**31) for t in range(len(ids))
        ]
        assert found_BTS[0, :, table].tolist() == expected


def test_hashes_spread_over_a_table() -> None:
    """20,000 different pairs reach nearly the share of 8,191 rows that random choice does, 1 - exp(-20,000 / 8,191)."""
    generator = torch.Generator().manual_seed(0)
    pairs_BT = torch.randint(0, 2_048, (20_000, 2), generator=generator)
    primes, factors = torch.tensor(ngram_primes(8_191)), torch.tensor(hash_factors())
    found_BS = (hashes(pairs_BT, factors.T, before=2_048) % primes)[:, 1]
    for table in range(len(primes)):
        assert len(found_BS[:, table].unique()) / primes[table] == pytest.approx(0.913, abs=0.02)


@pytest.mark.parametrize("memory", ROW_MEMORIES)
@settings(max_examples=20, deadline=None)
@given(t=st.integers(1, 31), other=st.integers(0, 511), seed=st.integers(0, 2**31))
def test_a_later_token_changes_no_earlier_state(memory: str, t: int, other: int, seed: int) -> None:
    model = drawn(memory)
    ids_BT = torch.randint(0, 512, (1, 32), generator=torch.Generator().manual_seed(seed))
    changed_BT = ids_BT.clone()
    changed_BT[0, t] = other
    before, after = (model(ids).hidden_BTD[0] for ids in (ids_BT, changed_BT))
    assert torch.equal(before[:t], after[:t])
    assert other == ids_BT[0, t] or not torch.equal(before[t:], after[t:])


@pytest.mark.parametrize(
    ("memory", "layers"), [("ngram", (0,)), ("values", (2,)), ("none", (0, 1, 2)), ("token", (0, 1, 2))]
)
def test_all_layers_means_the_first_for_ngram_and_the_last_for_values(memory: str, layers: tuple[int, ...]) -> None:
    keys = {"model.memory": memory, "model.n_layers": 3}
    assert resolve("tiny", keys).model.layers_with_memory == layers
    assert resolve("tiny", keys | {"model.memory_layers": "1,2"}).model.layers_with_memory == (1, 2)


@pytest.mark.parametrize(
    ("keys", "parameters", "active"),
    [
        ({"model.memory": "none"}, 578_176, 316_032),
        ({"model.memory": "ngram"}, 1_621_248, 315_136),
        ({"model.memory": "ngram", "model.memory_rows": "frozen"}, 577_152, 315_136),
        ({"model.memory": "values"}, 1_095_424, 313_088),
        ({"model.memory": "values", "model.memory_rows": "frozen"}, 571_136, 313_088),
    ],
    ids=str,
)
def test_parameters_of_tiny(keys: dict[str, Any], parameters: int, active: int) -> None:
    config = resolve("tiny", keys)
    said = estimate(config)
    assert (said.parameters, said.active_parameters) == (parameters, active)
    model = Transformer(config.model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters


@settings(max_examples=60, deadline=None)
@given(
    memory=st.sampled_from(ROW_MEMORIES),
    dim=st.integers(8, 32).map(lambda half: 8 * half),
    n_layers=st.integers(1, 3),
    heads=st.integers(1, 4),
    query_norm=st.sampled_from(["none", "layer", "cosine"]),
    frozen=st.booleans(),
)
def test_a_layer_uses_as_much_as_the_control(
    memory: str, dim: int, n_layers: int, heads: int, query_norm: str, frozen: bool
) -> None:
    """Down to a multiple of 8, unless 8 is already too wide; and the formula counts what the model has."""
    keys = {"model.dim": dim, "model.n_layers": n_layers, "model.values_heads": heads, "model.ngram_rows": 97}
    keys |= {"model.query_norm": query_norm, "model.memory_rows": "frozen" if frozen else "trained"}
    config = resolve("tiny", keys | {"model.memory": memory})
    sizes, control = row_memory(config.model), 3 * dim * config.model.swiglu_hidden
    used = 3 * dim * sizes.hidden + sizes.beside + sizes.touched * sizes.width
    assert used <= control or sizes.hidden == 8
    assert used + 3 * dim * 8 > control
    model = Transformer(config.model)
    said = estimate(config)
    assert said.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = next(p for name, p in model.named_parameters() if ".rows_" in name)
    stored = sum(p.numel() for p in model.parameters())
    untouched = rows.numel() - sizes.touched * sizes.width
    assert said.active_parameters == stored - model.table.weight.numel() - untouched


@pytest.mark.parametrize("memory", ROW_MEMORIES)
def test_frozen_rows_stay_and_everything_else_moves(memory: str, tmp_path: Path) -> None:
    config = small(model__memory=memory, model__memory_rows="frozen", train__tokens=512)
    trainer = Trainer(config, checkpoint_dir=tmp_path)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.run(Listener())
    still = [name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])]
    assert len(still) == 1
    assert ".memory.rows_" in still[0]
    rows = trainer.model.get_parameter(still[0])
    assert not any(rows is parameter for group in trainer.optimizer.param_groups for parameter in group["params"])


@pytest.mark.parametrize(
    "keys",
    [
        {"model__memory": "ngram"},
        {"model__memory": "values", "train__memory_lr_scale": 3.0},
        {"model__memory": "ngram", "model__memory_rows": "frozen"},
        {"model__memory": "token", "train__memory_lr_scale": 0.5},
    ],
    ids=str,
)
def test_a_scaled_or_frozen_run_resumes_bit_for_bit(keys: dict[str, Any], tmp_path: Path) -> None:
    config, whole, first, second = small(**keys), Listener(), Listener(at=1, verdict=Verdict.INTERRUPT), Listener()
    uninterrupted = train(config, whole, checkpoint_dir=tmp_path / "whole")
    train(config, first, checkpoint_dir=tmp_path / "parts")
    resumed = train(config, second, checkpoint_dir=tmp_path / "parts")
    assert first.losses + second.losses == whole.losses
    assert comparable(resumed.metrics) == comparable(uninterrupted.metrics)


@pytest.mark.parametrize(
    ("keys", "scale", "decay", "own"),
    [
        ({"model__memory": "ngram"}, 5.0, 0.0, {"rows_RE"}),
        ({"model__memory": "values"}, 10.0, 0.0, {"rows_ND"}),
        ({"model__memory": "values", "train__memory_lr_scale": 2.0}, 2.0, 0.0, {"rows_ND"}),
        ({"model__memory": "ngram", "model__memory_rows": "frozen"}, None, None, set()),
        ({"model__memory": "token"}, None, None, set()),
        ({"model__memory": "none", "train__memory_lr_scale": 2.0}, None, None, set()),
        (
            {"model__memory": "vector", "model__query_norm": "cosine", "train__memory_lr_scale": 2.0},
            2.0,
            0.01,
            {"query.weight", "keys_2nh", "temperature_1"},
        ),
    ],
)
def test_the_memorys_own_parameters_have_their_rate(
    keys: dict[str, Any], scale: float | None, decay: float | None, own: set[str]
) -> None:
    config = small(**keys)
    model = Transformer(config.model)
    optimizer = adamw(model, config)
    set_rate(optimizer, 0.25)
    names = {id(parameter): name.rpartition(".memory.")[2] for name, parameter in model.named_parameters()}
    first, *apart = optimizer.param_groups
    assert (first["lr"], first["weight_decay"]) == (0.25, 0.01)
    assert [(group["lr"], group["weight_decay"]) for group in apart] == ([(0.25 * scale, decay)] if scale else [])
    assert {names[id(parameter)] for group in apart for parameter in group["params"]} == own
    trained = sum(parameter.requires_grad for parameter in model.parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == trained


def test_a_checkpoint_of_a_version_without_the_later_keys_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration lacks them, and its optimiser had one group."""
    config, whole, rest = small(), Listener(), Listener()
    train(config, whole, checkpoint_dir=tmp_path / "whole")
    later = checkpoint.as_first_released(config.model_dump())
    assert later != config.model_dump()
    with monkeypatch.context() as patch:
        patch.setattr(type(config), "model_dump", lambda _: later)
        train(config, Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path / "parts")
    train(config, rest, checkpoint_dir=tmp_path / "parts")
    assert rest.losses == whole.losses[4:]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.values_num": 1_000}, "model.values_num: 1000: not a square; try 961 or 1024"),
        ({"model.values_selected": 65}, "more than sqrt(values_num) = 64; try 64 or less, or a larger values_num"),
        ({"model.ngram_rows": 18}, "fewer than 8 primes up to it, and each table has another; try 19 or more"),
        ({"train.memory_lr_scale": 0}, "out of range; must be greater than 0"),
        ({"model.memory_rows": "still"}, "use 'trained' or 'frozen'"),
    ],
)
def test_rules_name_a_hint(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("tiny", overrides)
    assert message in str(caught.value)


def test_a_row_memory_has_no_bank() -> None:
    for memory in ROW_MEMORIES:
        assert list(MemoryBank(small(model__memory=memory).model).buffers()) == []
