"""The update by continuations equals the literal one, and an entry comes to hold what follows its selections."""

from __future__ import annotations

import pytest
import torch

from model.bank.continuation import update_continuations
from model.bank.memory import Read
from model.bank.product_key import Selection
from model.config import ConfigError, resolve
from model.data import IGNORED
from tests.model.bank.test_token_memory import random_selection
from tests.model.bank.test_update import D, L, N, V, configured, make_bank, make_table
from tests.oracles import continuation as oracle

B, T, ENDS = 2, 9, 6
"""The second row of text ends after ENDS targets."""


def made(seed: int) -> tuple[list[Read], torch.Tensor, list[list[int]]]:
    """The reads of two layers, the targets, and each row's text."""
    text_BT = torch.randint(0, V, (B, T + 1), generator=torch.Generator().manual_seed(seed))
    targets_BT = text_BT[:, 1:].clone()
    targets_BT[1, ENDS:] = IGNORED
    reads = []
    for layer in range(2):
        selection = random_selection(B * T, entries=N, K=3, seed=10 * seed + layer)
        nothing = torch.zeros(B, T, D, dtype=torch.float64)
        shaped = type(selection)(selection.weight_BTK.view(B, T, 3), selection.index_BTK.view(B, T, 3))
        reads.append(Read(nothing, nothing, shaped, nothing, nothing, nothing))
    return reads, targets_BT, [text_BT[0].tolist(), text_BT[1, : ENDS + 1].tolist()]


def selections(reads: list[Read]) -> list[list[list[tuple[float, int]]]]:
    return [
        [
            [
                pair
                for read in reads
                for pair in zip(
                    read.selection.weight_BTK[b, t].tolist(), read.selection.index_BTK[b, t].tolist(), strict=True
                )
            ]
            for t in range(T)
        ]
        for b in range(B)
    ]


@pytest.mark.parametrize("chunk_bytes", [3_000, 2**28])
@pytest.mark.parametrize("ema_state", ["requantized", "sparse_cache"])
@pytest.mark.parametrize(("ema_rescale", "encode"), [("none", "dot"), ("match_norm", "cosine")])
@pytest.mark.parametrize("frozen", [0, 5])
def test_an_update_equals_the_literal_one(
    chunk_bytes: int, ema_state: str, ema_rescale: str, encode: str, frozen: int
) -> None:
    config = configured(
        memory="token", ema_target="continuation", ema_state=ema_state, ema_rescale=ema_rescale, encode=encode,
        freeze_ratio=frozen / N,
    )  # fmt: skip
    bank, table = make_bank(config), make_table()
    expected, kept = bank.tokens_NL.clone(), {} if ema_state == "sparse_cache" else None
    for seed in range(3):
        reads, targets_BT, text = made(seed)
        before = bank.tokens_NL.clone()
        stats = update_continuations(
            bank, reads, targets_BT=targets_BT, table_VD=table, config=config, chunk_bytes=chunk_bytes
        )
        expected = oracle.update(
            expected, kept, selections(reads), text, table_VD=table, decay=0.6, frozen=frozen,
            match_norm=ema_rescale == "match_norm", cosine=encode == "cosine",
        )  # fmt: skip
        assert torch.equal(bank.tokens_NL, expected)
        assert stats.flipped is not None
        assert stats.flipped.item() == (before != bank.tokens_NL).sum()
        assert stats.slots == stats.entries * L


def test_an_entry_comes_to_hold_what_follows() -> None:
    """Entry 3 is selected at the first position only, and every row goes on in the same way."""
    config = configured(memory="token", ema_target="continuation", ema_state="sparse_cache")
    bank, table = make_bank(config), make_table()
    follows = torch.tensor([[7, 11, 13, 17, 19, 23]])
    index, weight = torch.full((1, 6, 1), 5), torch.zeros(1, 6, 1, dtype=torch.float64)
    index[0, 0, 0], weight[0, 0, 0] = 3, 1.0
    nothing = torch.zeros(1, 6, D, dtype=torch.float64)
    read = Read(nothing, nothing, Selection(weight, index), nothing, nothing, nothing)
    untouched = bank.tokens_NL[5].clone()
    for _ in range(20):
        update_continuations(bank, [read], targets_BT=follows, table_VD=table, config=config)
    encoded = (table[follows[0, :L]] @ table.T).argmax(dim=-1)
    assert torch.equal(bank.tokens_NL[3].long(), encoded), "of random rows, what dot makes of a token may be another"
    assert torch.equal(bank.tokens_NL[5], untouched), "no weight, no change"


def test_a_hybrid_bank_has_no_continuations() -> None:
    with pytest.raises(ConfigError, match=r"model.ema_target: continuation: not with model.memory hybrid"):
        resolve("tiny", {"model.memory": "hybrid", "model.ema_target": "continuation"})
