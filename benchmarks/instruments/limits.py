"""A card's limits, and what of them the model's own code takes: counted on fake tensors at full size, by phase."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.instruments import subject
from benchmarks.instruments.count import PHASES, Cost, Counter
from model.bank.primitives import segment_sum
from model.bank.product_key import cached_pairs  # pyright: ignore[reportPrivateUsage]
from model.config import Config, resolve
from model.config.work_sizes import CUDA_CACHE_BYTES
from model.transformer import Transformer

LAUNCH_S = 4e-6
SOURCE_TOKENS_PER_S = 59_621
COVERAGE = 0.30
"""Share of the bank that an update touches in the main table: what the source aimed at."""
UPDATE = "update of the bank"


@dataclass(frozen=True)
class Card:
    """What a data sheet says: matrix products in bf16 with sums in fp32, dense; fp32; memory."""

    name: str
    tensor_flops: float
    vector_flops: float
    bytes_per_s: float


RTX_4090 = Card("RTX 4090", 165.2e12, 82.6e12, 1_008e9)
CARDS = (RTX_4090, Card("H100", 989e12, 67e12, 3_350e9), Card("H200", 989e12, 67e12, 4_800e9))
"""The SXM parts of the last two. https://www.nvidia.com/en-us/data-center/h100 and .../h200"""


def card_of(name: str) -> Card | None:
    """The card whose name stands in what the driver calls it."""
    return next((card for card in CARDS if card.name in name), None)


@dataclass(frozen=True)
class UpdateCost:
    """An update is linear in the entries that it touches and in the selections that it sums."""

    fixed: Cost
    entry: Cost
    selection: Cost

    def of(self, *, entries: float, selections: float) -> Cost:
        """The whole update."""
        return self.fixed.plus(self.entry.scaled(entries)).plus(self.selection.scaled(selections))


@dataclass(frozen=True)
class Roofline:
    """`costs`: a micro-batch's, by phase, the optimiser's an update; `update`: the EMA's."""

    config: Config
    costs: Mapping[str, Cost]
    update: UpdateCost

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.config.train.batch_size * self.config.model.max_seq_len

    @property
    def selections(self) -> int:
        """Selections of a micro-batch, all layers."""
        return self.tokens * self.config.model.num_selected * self.config.model.n_layers

    @property
    def uniform_coverage(self) -> float:
        """Share of the bank that these touch if every entry is as likely as every other."""
        return 1 - math.exp(-self.selections / self.config.model.knowledge_num)

    def per_token(self, *, coverage: float) -> dict[str, Cost]:
        """What a token costs, by phase; an update touches `coverage` of the bank (0: there is none)."""
        model, train = self.config.model, self.config.train
        found = {phase: cost.scaled(1 / self.tokens) for phase, cost in self.costs.items()}
        found["optimiser"] = found["optimiser"].scaled(1 / train.accumulation_steps)
        if coverage:
            whole = self.update.of(entries=coverage * model.knowledge_num, selections=self.selections)
            found[UPDATE] = whole.scaled(1 / (self.tokens * model.ema_update_freq))
        return found


def compute_s(cost: Cost, card: Card = RTX_4090) -> float:
    """Seconds at the peak rates of arithmetic."""
    return cost.tensor_flops / card.tensor_flops + cost.vector_flops / card.vector_flops


def memory_s(cost: Cost, card: Card = RTX_4090, *, cached_rows: bool = True) -> float:
    """Seconds at the peak rate of memory; `cached_rows`: rows that are read again come from the cache, at no cost."""
    return (cost.bytes + (0 if cached_rows else cost.row_bytes)) / card.bytes_per_s


def bound_s(costs: Mapping[str, Cost], card: Card = RTX_4090, *, cached_rows: bool = True) -> float:
    """Seconds a token if every phase takes the longer of its arithmetic and its memory traffic."""
    return sum(max(compute_s(cost, card), memory_s(cost, card, cached_rows=cached_rows)) for cost in costs.values())


def count() -> Roofline:
    """Count the preset; takes seconds, and no card."""
    config = resolve("seed-1.4.6", {"data.train": "pretrain.jsonl"})
    return Roofline(config, count_step(config), count_update(config))


def _as_on_a_card() -> AbstractContextManager[None]:
    """The kernels that are chosen on a card, in pieces as large as there."""
    return segment_sum.pretending("cuda", cache=CUDA_CACHE_BYTES)


def count_step(config: Config) -> dict[str, Cost]:
    """A micro-batch with an optimiser's update, by phase. The second of two: the first one makes AdamW's moments."""
    shape = (config.train.batch_size, config.model.max_seq_len)
    # What the model keeps for the next call must be neither real in here nor fake afterwards.
    cached_pairs.cache_clear()
    with FakeTensorMode(), _as_on_a_card():
        model = Transformer(config.model)
        optimizer = subject.optimizer_of(model)
        x_BT = torch.zeros(shape, dtype=torch.int64)
        subject.train_once(model, optimizer, x_BT, x_BT.clone(), counter=Counter())
        model.zero_grad()
        counter = Counter()
        subject.train_once(model, optimizer, x_BT, x_BT.clone(), counter=counter)
    cached_pairs.cache_clear()
    return {phase: counter.costs[phase] for phase in PHASES if phase in counter.costs}


def count_update(config: Config, *, entries: int = 4_096, selections: int = 32_768) -> UpdateCost:
    """Counted on updates of so many entries and selections, twice the entries, twice the selections. They hold nearly
    every token of the vocabulary, so that what is done once a token is in the fixed part, as at full size."""
    least = _count_update(config, entries=entries, selections=selections)
    more_entries = _count_update(config, entries=2 * entries, selections=selections)
    more_selections = _count_update(config, entries=entries, selections=2 * selections)
    entry = more_entries.plus(least.scaled(-1)).scaled(1 / entries)
    selection = more_selections.plus(least.scaled(-1)).scaled(1 / selections)
    fixed = least.plus(entry.scaled(-entries)).plus(selection.scaled(-selections))
    return UpdateCost(fixed, entry, selection)


def _count_update(config: Config, *, entries: int, selections: int) -> Cost:
    model = config.model
    shape = subject.Shape(
        0,
        1,
        model.max_seq_len,
        model.dim,
        model.n_layers,
        model.n_heads,
        model.knowledge_num,
        vocabulary=model.vocab_size,
        query=model.knowledge_dim,
    )
    K = model.num_selected
    made = subject.scene(shape, L=model.knowledge_length, K=K, positions=selections // K, entries=entries)
    with Counter(phase=UPDATE) as counter, torch.no_grad(), _as_on_a_card():
        subject.update(made)
    return counter.costs[UPDATE]
