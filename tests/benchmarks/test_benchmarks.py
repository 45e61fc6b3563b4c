"""The benchmarks work and say what they measured; the roofline's page is what its code counts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import _literal, orchestration, roofline
from benchmarks._bounds import render
from benchmarks.instruments import limits, measure, subject
from benchmarks.instruments.measure import Effort, compare, peak_bytes
from benchmarks.model import QUICK, TIE, check_tokens
from model.bank.memory import MEMORIES
from model.bank.primitives import segment_sum
from model.config import resolve
from model.cost.formulas import estimate
from model.transformer import Transformer
from tests import ROOT
from tests.oracles import token_memory as oracle
from tests.oracles.variants import TokenBank

ROW = ["shape", "variant", "L", "K", "N", "entries", "value"]
SHAPE = subject.QUICK_SHAPES[0]


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    """What `--quick --json` prints."""
    command = [sys.executable, "-m", "benchmarks.model", "--quick", "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_every_row_has_every_key_and_a_ratio(quick: dict[str, Any]) -> None:
    for key in ("step_ratio_vs_none", "ema_speedup", "activation_ratio", "bank_growth", "ema_share_of_steps"):
        assert quick[key], key
        for row in quick[key]:
            assert list(row) == ROW
            assert math.isfinite(row["value"])
            assert row["value"] > 0
        assert {row["shape"] for row in quick[key]} == {1, 2}
    assert quick["all_entries_update"]["entries"] == QUICK.shapes[-1].entries


@pytest.mark.slow
def test_every_memory_is_measured_at_every_length_and_width(quick: dict[str, Any]) -> None:
    steps = [row for row in quick["step_ratio_vs_none"] if row["shape"] == 1]
    assert {row["variant"] for row in steps} >= set(MEMORIES) - {"none"}
    sizes = [(row["L"], row["K"]) for row in steps if row["variant"] == "token"]
    assert sizes == [(8, 16), (4, 16), (8, 8)] == QUICK.grid(SHAPE)
    assert {row["entries"] for row in quick["ema_speedup"]} == set(QUICK.updated)
    assert [row["N"] for row in quick["bank_growth"] if row["shape"] == 1] == list(QUICK.growth)


@pytest.mark.slow
def test_tables_say_what_is_held_and_what_is_not(quick: dict[str, Any]) -> None:
    rows = [{**row, "value": 1.39 if row["shape"] == 1 else 1.41} for row in quick["step_ratio_vs_none"]]
    table = render({**quick, "step_ratio_vs_none": rows}, own=(8, 16), last_N=QUICK.growth[-1])
    held = [line.split()[-1] for line in table.splitlines() if "at most 1.4 " in line]
    assert held == ["yes", "NO"]  # token at its own L and K, the two shapes
    assert table.count("at most 0.125") == 2
    assert table.count("at most 1.3") == 2


def small_scene() -> subject.Scene:
    return subject.scene(SHAPE, L=3, K=4, positions=40, entries=150)


def test_the_literal_algorithms_are_the_formulas() -> None:
    made = small_scene()
    weight_PK, index_PK = made.selection.weight_BTK, made.selection.index_BTK
    expected = oracle.decode(weight_PK, index_PK, made.bank_NL, made.table_VD)
    torch.testing.assert_close(_literal.read(weight_PK, index_PK, made.bank_NL, made.table_VD), expected)
    torch.testing.assert_close(subject.read(made)(weight_PK, made.table_VD), expected)
    means = subject.means(made)
    old_SL = made.bank_NL[means.entry_S].long()
    layers = [(made.features_PD, weight_PK, index_PK)]
    literal = TokenBank(made.bank_NL.clone(), made.table_VD, decay=subject.DECAY)
    literal.update(layers)
    new_NL = literal.tokens_NL
    encoded = _literal.encode(old_SL, means.mean_SD, table_VD=made.table_VD, decay=subject.DECAY)
    assert torch.equal(encoded, new_NL[means.entry_S].long())


def test_tokens_that_differ_are_found() -> None:
    made = small_scene()
    start_NL, means = made.bank_NL.clone(), subject.means(made)
    old_SL = start_NL[means.entry_S].long()
    literal_SL = _literal.encode(old_SL, means.mean_SD, table_VD=made.table_VD, decay=subject.DECAY)
    ours_NL = subject.update(made)
    check_tokens(made, literal_SL=literal_SL, ours_NL=ours_NL, start_NL=start_NL)
    ours_NL[means.entry_S[7], 1] = (ours_NL[means.entry_S[7], 1] + 1) % SHAPE.vocabulary
    with pytest.raises(AssertionError, match="more than a tie"):
        check_tokens(made, literal_SL=literal_SL, ours_NL=ours_NL, start_NL=start_NL)
    assert TIE < 1e-3


def test_a_comparison_is_the_median_of_ratios_and_keeps_to_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, order = [0.0], []

    def work(name: str, cost_s: float) -> None:
        order.append(name)
        now_s[0] += cost_s * (10 if len(order) in (3, 4) else 1)  # the machine is slow for one round

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    effort = Effort(rounds=9, least=3, budget_s=35.0)
    found = compare(lambda: work("a", 2.0), lambda: work("b", 1.0), effort=effort, warm_up=0)
    assert (found.ratio, found.first_s, found.second_s, found.rounds) == (2.0, 2.0, 1.0, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_peak_bytes_counts_what_lives_at_once_and_what_operators_take_inside() -> None:
    def work() -> torch.Tensor:
        first = torch.ones(2**20)  # 4 MiB, gone before the next two
        del first
        second = torch.ones(2**18)
        return second + 1  # another 1 MiB beside it

    assert peak_bytes(work) == pytest.approx(2**22, rel=0.02)
    both = peak_bytes(lambda: torch.ones(2**20) + torch.ones(2**20))
    assert both == pytest.approx(3 * 2**22, rel=0.02)


def test_counted_flops_are_the_estimates() -> None:
    """Per token, without the read: attention's backward forms the scores again (a quarter of its forward and backward
    more), the estimate takes gains for matrices, and of retrieval it leaves out the kept scores' rows (both
    gradients; a card adds up parts of the sub-keys' first)."""
    config = resolve("tiny", {})
    model = config.model
    costs = limits.count_step(config)
    assert set(costs) == {"attention", "retrieval", "read", "fuse", "norms", "head and loss", "optimiser"}
    assert all(cost.kernels > 0 and cost.bytes > 0 for cost in costs.values())
    tokens = config.train.batch_size * model.max_seq_len
    counted = sum(c.tensor_flops + c.vector_flops for phase, c in costs.items() if phase != "read") / tokens
    gains = sum(p.numel() for p in Transformer(model).parameters() if p.dim() == 1)
    again = model.n_layers * model.max_seq_len * model.dim
    kept = model.n_layers * 4 * model.num_selected * model.knowledge_dim
    parts = 2 * math.isqrt(model.knowledge_num) + math.ceil(
        2 * tokens * model.num_selected / segment_sum.LONGEST_ON_CUDA
    )
    kept += model.n_layers * parts * model.knowledge_dim / tokens
    assert counted == pytest.approx(estimate(config).flops_per_token - 6 * gains + again + kept, rel=1e-9)
    assert costs["fuse"].tensor_flops / tokens == 6 * 5 * model.dim**2 * model.n_layers
    assert costs["head and loss"].tensor_flops / tokens == 6 * model.vocab_size * model.dim


