"""`refresh: frequency`: dead sub-keys are selected again, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bank import BankUpdater, Read, refresh
from model.bank.encode import nearest_tokens, output_head
from model.config import Config, resolve
from model.transformer import Output, Transformer, initialise
from tests.model.test_training import SMALL, Listener, small, train
from tests.oracles import variants as oracle

ROW, IDS = 3, torch.randint(0, 512, (4, 32), generator=torch.Generator().manual_seed(5))


def with_a_dead_row(**overrides: Any) -> tuple[Config, Transformer, torch.optim.AdamW]:
    """Row 3 of every layer's first half points away from where all queries are."""
    config = resolve("tiny", {**SMALL, "model.refresh": "frequency", "model.refresh_after": 2, **overrides})
    model = Transformer(config.model)
    initialise(model, seed=1)
    if config.model.stores_tokens:
        model.bank.tokens_NL.random_(0, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in config.model.layers_with_memory:
            memory = model.blocks[layer].get_submodule("memory")
            memory.get_parameter("query_norm.bias")[:8] = 1.0
            memory.get_parameter("keys_2nh")[0, ROW] = -5.0
    return config, model, torch.optim.AdamW(model.parameters())


def forward(model: Transformer, optimizer: torch.optim.AdamW) -> Output:
    """A forward, and a step of size 0 that fills Adam's moments."""
    output = model(IDS)
    (model.logits(output.hidden_BTD).sum() + output.balance).backward()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    return output


def refreshed(
    model: Transformer, optimizer: torch.optim.AdamW, reads: list[Read], *, config: Config, step: int
) -> None:
    """One refresh of the model."""
    about: dict[str, Any] = {"sub_keys": model.sub_keys, "table_VD": model.table.weight, "optimizer": optimizer}
    refresh.refresh(model.bank, reads, **about, config=config, step=step)


@pytest.mark.parametrize("memory", ["token", "vector", "hybrid"])
def test_a_dead_row_is_reset_and_selected_again(memory: str) -> None:
    config, model, optimizer = with_a_dead_row(**{"model.memory": memory})
    updater = BankUpdater(config, model.bank, table_VD=model.table.weight, sub_keys=model.sub_keys, optimizer=optimizer)
    resets = []
    used = [torch.zeros_like(model.bank.idle_X2n, dtype=torch.bool) for _ in range(2)]  # an update each
    for step in range(6):
        reads = forward(model, optimizer).reads
        updater.note(reads)
        used[step // 3] |= torch.stack([read.counts_2n for read in reads]) > 0
        if step < 6 - 1:
            assert step >= 3 or not any(read.counts_2n[0, ROW] for read in reads), "the row is not dead to begin with"
        before = {name: value.clone() for name, value in model.named_parameters()}
        if (step + 1) % 3 == 0:
            assert updater.due(step)
            dead = ~(used[0] | used[1]) if step // 3 else torch.zeros_like(used[0])
            updater.update(step, reads, targets_BT=IDS)
            resets.append(int(dead.sum()))
            for layer, dead_2n in zip(config.model.layers_with_memory, dead, strict=True):
                name = f"blocks.{layer}.memory.keys_2nh"
                keys = model.get_parameter(name)
                assert torch.equal((keys != before[name]).any(dim=-1), dead_2n)
                for moment in ("exp_avg", "exp_avg_sq"):
                    rows = optimizer.state[keys][moment].abs().sum(dim=-1)
                    assert not rows[dead_2n].any()
                    assert rows[~dead_2n].any()
                before.pop(name)
            assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())
    assert resets[0] == 0, "one update is not two"
    assert resets[1] >= 2, "the row of either layer"
    assert updater.metrics() == {"subkeys_refreshed": sum(resets)}
    assert all(read.counts_2n[0, ROW] > 0 for read in model(IDS).reads)


def test_refresh_rewrites_only_unreachable_unfrozen_entries() -> None:
    config, model, optimizer = with_a_dead_row(**{"model.freeze_ratio": 0.375})
    reads = forward(model, optimizer).reads
    model.bank.idle_X2n.fill_(0)
    model.bank.idle_X2n[0, 0, ROW] = 5  # dead in the first layer alone
    model.bank.idle_X2n[:, 1, 6] = 5  # dead in both
    before = model.bank.tokens_NL.clone()
    reached = set(oracle.unreachable(model.bank.idle_X2n == 5))
    refreshed(model, optimizer, reads, config=config, step=0)
    changed = set((model.bank.tokens_NL != before).any(dim=1).nonzero().flatten().tolist())
    assert reached == {row * 8 + 6 for row in range(8)}
    assert changed == {s for s in reached if s >= config.model.frozen_entries == 24}
    features = torch.cat([read.features_BTD.flatten(0, 1) for read in reads])
    table = model.table.weight.detach()
    nearest = set(nearest_tokens(features, head_VD=output_head(table, config.model)).tolist())
    assert all(len(set(model.bank.tokens_NL[s].tolist())) == 1 for s in changed)
    assert {int(model.bank.tokens_NL[s, 0]) for s in changed} <= nearest


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_row_is_dead_after_refresh_after_unused_updates(after: int) -> None:
    """Seven updates of two micro-batches; every row's uses are drawn, and its idle updates counted by hand."""
    config, model, optimizer = with_a_dead_row(**{"model.refresh_after": after})
    reads = forward(model, optimizer).reads
    generator = torch.Generator().manual_seed(after)
    unused, resets = torch.zeros_like(model.bank.idle_X2n), 0
    for step in range(7):
        selected = [torch.rand(2, 2, 8, generator=generator) < 0.25 for _ in range(2)]
        for used_X2n in selected:
            noted = [replace(read, counts_2n=used_2n.float()) for read, used_2n in zip(reads, used_X2n, strict=True)]
            refresh.note(model.bank, noted)
        keys = torch.stack([model.get_parameter(f"blocks.{layer}.memory.keys_2nh").clone() for layer in (0, 1)])
        refreshed(model, optimizer, reads, config=config, step=step)
        now = torch.stack([model.get_parameter(f"blocks.{layer}.memory.keys_2nh") for layer in (0, 1)])
        unused = torch.where(selected[0] | selected[1], 0, unused + 1)
        dead = unused >= after
        assert torch.equal((now != keys).any(dim=-1), dead)
        unused[dead], resets = 0, resets + int(dead.sum())
    assert int(model.bank.refreshed) == resets > 0


def test_refresh_draws_are_a_function_of_the_step() -> None:
    states = []
    for step in (0, 0, 1):
        config, model, optimizer = with_a_dead_row()
        reads = forward(model, optimizer).reads
        model.bank.idle_X2n.fill_(5)
        refreshed(model, optimizer, reads, config=config, step=step)
        states.append(torch.cat([model.bank.tokens_NL.flatten().float(), *(p.flatten() for p in model.parameters())]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_refresh_without_ema_leaves_the_bank_unchanged() -> None:
    config, model, optimizer = with_a_dead_row(**{"model.ema": "off"})
    before, keys = model.bank.tokens_NL.clone(), model.get_parameter("blocks.0.memory.keys_2nh").clone()
    reads = forward(model, optimizer).reads
    model.bank.idle_X2n.fill_(5)
    refreshed(model, optimizer, reads, config=config, step=0)
    assert torch.equal(model.bank.tokens_NL, before)
    assert not torch.equal(model.get_parameter("blocks.0.memory.keys_2nh"), keys)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**31), st.floats(0.1, 0.9))
def test_unreachable_entries_equal_the_oracle(X: int, n: int, seed: int, share: float) -> None:
    dead = torch.rand(X, 2, n, generator=torch.Generator().manual_seed(seed)) < share
    assert refresh._unreachable(dead).tolist() == oracle.unreachable(dead)


def test_a_run_reports_the_number_of_reset_sub_keys(tmp_path: Path) -> None:
    config = small(model__refresh="frequency", model__refresh_after=1, model__ema_update_freq=1)
    listener = Listener()
    result = train(config, listener, checkpoint_dir=tmp_path)
    counts = np.array([report.metrics["subkeys_refreshed"] for report in listener.reports])
    assert (np.diff(counts) >= 0).all(), "a total only grows"
    assert result.metrics["subkeys_refreshed"] == counts[-1]
    assert counts[-1] < 12 * 2 * 2 * 8 / 2, "of all sub-keys at every update: those in use stay where they are"
