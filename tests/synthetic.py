"""Studies written through the real ledger without training, for the tests of the report."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ablate.records.ledger import Ledger
from ablate.records.rows import Status, TrialRow
from ablate.spec import designs
from ablate.spec.models import Ablation
from ablate.trainers import Report, recorded
from ablate.trials.trial import trial_id
from tests.study_files import TRAINER, resolve

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BUDGET = 204_800
SPACE = [
    {"key": "model.ema_decay", "kind": "one_minus_loguniform", "low": 0.3, "high": 0.999, "choices": None},
    {"key": "model.ema_update_freq", "kind": "logint", "low": 1, "high": 50, "choices": None},
    {"key": "model.knowledge_length", "kind": "choice", "low": None, "high": None, "choices": [4, 8, 16, 32]},
    {"key": "train.balance_loss_coef", "kind": "loguniform", "low": 0.01, "high": 1.0, "choices": None},
]
ARMS: dict[str, dict[str, Any]] = {
    "blind": {"model.memory": "blind"},
    "token": {"model.memory": "token"},
    "ema_off": {"model.memory": "token", "model.ema": "off"},
}


def study_json(
    *,
    name: str = "ema",
    question: str = "How fast should the token memory forget?",
    space: Sequence[Mapping[str, Any]] = (),
    trials: int = 12,
    arms: Mapping[str, Any] | None = None,
    seeds: int = 6,
    objectives: Sequence[Mapping[str, str]] = ({"metric": "val_loss", "mode": "min"},),
    base: Mapping[str, Any] | None = None,
    ablation: Mapping[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """study.json as a sweep writes it. `ablation`: more keys of that section; `spec`: more sections."""
    defaults = {"preset": "tiny", "data.corpus": "facts", "model.memory": "token", "model.ema_decay": 0.9,
                "model.ema_update_freq": 5, "model.knowledge_length": 8, "train.balance_loss_coef": 0.01}  # fmt: skip
    config = TRAINER.resolve({**defaults, **(base or {})})
    section = {"baseline": "base", "seeds": seeds, "arms": dict(arms or {}), **(ablation or {})}
    return {
        "study": name,
        "question": question,
        "arms": [asdict(arm) for arm in designs.expand(Ablation.model_construct(**section), config)],
        "spec": {
            "base": recorded.values(config.to_json()),
            "search": {entry["key"]: {} for entry in space},
            "objectives": list(objectives),
            "optimizer": {"sampler": "tpe", "startup": 4, "trials": trials, "seed": 0},
            "early_stopping": {"asha": {"min_tokens": 50_000, "reduction": 3}} if space else None,
            "ablation": section if arms or ablation else None,
            "resources": {"cpu": 1, "gpu": 0, "workers": 1},
            "tracking": {"swanlab": "offline"},
            **spec,
        },
        "identity": "0" * 12,
        "schema_version": 1,
        "trainer": recorded.as_json(TRAINER.description),
        "started_at": START.isoformat(),
        "finished_at": None,
        "command": "python -m ablate.sweep search_spaces/ema.yaml",
        "provenance": {
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "git_dirty": False,
            "python": "3.11.7",
            "platform": "Linux",
            "host": "example",
            "device": "cpu",
            "versions": {"torch": "2.13.0", "ray": "2.60.0", "optuna": "5.0.0", "accelerate": None},
            "data_hash": "abcdef012345",
        },
        "space": list(space),
    }


def metrics(*, val_loss: float, bank_use: float | None = 0.01, **others: Any) -> dict[str, Any]:
    """The metrics of a completed trial, close to real ones."""
    measured = {
        "ce_loss": val_loss - 0.05, "val_loss": val_loss, "val_bpb": val_loss / 2, "perplexity": math.exp(val_loss),
        "unigram_floor": 4.1, "bigram_floor": 2.6, "tokens_per_s": 9_800.0, "step_ms": 104.0, "ema_ms": 3.1,
        "peak_gib": 0.61, "coverage_by_layer": [0.4, 0.5],
        "parameters": 1_300_000, "active_parameters": 1_040_000, "epoch_tokens": 64_000,
    }  # fmt: skip
    if bank_use is not None:
        measured |= {"bank_use_nats": bank_use, "bank_zero_nats": bank_use * 2, "bank_mean_nats": bank_use * 1.2}
    return {**measured, **others}


def add_trial(
    ledger: Ledger,
    *,
    arm: str = "search",
    seed: int = 0,
    params: Mapping[str, Any] | None = None,
    status: Status = "completed",
    measured: Mapping[str, Any] | None = None,
    share: float = 1.0,
    error: tuple[str, str] = ("", ""),
    final: bool = True,
    order: int = 0,
    base: Mapping[str, Any] | None = None,
    reports: int = 10,
    **columns: Any,
) -> str:
    """Write one trial with its history and return its id. `share`: the used part of its budget, which has `reports`
    reports; `final=False`: the trial did not end."""
    given = dict(params or {})
    config = resolve("tiny", {**(base or {}), **given, "train.seed": seed})
    name = trial_id(arm, config, seed)
    attempt = ledger.claim(name)
    end = (measured or {"val_loss": 3.0})["val_loss"]
    rows = []
    for step in range(1, max(1, round(reports * share)) + 1):
        loss = end + (6.5 - end) * math.exp(-step * 0.55) if share else float(end)
        report = Report(step * 20, step * BUDGET // reports, BUDGET, step * 2.0, 1e-3, [loss] * 20, {"val_loss": loss})
        rows.append(ledger.history_row(name, attempt=attempt, report=report))
    pq.write_table(pa.concat_tables(rows), ledger.path("history", f"{name}-{attempt}.parquet"))
    if not final:
        return name
    row: dict[str, Any] = {
        "study": ledger.root.name, "trial_id": name, "arm": arm, "seed": seed, "status": status,
        "error_kind": error[0] or None, "error": error[1] or None, "config_json": config.to_json(),
        "params": given, "metrics": dict(measured or {}), "tokens_seen": round(BUDGET * share), "budget_tokens": BUDGET,
        "wall_s": 21.0 * share + 2, "attempt": attempt, "started_at": START + timedelta(minutes=order),
        "finished_at": START + timedelta(minutes=order, seconds=25),
        "git_commit": "0123456789abcdef0123456789abcdef01234567", "data_hash": f"data{seed:08d}", "host": "example",
        "device": "cpu",
    }  # fmt: skip
    ledger.finish(TrialRow(**{**row, **columns}))
    return name


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """A point of SPACE."""
    return {
        "model.ema_decay": 1 - float(np.exp(rng.uniform(np.log(0.001), np.log(0.7)))),
        "model.ema_update_freq": int(np.exp(rng.uniform(0, np.log(50)))),
        "model.knowledge_length": int(rng.choice([4, 8, 16, 32])),
        "train.balance_loss_coef": float(np.exp(rng.uniform(np.log(0.01), 0))),
    }


def loss_at(params: Mapping[str, Any]) -> float:
    """A loss with a minimum at slow decay and long entries."""
    decay, length = params["model.ema_decay"], params["model.knowledge_length"]
    return 2.75 + 0.12 * (math.log10(1 - decay) + 1.6) ** 2 + 0.04 * abs(math.log2(length) - 4)


def add_search(ledger: Ledger, *, count: int, failed: bool = True, seed: int = 0) -> list[str]:
    """`count` trials of SPACE. With `failed` every third is pruned and the 5th and 8th fail."""
    rng, ids = np.random.default_rng(seed), []
    for index in range(count):
        params = draw(rng)
        loss = loss_at(params) + float(rng.normal(0, 0.01))
        if failed and index == 4:
            error = ("NonFiniteLoss", "loss is nan at step 60; try a lower train.lr or a smaller train.grad_clip")
            ids.append(add_trial(ledger, params=params, status="nan", error=error, share=0.3, order=index))
        elif failed and index == 7:
            error = ("ActorDiedError", "the worker's node was removed")
            ids.append(add_trial(ledger, params=params, status="lost", error=error, share=0.5, order=index))
        elif failed and index % 3 == 2:
            measured = metrics(val_loss=loss + 0.4)
            ids.append(add_trial(ledger, params=params, status="pruned", measured=measured, share=0.3, order=index))
        else:
            ids.append(add_trial(ledger, params=params, measured=metrics(val_loss=loss), order=index))
    return ids


NO_MEMORY = {"model.memory": "none"}
EFFECTS = {"baseline": (0.0, None), "blind": (-0.005, None), "token": (-0.12, 0.08), "ema_off": (-0.1, 0.001)}
"""Arm -> (true difference to the baseline in val_loss, true bank_use_nats)."""


def add_arms(ledger: Ledger, *, seeds: Sequence[int], seed: int = 1) -> None:
    """The baseline (no memory) and ARMS on each seed. All runs of a seed share a random shift of the loss."""
    rng = np.random.default_rng(seed)
    for number in seeds:
        shared = float(rng.normal(0, 0.05))
        for arm, (difference, use) in EFFECTS.items():
            loss = 2.9 + shared + difference + float(rng.normal(0, 0.012))
            bank = None if use is None else use + float(rng.normal(0, 0.01))
            params = ARMS.get(arm, {})
            measured = metrics(val_loss=loss, bank_use=bank)
            add_trial(
                ledger, arm=arm, seed=number, params=params, measured=measured, order=100 + number, base=NO_MEMORY
            )


def full_study(root: Path) -> Ledger:
    """12 search trials, some of which failed, and 3 arms on 6 seeds against a baseline without memory."""
    ledger = Ledger(root)
    ledger.write_study(study_json(name=root.name, space=SPACE, arms=ARMS, seeds=6, base=NO_MEMORY))
    ids = add_search(ledger, count=12)
    add_arms(ledger, seeds=range(1, 7))
    ledger.write_samples(ids[0], SAMPLES)
    return ledger


TWO_ARMS = {"blind": {"model.memory": "blind"}, "token": {"model.memory": "token"}}


def ablated(
    root: Path,
    arms: Mapping[str, Mapping[str, Any]],
    *,
    ran: int,
    differences: Mapping[str, float] | None = None,
    skip: Collection[tuple[str, int]] = (),
    **study: Any,
) -> Ledger:
    """An ablation against a baseline without memory on `ran` seeds. `differences`: arm -> its true difference; `skip`:
    runs that have not ended."""
    ledger = Ledger(root)
    ledger.write_study(study_json(name=root.name, arms=arms, **{"seeds": ran, "base": NO_MEMORY, **study}))
    rng = np.random.default_rng(3)
    for seed in range(1, ran + 1):
        for arm, overrides in {"baseline": {}, **arms}.items():
            loss = 2.9 + (differences or {}).get(arm, 0.0) + float(rng.normal(0, 0.01))
            measured = metrics(
                val_loss=loss,
                bank_use=None if arm == "baseline" else 0.05 + float(rng.normal(0, 0.005)),
                peak_gib=0.6 - 0.2 * (arm == "token") + float(rng.normal(0, 0.001)),
            )
            params = {"train.reseed": 1} if "reseed" in overrides else overrides
            if (arm, seed) not in skip:
                add_trial(
                    ledger, arm=arm, seed=seed, params=params, measured=measured, base=NO_MEMORY, order=seed, reports=2
                )
    return ledger


COMPONENTS: dict[str, dict[str, Any]] = {
    "ema": {"model.ema": "off"},
    "balance": {"train.balance_loss_coef": 0.0},
    "query_norm": {"model.query_norm": "none"},
}
FACTORS: dict[str, list[Any]] = {"model.knowledge_length": [4, 8], "model.ema_update_freq": [5, 20]}
CELLS = {  # cell -> (its overrides, its true difference to the baseline, which has length 8 and freq 5)
    "knowledge_length-4.ema_update_freq-5": ({"model.knowledge_length": 4, "model.ema_update_freq": 5}, 0.06),
    "knowledge_length-4.ema_update_freq-20": ({"model.knowledge_length": 4, "model.ema_update_freq": 20}, 0.16),
    "knowledge_length-8.ema_update_freq-20": ({"model.knowledge_length": 8, "model.ema_update_freq": 20}, 0.02),
}
LEFT_OUT = {"ema": 0.004, "balance": -0.001, "query_norm": 0.09}
HYPOTHESES = [
    {"claim": "Reading a bank helps", "arm": "no_memory", "metric": "val_loss", "min_effect": 0.02},
    {"claim": "Without the EMA it is no worse", "arm": "without_ema", "metric": "val_loss", "min_effect": 0.05},
]


def designed_study(root: Path, *, seeds: int = 10, lost: bool = True) -> Ledger:
    """One study with a named arm, leave-one-out, a factorial, hypotheses and targets. With `lost` one run failed."""
    ledger = Ledger(root)
    arms = {"no_memory": {"model.memory": "none"}}
    ablation = {"leave_one_out": COMPONENTS, "factorial": FACTORS, "match": "params"}
    targets = {"val_loss": 2.85, "perplexity": 12.0, "fact_accuracy": 0.5}
    study = study_json(
        name=root.name, arms=arms, seeds=seeds, ablation=ablation, hypotheses=HYPOTHESES, targets=targets
    )
    ledger.write_study(study)
    rng = np.random.default_rng(4)
    runs = {"baseline": ({}, 0.0), "no_memory": (arms["no_memory"], 0.11), **CELLS}
    runs |= {f"without_{name}": (COMPONENTS[name], true) for name, true in LEFT_OUT.items()}
    base = {key: value for key, value in study["spec"]["base"].items() if key != "preset"}
    for seed in range(1, seeds + 1):
        shared = float(rng.normal(0, 0.05))
        for arm, (overrides, true) in runs.items():
            measured = metrics(
                val_loss=2.8 + shared + true + float(rng.normal(0, 0.01)),
                bank_use=None if arm == "no_memory" else 0.05 + float(rng.normal(0, 0.01)),
                fact_accuracy=0.4,
            )
            where: dict[str, Any] = {"arm": arm, "seed": seed, "params": overrides, "base": base, "order": seed}
            if lost and arm == "without_ema" and seed == 3:
                error = ("NonFiniteLoss", "loss is nan")
                name = add_trial(ledger, **where, status="nan", error=error, share=0.3)
            else:
                name = add_trial(ledger, **where, measured=measured)
            ledger.write_samples(name, SAMPLES)
    return ledger


SAMPLES = [
    {"prompt": "The capital of Ardovia is", "continuation": " Melk. The river of Ardovia is the Sorn.", "ended": True},
    {"prompt": "Tavi was born in", "continuation": " Melk and <b>was</b> born in Melk and was", "ended": False},
]