def test_an_update_costs_by_entries_and_selections() -> None:
    """Of an entry: 2 D V for its mean through the head, and the sum of two rows of V logits for nearly each of its L
    slots (random tokens seldom agree); the rest is bytes."""
    config = resolve("tiny", {"model.vocab_size": 260})
    cost = limits.count_update(config, entries=256, selections=2_048)
    model = config.model
    assert cost.entry.vector_flops == pytest.approx(
        model.vocab_size * (2 * model.dim + 4 * model.knowledge_length), rel=0.02
    )
    assert cost.selection.bytes >= 3 * 4 * model.dim  # a product of D numbers is written, read, added to its sum
    whole = cost.of(entries=512, selections=2_048)
    assert whole.bytes == pytest.approx(cost.of(entries=256, selections=2_048).bytes + 256 * cost.entry.bytes)


@pytest.mark.slow
def test_the_roofline_page_is_what_the_code_counts() -> None:
    written = (ROOT / "docs" / "roofline.md").read_text(encoding="utf-8")
    assert written == roofline.page(roofline.count()), "run: python -m benchmarks.roofline > docs/roofline.md"


def test_the_cost_of_starting_says_which_bounds_hold() -> None:
    ratios = {"workers_0": 1.3, "workers_0_reuse": 0.5, "workers_1": 3.0}
    found = {
        "per_trial_s": dict.fromkeys(orchestration.WAYS, 2.0), "ratio_vs_bare": ratios, "bare_s": 2.0,
        "ratios": {name: [ratio] for name, ratio in ratios.items()}, "trials": 8, "at_once": 2, "cores": 2,
        "load_average": 1.0, "seconds": 60.0,
    }  # fmt: skip
    lines = orchestration.render(found).splitlines()
    held = {line.split()[0]: line.split()[-1] for line in lines if "at most" in line}
    assert held == {"workers_0": "NO", "workers_0_reuse": "yes", "workers_1": "yes"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_starting_is_measured_through_the_runner() -> None:
    command = [sys.executable, "-m", "benchmarks.orchestration", "--quick", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["per_trial_s"].keys() == found["ratio_vs_bare"].keys() == orchestration.WAYS.keys()
    assert all(value > 0 for value in found["per_trial_s"].values())
    assert found["ratio_vs_bare"]["workers_0"] < found["ratio_vs_bare"]["workers_1"]
