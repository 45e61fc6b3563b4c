"""What is measured: the trainer's own step, the model's own read and update. All that benchmarks know of the model's
inside stands here.

Letters: P positions, K selected, N entries, L tokens an entry, D dim, V vocabulary.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.instruments.count import Counter
from model.bank import ema
from model.bank.bank_read import read_tokens
from model.bank.memory import MEMORIES, Read
from model.bank.memory_bank import MemoryBank
from model.bank.product_key import Selection
from model.config import Config, ModelConfig, resolve
from model.device import cuda_graph
from model.trainer import Trainer, _Window
from model.transformer import Transformer

DECAY = 0.9
NORMS = ("query_norm", "read_norm")
"""Keys of the model, beside `memory`, whose values change what a step computes."""


@dataclass(frozen=True)
class Shape:
    """A size of the model; `number` is its name. L and K are `tokens` and `selected` unless varied."""

    number: int
    batch: int
    seq_len: int
    dim: int
    layers: int
    heads: int
    entries: int
    vocabulary: int = 6_400
    query: int = 128
    tokens: int = 8
    selected: int = 16

    @property
    def positions(self) -> int:
        """P: tokens of a micro-batch."""
        return self.batch * self.seq_len


SHAPES = (
    Shape(1, batch=4, seq_len=256, dim=256, layers=4, heads=8, entries=65_536),
    Shape(2, batch=1, seq_len=512, dim=512, layers=8, heads=32, entries=1_048_576),
)
QUICK_SHAPES = (
    Shape(1, batch=2, seq_len=32, dim=32, layers=2, heads=2, entries=4_096, vocabulary=512, query=16),
    Shape(2, batch=1, seq_len=64, dim=64, layers=2, heads=4, entries=16_384, vocabulary=512, query=16),
)


def variants() -> dict[str, dict[str, Any]]:
    """Every variant of a step by name, and the keys that make it: each value of `memory` but the control's, and the
    token memory with each value of NORMS that is not its default. What the configuration learns appears here."""
    found: dict[str, dict[str, Any]] = {name: {"model.memory": name} for name in MEMORIES if name != "none"}
    for key in NORMS:
        field = ModelConfig.model_fields[key]
        for value in get_args(field.annotation):
            if value != field.default:
                found[f"token, {key} {value}"] = {"model.memory": "token", f"model.{key}": value}
    return found


def configure(shape: Shape, overrides: dict[str, Any]) -> Config:
    """A run of that shape on real text; the bank's updates are measured apart, so they are off."""
    size = {
        "model.dim": shape.dim,
        "model.n_layers": shape.layers,
        "model.n_heads": shape.heads,
        "model.vocab_size": shape.vocabulary,
        "model.max_seq_len": shape.seq_len,
        "model.knowledge_num": shape.entries,
        "model.knowledge_length": shape.tokens,
        "model.knowledge_dim": shape.query,
        "model.num_selected": shape.selected,
        "model.ema": "off",
        "train.batch_size": shape.batch,
        "train.tokens": 10_000_000,
        "train.threads": torch.get_num_threads(),
        "data.corpus": "pydoc",
    }
    return resolve("tiny", size | overrides)


