"""One training step: when it waits for the device, what it keeps, whether torch.compile traces it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from model.api import train
from model.bank.ema import update_bank
from model.trainer import Trainer, _Window  # pyright: ignore[reportPrivateUsage]
from model.transformer import Output, Transformer, initialise
from tests.model.probes import Operations
from tests.model.test_training import Listener, comparable, small

MEMORIES = ("token", "vector", "hybrid", "none", "blind", "ngram", "values")
BRIEF = ["hybrid", *(pytest.param(memory, marks=pytest.mark.slow) for memory in MEMORIES if memory != "hybrid")]
"""`hybrid` has the parts of the others, which are slow."""


def model_and_ids(memory: str, **options: Any) -> tuple[Transformer, torch.Tensor]:
    model = Transformer(small(model__memory=memory).model, **options)
    initialise(model, seed=1)
    model.bank.initialise(seed=1)
    if model.bank.config.stores_tokens:
        model.bank.tokens_NL.copy_(torch.randint(0, 512, (64, 4), generator=torch.Generator().manual_seed(0)))
    return model, torch.randint(0, 512, (2, 32), generator=torch.Generator().manual_seed(2))


def loss_of(output: Output) -> torch.Tensor:
    assert output.nats is not None
    return output.nats + output.balance


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_does_not_wait_for_the_device(memory: str, precision: str, tmp_path: Path) -> None:
    """Forward, backward, clipping and AdamW, two steps of them; an update of the bank falls on neither."""
    trainer = Trainer(small(model__memory=memory, train__precision=precision), checkpoint_dir=tmp_path)
    window = _Window(trainer.device)
    with Operations() as operations:
        trainer._step(0, window)
        trainer._step(1, window)
    groups = len(trainer.optimizer.param_groups)
    assert operations.all["_fused_adamw_"] == 2 * groups, "the optimiser was watched"
    if memory == "token":
        assert operations.all["sort"] >= 2 * 2, "the backward was watched: a sort a layer and step"
    assert not operations.waits


@pytest.mark.parametrize("chunk_bytes", [2**12, 2**28])
def test_a_bank_update_waits_twice_plus_three_times_a_part(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the distinct entries and those that are not frozen; then in `encode`, once for all where they fit."""
    lists, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: lists.append(self) or tolist(self))
    model, ids = model_and_ids("token")
    config = model.bank.config.model_copy(update={"freeze_ratio": 0.02})
    with torch.no_grad():
        reads = model(ids).reads
        with Operations() as operations:
            stats = update_bank(model.bank, reads, table_VD=model.table.weight, config=config, chunk_bytes=chunk_bytes)
    parts = -(-stats.entries // (chunk_bytes // (64 * config.knowledge_length)))
    assert (parts == 1) == (chunk_bytes == 2**28)
    assert operations.waits == {"_unique2": 1 + 2 * parts, "mask": 1}
    assert len(lists) == parts


def test_operations_counts_waits() -> None:
    values = torch.tensor([1.0, 0.0])
    with Operations() as operations:
        _ = values.sum().item(), values[values > 0], values.nonzero(), values.unique()
    assert operations.waits == {"_local_scalar_dense": 1, "mask": 1, "nonzero": 1, "_unique2": 1}


@pytest.mark.parametrize("memory", BRIEF)
def test_gradient_checkpointing_changes_no_bit(memory: str, tmp_path: Path) -> None:
    listeners, results = {}, {}
    for setting in ("off", "on"):
        config = small(model__memory=memory, train__gradient_checkpointing=setting)
        listeners[setting] = Listener()
        results[setting] = train(config, listeners[setting], checkpoint_dir=tmp_path / setting)
    assert listeners["on"].losses == listeners["off"].losses
    assert comparable(results["on"].metrics) == comparable(results["off"].metrics)


def test_gradient_checkpointing_keeps_less_memory_and_the_same_reads() -> None:
    kept = {}
    for on in (False, True):
        model, ids = model_and_ids("token", gradient_checkpointing=on)
        seen: dict[int, int] = {}

        def keep(tensor: torch.Tensor, seen: dict[int, int] = seen) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(ids, ids)
        features = [read.features_BTD.clone() for read in output.reads]
        loss_of(output).backward()
        assert len(output.reads) == 2
        assert all(torch.equal(read.features_BTD, before) for read, before in zip(output.reads, features, strict=True))
        own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        kept[on] = sum(size for address, size in seen.items() if address not in own)
    assert kept[True] < kept[False] / 2


# torch's own tracer instantiates an autograd.Function and warns against it.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("memory", BRIEF)
def test_torch_compile_traces_the_forward_without_a_graph_break(memory: str) -> None:
    assert_compiles(memory, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_compiles_the_forward_without_a_graph_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert_compiles("token", backend="inductor")


def assert_compiles(memory: str, *, backend: str) -> None:
    """Without a graph break; the same loss and gradients as without a compiler."""
    model, ids = model_and_ids(memory)
    names = [name for name, _ in model.named_parameters()]
    try:
        compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=backend)
        losses = [loss_of(forward(ids, ids)) for forward in (model, compiled)]
        torch.testing.assert_close(losses[1], losses[0])
        plain, ours = (torch.autograd.grad(loss, list(model.parameters())) for loss in losses)
        for name, gradient, expected in zip(names, ours, plain, strict=True):
            torch.testing.assert_close(
                gradient, expected, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
            )
    finally:
        torch.compiler.reset()
