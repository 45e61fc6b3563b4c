"""Arms on one seed share initial parameters bit for bit; a change of one arm's module leaves the others' losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.api import Config, Report, Verdict, train
from model.bank.layer_inputs import LayerInputs
from model.bank.memory import MEMORIES, MatchedFeedForward
from model.config import ModelConfig
from model.trainer import Trainer
from model.transformer import Transformer, initialise
from tests.model.test_training import Listener, small

ARMS = ("none", "token", "blind")


class Deeper(MatchedFeedForward):
    """The control with one more layer in front: it draws more random numbers, and draws them first."""

    def __init__(self, config: ModelConfig) -> None:
        nn.Module.__init__(self)
        self.first = nn.Linear(config.dim, config.dim, bias=False)
        nn.Dropout(0.0)
        torch.rand(3)
        inner = MatchedFeedForward(config)
        self.net = inner.net

    def forward(self, u_BTD: Tensor, inputs: LayerInputs) -> tuple[Tensor, None]:
        return super().forward(self.first(u_BTD), inputs)


def bank_of(model: nn.Module) -> Tensor:
    """The stored tokens, [N, L], wherever the model keeps them."""
    (bank_NL,) = (value for name, value in model.state_dict().items() if name.endswith(("bank_NL", "tokens_NL")))
    return bank_NL


def losses(memory: str, folder: Path) -> list[float]:
    listener = Listener()
    train(small(model__memory=memory, train__seed=3), listener, checkpoint_dir=folder)
    return listener.losses


def test_changing_one_arms_module_leaves_the_losses_of_other_arms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {memory: losses(memory, tmp_path / f"before-{memory}") for memory in ARMS}
    monkeypatch.setitem(MEMORIES, "none", Deeper)
    after = {memory: losses(memory, tmp_path / f"after-{memory}") for memory in ARMS}
    assert after["none"] != before["none"], "the change must have an effect"
    assert after["token"] == before["token"]
    assert after["blind"] == before["blind"]


def test_shared_parameters_of_arms_start_equal() -> None:
    models = {}
    for memory in ARMS:
        models[memory] = Transformer(small(model__memory=memory).model)
        initialise(models[memory], seed=3)
    parameters = {memory: dict(model.named_parameters()) for memory, model in models.items()}
    for one, other in (("none", "token"), ("none", "blind"), ("token", "blind")):
        shared = parameters[one].keys() & parameters[other].keys()
        assert {"table.weight", "blocks.0.attention.out.weight", "norm.weight"} <= shared
        assert all(torch.equal(parameters[one][name], parameters[other][name]) for name in shared)
    fuse = {name for name in parameters["token"] if ".fuse." in name}
    assert fuse
    assert fuse <= parameters["blind"].keys()


def test_a_reseeded_run_keeps_its_data_and_changes_parameters_batches_and_filler(tmp_path: Path) -> None:
    plain, again, other = (
        Trainer(
            small(train__seed=3, train__reseed=reseed, model__kb_layout="order"), checkpoint_dir=tmp_path / str(reseed)
        )
        for reseed in (0, 1, 2)
    )
    for reseeded in (again, other):
        assert reseeded.data_hash == plain.data_hash
        assert reseeded.evaluator.floors == plain.evaluator.floors
        assert not torch.equal(reseeded.model.table.weight, plain.model.table.weight)
        assert not np.array_equal(reseeded.batches.batch(0)[0], plain.batches.batch(0)[0])
    assert not torch.equal(again.model.table.weight, other.model.table.weight)
    facts = 48  # of 12 entities with 4 relations each; the rows after them are filled at random
    one, other_bank = bank_of(plain.model), bank_of(again.model)
    assert torch.equal(one[:facts], other_bank[:facts])
    assert not torch.equal(one[facts:], other_bank[facts:])


def test_a_reseeded_run_gives_other_samples_for_the_same_prompts(tmp_path: Path) -> None:
    def run(config: Config, folder: str) -> tuple[list[float], list[str], list[str]]:
        seen = Listener()
        report: Callable[[Report], Verdict] = seen
        result = train(config, report, checkpoint_dir=tmp_path / folder)
        prompts = [str(sample["prompt"]) for sample in result.samples]
        return seen.losses, prompts, [str(sample["continuation"]) for sample in result.samples]

    plain, same, again = (
        run(small(train__seed=3), "plain"),
        run(small(train__seed=3, train__reseed=0), "same"),
        run(small(train__seed=3, train__reseed=1), "again"),
    )
    assert same == plain
    assert again[0] != plain[0]
    assert again[1] == plain[1]
    assert again[2] != plain[2]
