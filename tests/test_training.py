"""Whole runs of a very small model: they repeat bit for bit, resume bit for bit, and say the truth when they break."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from model import checkpoint
from model.api import METRICS, Config, NonFiniteLoss, Report, Verdict, failure_kind, resolve, train
from model.batches import fixed_rows
from model.checkpoint import latest
from model.evaluate import Usage, bank_use, continuation_nats, text_loss
from model.examiner import Examiner
from model.generate import generate, text_metrics
from model.schedule import learning_rate
from model.transformer import Transformer, initialise

SMALL = {
    "model.dim": 32,
    "model.n_heads": 2,
    "model.n_layers": 2,
    "model.vocab_size": 512,
    "model.max_seq_len": 32,
    "model.knowledge_num": 64,
    "model.knowledge_length": 4,
    "model.knowledge_dim": 16,
    "model.num_selected": 4,
    "model.ema_update_freq": 3,
    "train.batch_size": 4,
    "train.tokens": 128 * 12,
    "train.report_every": 4,
    "train.checkpoint_every": 1,
    "data.facts_entities": 12,
    "data.facts_objects": 6,
    "eval.val_tokens": 512,
    "eval.prompts": 4,
    "eval.new_tokens": 8,
    "eval.fact_probes": 8,
}


def small(**overrides: Any) -> Config:
    return resolve("tiny", SMALL | {key.replace("__", "."): value for key, value in overrides.items()})


class Listener:
    """Keeps the reports; answers `verdict` at report number `at`."""

    def __init__(self, *, at: int = -1, verdict: Verdict = Verdict.CONTINUE) -> None:
        self.reports: list[Report] = []
        self._at, self._verdict = at, verdict

    def __call__(self, report: Report) -> Verdict:
        self.reports.append(report)
        return self._verdict if len(self.reports) == self._at else Verdict.CONTINUE

    @property
    def losses(self) -> list[float]:
        return [loss for report in self.reports for loss in report.losses]


TIMES = {"tokens_per_s", "step_ms", "ema_ms", "peak_rss_gib", "peak_gib"}


def comparable(metrics: Any) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name not in TIMES}


@pytest.mark.parametrize("memory", ["token", "none", "blind"])
def test_two_runs_are_equal_bit_for_bit(memory: str, tmp_path: Path) -> None:
    listeners = Listener(), Listener()
    results = [
        train(small(model__memory=memory), listener, checkpoint_dir=tmp_path / str(number))
        for number, listener in enumerate(listeners)
    ]
    assert len(listeners[0].losses) == 12
    assert listeners[0].losses == listeners[1].losses
    assert comparable(results[0].metrics) == comparable(results[1].metrics)
    assert results[0].samples == results[1].samples


@pytest.mark.parametrize("memory", ["token", "none", "blind"])
def test_bf16_autocast_trains_as_fp32_does_but_for_its_rounding(memory: str, tmp_path: Path) -> None:
    """What a card does by default, on the CPU: the dtypes of every path meet."""
    losses = {}
    for precision in ("fp32", "bf16"):
        listener = Listener()
        config = small(model__memory=memory, train__precision=precision)
        train(config, listener, checkpoint_dir=tmp_path / precision)
        losses[precision] = listener.losses
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


@pytest.mark.parametrize(
    ("accumulation", "every", "steps"),
    [(1, 4, [4, 8, 12]), (2, 4, [4, 8, 12]), (2, 3, [4, 6, 10, 12]), (3, 4, [6, 9, 12]), (6, 4, [6, 12])],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    accumulation: int, every: int, steps: list[int], tmp_path: Path
) -> None:
    """A report that would fall between two updates comes with the next: gradients are in no checkpoint."""
    config = small(train__accumulation_steps=accumulation, train__report_every=every)
    whole, first, second = Listener(), Listener(at=1, verdict=Verdict.INTERRUPT), Listener()
    uninterrupted = train(config, whole, checkpoint_dir=tmp_path / "whole")
    assert [report.step for report in whole.reports] == steps
    stopped = train(config, first, checkpoint_dir=tmp_path / "parts")
    assert (stopped.verdict, stopped.step) == (Verdict.INTERRUPT, steps[0])
    resumed = train(config, second, checkpoint_dir=tmp_path / "parts")
    assert [report.step for report in second.reports] == steps[1:]
    assert first.losses + second.losses == whole.losses
    assert comparable(resumed.metrics) == comparable(uninterrupted.metrics)
    assert second.reports[-1].wall_s > first.reports[-1].wall_s


def test_an_interruption_at_the_last_report_leaves_a_checkpoint(tmp_path: Path) -> None:
    whole, again = Listener(), Listener()
    result = train(small(), whole, checkpoint_dir=tmp_path / "whole")
    config = small(train__checkpoint_every=100)
    stopped = train(config, Listener(at=3, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path / "parts")
    assert (stopped.verdict, stopped.step) == (Verdict.INTERRUPT, 12)
    resumed = train(config, again, checkpoint_dir=tmp_path / "parts")
    assert again.reports == [], "nothing is trained again"
    assert comparable(resumed.metrics) == comparable(result.metrics)


def test_reports_hold_what_they_measured_and_an_interruption_shifts_none_of_it(tmp_path: Path) -> None:
    config = small(train__report_every=2, train__checkpoint_every=100, eval__every=2)
    whole, first, second = Listener(), Listener(at=1, verdict=Verdict.INTERRUPT), Listener()
    result = train(config, whole, checkpoint_dir=tmp_path / "whole")
    train(config, first, checkpoint_dir=tmp_path / "parts")
    resumed = train(config, second, checkpoint_dir=tmp_path / "parts")
    for reports in (whole.reports, first.reports + second.reports):
        assert [report.step for report in reports if "val_loss" in report.metrics] == [4, 8, 12]
        assert [report.step for report in reports if "coverage" in report.metrics] == [4, 8, 12]
        assert [report.step for report in reports if "ema_ms" in report.metrics] == [4, 6, 10, 12]  # updates: 3, 6, ...
        assert all({"ce_loss", "parameters", "bigram_floor", "peak_gib"} <= report.metrics.keys() for report in reports)
    assert comparable(resumed.metrics) == comparable(result.metrics)


def test_periodic_checkpoints_keep_their_phase_through_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(train__report_every=2, train__checkpoint_every=2)
    train(config, Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path)
    saved: list[int] = []
    save = checkpoint.save

    def noted(directory: Path, **about: Any) -> Path:
        saved.append(about["progress"].step)
        return save(directory, **about)

    monkeypatch.setattr(checkpoint, "save", noted)
    train(config, Listener(), checkpoint_dir=tmp_path)
    assert saved == [4, 8, 12]


def test_a_run_that_died_in_its_final_measure_measures_again(tmp_path: Path) -> None:
    first, again = Listener(), Listener()
    result = train(small(), first, checkpoint_dir=tmp_path)
    repeated = train(small(), again, checkpoint_dir=tmp_path)
    assert again.reports == []
    assert comparable(repeated.metrics) == comparable(result.metrics)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    config = small()
    train(config, Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path)
    found = latest(tmp_path, config=config).path
    assert found is not None
    weights = found / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert latest(tmp_path, config=config).path is None


def test_a_checkpoint_of_another_configuration_is_not_gone_on_from(tmp_path: Path) -> None:
    train(small(), Listener(at=1, verdict=Verdict.INTERRUPT), checkpoint_dir=tmp_path)
    assert latest(tmp_path, config=small(train__lr=1e-3)).path is None


def test_stop_ends_the_run_without_the_final_measure(tmp_path: Path) -> None:
    result = train(small(), Listener(at=2, verdict=Verdict.STOP), checkpoint_dir=tmp_path)
    assert (result.verdict, result.tokens_seen) == (Verdict.STOP, 8 * 128)
    assert "bank_use_nats" not in result.metrics
    assert isinstance(result.metrics["val_loss"], float)


def test_a_diverging_run_names_its_step(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        train(small(train__lr=1e30, train__warmup_ratio=0.0), Listener(), checkpoint_dir=tmp_path)
    assert 1 <= caught.value.step < 12
    assert not math.isfinite(caught.value.value)
    assert failure_kind(caught.value) == "nan"


def test_every_metric_of_the_table_is_measured_or_belongs_to_another_machine(tmp_path: Path) -> None:
    result = train(small(model__refresh="frequency"), Listener(), checkpoint_dir=tmp_path)
    on_cuda = {"peak_allocated_gib", "peak_reserved_gib", "nvml_used_gib", "gpu_util_pct"}
    assert set(result.metrics) == {metric.name for metric in METRICS} - on_cuda
    for metric in METRICS:
        value = result.metrics.get(metric.name, [])
        assert isinstance(value, {"float": (float, list), "int": (int, list), "floats": list}[metric.kind])


def test_the_optimiser_is_torch_on_plain_batches(tmp_path: Path) -> None:
    """Six steps of `none` against a plain loop over the same batches: no hidden scaling, clipping or order."""
    from model.trainer import Trainer

    config = small(model__memory="none", train__tokens=128 * 6, train__report_every=6)
    listener = Listener()
    train(config, listener, checkpoint_dir=tmp_path / "a")
    fresh = Trainer(config, checkpoint_dir=tmp_path / "b")
    model = Transformer(config.model)
    initialise(model, seed=config.train.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.999), weight_decay=0.01)
    losses = []
    for step in range(6):
        x, y = (torch.from_numpy(part) for part in fresh.batches.batch(step))
        loss = torch.nn.functional.cross_entropy(
            model.logits(model(x).hidden_BTD).flatten(0, 1), y.flatten(), ignore_index=-100
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(step, total=6, train=config.train)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert listener.losses == pytest.approx(losses, abs=1e-5)


def test_arms_share_the_parameters_that_both_have() -> None:
    token, blind = Transformer(small().model), Transformer(small(model__memory="blind").model)
    initialise(token, seed=3)
    initialise(blind, seed=3)
    shared = dict(blind.named_parameters())
    own = dict(token.named_parameters())
    assert {"table.weight", "blocks.0.memory.fuse.gate.weight"} <= shared.keys() & own.keys()
    assert all(torch.equal(own[name], shared[name]) for name in shared.keys() & own.keys())


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_schedules_warm_up_and_end(schedule: str) -> None:
    config = small(train__schedule=schedule, train__warmup_ratio=0.1, train__min_lr_ratio=0.0).train
    rates = [learning_rate(update, total=100, train=config) for update in range(101)]
    assert rates[0] == pytest.approx(config.lr / 10)
    assert max(rates) == pytest.approx(config.lr)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rates[10:]))
    if schedule == "wsd":
        assert rates[79] == pytest.approx(config.lr)
        assert rates[90] == pytest.approx(config.lr / 2)


def tiny_model(memory: str = "token") -> Transformer:
    model = Transformer(small(model__memory=memory).model)
    initialise(model, seed=1)
    if memory == "token":
        model.bank.tokens_NL.copy_(torch.randint(0, 512, (64, 4), generator=torch.Generator().manual_seed(0)))
    return model


def test_an_intervention_leaves_the_model_as_it_was() -> None:
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


def test_a_read_of_zero_is_the_blind_layer() -> None:
    token, blind = tiny_model(), tiny_model("blind")
    ids = torch.arange(20)[None]
    zeroed = token(ids, None, torch.zeros(2, 32)).hidden_BTD
    torch.testing.assert_close(zeroed, blind(ids).hidden_BTD)


def test_the_future_does_not_reach_the_past() -> None:
    model = tiny_model()
    ids = torch.randint(0, 512, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 10:] = 7
    before, after = model(ids).hidden_BTD, model(changed).hidden_BTD
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_continuations_cost_what_their_tokens_cost() -> None:
    model = tiny_model()
    pairs = [([2, 5, 6], [7, 8]), ([2, 9], [10, 11, 12, 2])]
    nats = continuation_nats(model, pairs, batch_size=2, seq_len=32)
    for cost, (prompt, rest) in zip(nats, pairs, strict=True):
        ids = torch.tensor([prompt + rest])
        logs = model.logits(model(ids).hidden_BTD).log_softmax(dim=-1)[0]
        expected = -sum(logs[len(prompt) + i - 1, token] for i, token in enumerate(rest))
        torch.testing.assert_close(cost, expected)


def test_generation_continues_each_prompt_as_if_alone() -> None:
    model, prompts = tiny_model(), [[2, 5, 6, 7], [2, 9]]
    arguments: dict[str, Any] = {"new_tokens": 6, "temperature": 0.0, "eos_id": 2, "pad_id": 0, "seq_len": 32}
    together = generate(model, prompts, generator=torch.Generator(), **arguments)
    alone = [generate(model, [prompt], generator=torch.Generator(), **arguments)[0] for prompt in prompts]
    assert together == alone
    assert all(1 <= len(tokens) <= 6 for tokens in together)


def test_text_metrics_on_texts_counted_by_hand() -> None:
    metrics = text_metrics([[5, 6, 5, 6, 2], [7, 8]], eos_id=2)
    assert metrics == {"eos_rate": 0.5, "distinct_2": 4 / 5, "repetition_rate": 2 / 7}


def test_prompts_are_held_out_documents_cut_in_two(tmp_path: Path) -> None:
    from model.trainer import Trainer

    trainer = Trainer(small(), checkpoint_dir=tmp_path)
    examiner: Examiner = trainer.examiner
    texts = [examiner.tokenizer.decode(prompt + rest) for prompt, rest in examiner.prompts]
    assert texts == list(examiner.documents.val[: len(texts)])
