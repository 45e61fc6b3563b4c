"""What a trained model is measured by: loss, use of the bank, facts, continuations, samples."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from model.bank.product_key import Selection
from model.data.batches import fixed_rows
from model.data.facts import Probe
from model.data.tokenizer import Tokenizer
from model.evaluate import Evaluator, probes
from model.evaluate.generate import generate, text_metrics
from model.evaluate.losses import Usage, bank_use, continuation_nats, text_loss
from model.transformer import Transformer, initialise
from tests.model.test_training import small
from tests.oracles import token_memory as oracle


def tiny_model(memory: str = "token") -> Transformer:
    model = Transformer(small(model__memory=memory).model)
    initialise(model, seed=1)
    if memory == "token":
        model.bank.tokens_NL.copy_(torch.randint(0, 512, (64, 4), generator=torch.Generator().manual_seed(0)))
    return model


def test_bank_use_leaves_the_model_unchanged() -> None:
    model = tiny_model()
    documents = [[token] * 6 + [2] for token in range(5, 40)]
    rows = fixed_rows(documents, seq_len=32, eos_id=2, pad_id=0, max_tokens=200)
    usage = Usage.empty(layers=2, entries=64, dim=32, device=torch.device("cpu"))
    before = model.bank.tokens_NL.clone()
    base = text_loss(model, rows, batch_size=4, usage=usage)
    worth = bank_use(model, rows, batch_size=4, base=base, usage=usage)
    assert torch.equal(model.bank.tokens_NL, before)
    assert text_loss(model, rows, batch_size=4) == base
    assert all(value != 0 for value in worth.values())
    counts = usage.metrics(num_selected=4)
    assert counts["coverage_window_tokens"] == rows.x.size
    assert usage.counts_XN.sum().item() == rows.x.size * 4 * 2


def test_a_zero_read_equals_a_blind_layer_whose_bottleneck_is_shut() -> None:
    token, blind = tiny_model(), tiny_model("blind")
    for name, parameter in blind.named_parameters():
        if "widen" in name:
            parameter.data.zero_()
    ids = torch.arange(20)[None]
    zeroed = token(ids, None, torch.zeros(2, 32)).hidden_BTD
    torch.testing.assert_close(zeroed, blind(ids).hidden_BTD)


def test_attention_is_causal() -> None:
    model = tiny_model()
    ids = torch.randint(0, 512, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 10:] = 7
    before, after = model(ids).hidden_BTD, model(changed).hidden_BTD
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_continuation_nats_equal_the_sum_of_token_costs() -> None:
    model = tiny_model()
    pairs = [([2, 5, 6], [7, 8]), ([2, 9], [10, 11, 12, 2])]
    nats = continuation_nats(model, pairs, batch_size=2, seq_len=32)
    for cost, (prompt, rest) in zip(nats, pairs, strict=True):
        ids = torch.tensor([prompt + rest])
        logs = model.logits(model(ids).hidden_BTD).log_softmax(dim=-1)[0]
        expected = -sum(logs[len(prompt) + i - 1, token] for i, token in enumerate(rest))
        torch.testing.assert_close(cost, expected)


def test_generation_of_a_batch_equals_generation_of_each_prompt() -> None:
    model, prompts = tiny_model(), [[2, 5, 6, 7], [2, 9]]
    arguments: dict[str, Any] = {"new_tokens": 6, "temperature": 0.0, "eos_id": 2, "pad_id": 0, "seq_len": 32}
    together = generate(model, prompts, generator=torch.Generator(), **arguments)
    alone = [generate(model, [prompt], generator=torch.Generator(), **arguments)[0] for prompt in prompts]
    assert together == alone
    assert all(1 <= len(tokens) <= 6 for tokens in together)


def test_text_metrics_equal_counts_by_hand() -> None:
    metrics = text_metrics([[5, 6, 5, 6, 2], [7, 8]], eos_id=2)
    assert metrics == {"eos_rate": 0.5, "distinct_2": 4 / 5, "repetition_rate": 2 / 7}


def test_prompts_and_continuations_are_held_out_documents(tmp_path: Path) -> None:
    from model.trainer import Trainer

    trainer = Trainer(small(), checkpoint_dir=tmp_path)
    evaluator: Evaluator = trainer.evaluator
    texts = [evaluator.tokenizer.decode(prompt + rest) for prompt, rest in evaluator.prompts]
    assert texts == list(evaluator.documents.val[: len(texts)])


def test_read_entropy_is_the_mean_over_positions_and_layers() -> None:
    """Positions that read one entry and positions that read all: the mean of exp(H)/K is not exp(mean H)/K."""
    usage = Usage.empty(layers=2, entries=64, dim=32, device=torch.device("cpu"))
    model, expected = tiny_model(), []
    for seed in (0, 1):
        output = model(torch.randint(0, 512, (2, 16), generator=torch.Generator().manual_seed(seed)))
        weights = torch.rand(2, 2, 16, 4, generator=torch.Generator().manual_seed(seed)).pow(8)
        weights[0, :, :8] = torch.tensor([1.0, 0.0, 0.0, 0.0])
        weights_XBTK = weights / weights.sum(dim=-1, keepdim=True)
        reads = [
            replace(read, selection=Selection(weights_BTK, read.selection.index_BTK))
            for read, weights_BTK in zip(output.reads, weights_XBTK, strict=True)
        ]
        usage.add(replace(output, reads=reads))
        expected.append([oracle.read_entropy(weights_BTK.flatten(0, 1)) for weights_BTK in weights_XBTK])
    by_layer = torch.tensor(expected).mean(dim=0)
    metrics = usage.metrics(num_selected=4)
    assert metrics["read_entropy_by_layer"] == pytest.approx(by_layer.tolist())
    assert metrics["read_entropy"] == pytest.approx(by_layer.mean().item())


@pytest.mark.parametrize(("costs", "accuracy"), [
    ([1.0, 2.0, 3.0, 2.0, 1.0, 3.0], 0.5),  # right, wrong
    ([1.0, 1.0, 3.0, 2.0, 2.0, 2.0], 0.5 * (1 / 2 + 1 / 3)),
    ([2.0, 1.0, 1.0, 1.0, 1.0, 1.0], 0.5 * (0 + 1 / 3)),
])  # fmt: skip
def test_tied_objects_share_the_accuracy(costs: list[float], accuracy: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions with three objects each, the first of which is right."""
    questions = [Probe("Who?", " a", (" a", " b", " c"), "seen", 0) for _ in range(2)]
    tokenizer = cast(Tokenizer, SimpleNamespace(eos_id=2, encode_one=lambda _: [5], encode=lambda _: [[6]] * 3))
    monkeypatch.setattr(probes, "continuation_nats", lambda *_, **__: torch.tensor(costs))
    found = probes.fact_metrics(tiny_model(), questions, tokenizer=tokenizer, limit=9, batch_size=4, seq_len=32)
    assert found["fact_accuracy"] == pytest.approx(accuracy)
    assert found["fact_nll"] == pytest.approx((costs[0] + costs[3]) / 2)