class Run:
    """A training run of which one step after the other is measured. `recorded` says whether micro-batches are replayed
    as a CUDA graph, whatever the trainer would choose."""

    def __init__(self, config: Config, *, recorded: bool | None = None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._trainer = Trainer(config, checkpoint_dir=Path(folder))
        if recorded is not None:
            work, device = self._trainer._train_on, self._trainer.device
            self._trainer.records = recorded
            self._trainer.micro_batch = cuda_graph.Recorded(work, device) if recorded else work
        self._window = _Window(self._trainer.device)
        self._done = 0

    def step(self) -> None:
        """One micro-batch as the trainer trains it: batch, forward, backward, clipping, optimiser (and the bank's
        update where one is due)."""
        self._trainer._step(self._done, self._window)
        self._done += 1

    @property
    def reads_bank(self) -> bool:
        """Whether a layer of the model reads a bank."""
        return self._trainer.config.model.has_bank

    @property
    def failed(self) -> str | None:
        """Why micro-batches could not be recorded."""
        return getattr(self._trainer.micro_batch, "failed", None)

    def losses(self) -> list[float]:
        """Those of the steps since metrics were last asked for."""
        return self._trainer._losses(self._window, last_step=self._done)

    def metrics(self) -> dict[str, Any]:
        """What the trainer would report of the steps since it was last asked."""
        losses = self.losses()
        metrics = self._window.metrics(self._trainer._step_tokens, losses)
        self._window.start()
        return metrics


@dataclass(frozen=True)
class Scene:
    """A bank, a table, and one layer's selections, all random: what the read and the update are measured on."""

    bank: MemoryBank
    table_VD: Tensor
    features_PD: Tensor
    selection: Selection

    @property
    def bank_NL(self) -> Tensor:
        """The stored tokens."""
        return self.bank.tokens_NL

    @functools.cached_property
    def reads(self) -> list[Read]:
        """The selections as a forward would leave them."""
        u_PD, none = self.features_PD, torch.zeros(())
        return [Read(u_PD, u_PD, self.selection, u_PD, counts_2n=none, balance=none)]


def scene(shape: Shape, *, L: int, K: int, positions: int, entries: int) -> Scene:
    """`positions` positions that select `entries` different entries between them, each about equally often. The bank's
    tokens are random, so that hardly two slots of an entry agree: the hardest case for the update."""
    assert entries <= positions * K
    generator = torch.Generator().manual_seed(entries + 10 * L + K)
    chosen_S = torch.randperm(shape.entries, generator=generator)[:entries]
    index_PK = chosen_S[torch.arange(positions * K) % entries].view(positions, K)
    keys = {"model.knowledge_length": L, "model.num_selected": K, "model.ema": "on", "model.ema_decay": DECAY}
    bank = MemoryBank(configure(shape, keys).model)
    bank.tokens_NL.copy_(torch.randint(0, shape.vocabulary, (shape.entries, L), generator=generator))
    table_VD = 0.02 * torch.randn(shape.vocabulary, shape.dim, generator=generator)
    features_PD = torch.randn(positions, shape.dim, generator=generator)
    weight_PK = torch.randn(positions, K, generator=generator).softmax(dim=-1)
    return Scene(bank, table_VD, features_PD, Selection(weight_PK, index_PK))


def update(made: Scene) -> Tensor:
    """The model's update; the bank after it, the scene's own."""
    ema.update_bank(made.bank, made.reads, table_VD=made.table_VD, config=made.bank.config)
    return made.bank_NL


def means(made: Scene) -> ema.EntryMeans:
    """The means over the selections of each entry: what every way of encoding begins with."""
    return ema.collect(made.reads, frozen=0)


def read(made: Scene) -> Callable[[Tensor, Tensor], Tensor]:
    """The model's read as a function of weights [P, K] and table: [P, D]."""
    index_PK, bank_NL = made.selection.index_BTK, made.bank_NL
    return lambda weight_PK, table_VD: read_tokens(Selection(weight_PK, index_PK), bank_NL, table_VD)


def train_once(
    model: Transformer, optimizer: torch.optim.AdamW, x_BT: Tensor, y_BT: Tensor, *, counter: Counter
) -> None:
    """One micro-batch and one update as the trainer runs them on a card (bf16 autocast), counted by phase. On the CPU,
    so that fake tensors need no card."""
    with counter:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x_BT, y_BT)
            loss = output.nats / y_BT.numel() + 0.1 * output.balance
        loss.backward()
        counter.phase = "optimiser"
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        counter.phase = None


def optimizer_of(model: Transformer) -> torch.optim.AdamW:
    """The trainer's optimiser: many tensors a kernel."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