def test_a_uniform_model_has_chance_accuracy() -> None:
    """All logits are the same: every object of equal length costs the same."""
    model = tiny_model()
    with torch.no_grad():
        model.table.weight.zero_()
    questions = [Probe("Who?", " a", (" a", " b", " c", " d"), "heldout", 0)]
    tokenizer = cast(
        Tokenizer, SimpleNamespace(eos_id=2, encode_one=lambda _: [5], encode=lambda _: [[6], [7], [8], [9]])
    )
    found = probes.fact_metrics(model, questions, tokenizer=tokenizer, limit=9, batch_size=4, seq_len=32)
    assert found["fact_accuracy_heldout"] == 1 / 4


def test_self_encode_rate_ignores_table_rows_without_a_token(tmp_path: Path) -> None:
    from model.trainer import Trainer

    trainer = Trainer(small(model__vocab_size=2048, model__encode="cosine"), checkpoint_dir=tmp_path)
    size, table_VD = trainer.evaluator.tokenizer.size, trainer.model.table.weight
    assert size < 2048
    with torch.no_grad():
        table_VD[size:] = table_VD[0]  # nearest to token 0, every one of them
    found = trainer.evaluator.validate(trainer.model, autocast=nullcontext)
    assert found["self_encode_rate"] == pytest.approx(1.0)
