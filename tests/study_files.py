"""Small valid study files, and rows and reports of trials, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import model.api
from ablate import trainers
from ablate.records.rows import Status, TrialRow
from ablate.spec import study_file
from ablate.spec.models import StudySpec
from ablate.trainers import Config, Report
from ablate.trials.trial import Trial

GOOD = """\
study: tides
base:
  preset: tiny
  data: {corpus: facts}
search:
  model.ema_decay: {one_minus_loguniform: [0.3, 0.999]}
  model.knowledge_length: {choice: [4, 8, 16]}
optimizer: {sampler: tpe, startup: 4, trials: 6, seed: 0}
early_stopping: {asha: {min_tokens: 1_000, reduction: 3}}
"""

SMALL = """
study: small
question: Which learning rate is best?
base: {preset: tiny, data: {corpus: facts}}
search:
  train.lr: {loguniform: [1.0e-4, 1.0e-2]}
objective: {metric: val_loss, mode: min}
optimizer: {sampler: random, startup: 1, trials: 3, seed: 0}
tracking: {swanlab: disabled}
"""
"""The study that tests of `ablate.sweep` run."""


def tiniest(name: str, *, trials: int, tokens: int, report_every: int) -> str:
    """A search that the real trainer runs in seconds: a step takes about a millisecond."""
    return f"""
study: {name}
base:
  preset: tiny
  data: {{corpus: facts, facts_entities: 16}}
  model: {{dim: 16, n_layers: 1, n_heads: 2, vocab_size: 300, knowledge_num: 16, knowledge_dim: 8, num_selected: 2,
          max_seq_len: 32}}
  train: {{tokens: {tokens}, batch_size: 4, report_every: {report_every}, checkpoint_every: 1}}
  eval: {{val_tokens: 128, val_batch_size: 4, prompts: 2, prompt_tokens: 4, new_tokens: 4, fact_probes: 4}}
search: {{model.ema_decay: {{uniform: [0.5, 0.9]}}}}
optimizer: {{sampler: random, trials: {trials}}}
resources: {{cpu: 1, gpu: 0}}
tracking: {{swanlab: disabled}}
"""


TRAINER = trainers.load()
"""The built-in trainer."""

METRICS = TRAINER.description.metrics


def resolve(preset: str, overrides: Mapping[str, Any]) -> Config:
    """A configuration of the built-in trainer."""
    return TRAINER.resolve({"preset": preset, **overrides})


def wrapped(native: model.api.Config) -> Config:
    """A configuration of `model` as a configuration of `ablate`."""
    return TRAINER.read(native.model_dump_json())


def write(folder: Path, text: str = GOOD) -> Path:
    """Write `text` to folder/study.yaml."""
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, *sets: str, text: str = GOOD) -> StudySpec:
    """The study of `text` with `sets` over it."""
    return study_file.load(write(folder, text), sets)


def row(
    trial: Trial, *, status: Status = "completed", attempt: int = 1, metrics: Mapping[str, Any] | None = None
) -> TrialRow:
    """A trial's final row; by default completed with val_loss 2.0."""
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return TrialRow(
        study=trial.study,
        trial_id=trial.trial_id,
        arm=trial.arm,
        seed=trial.seed,
        status=status,
        error_kind=None if status in ("completed", "pruned") else "ValueError",
        error=None if status in ("completed", "pruned") else "it broke",
        config_json=trial.config.to_json(),
        params=trial.params,
        metrics={"val_loss": 2.0} if metrics is None else metrics,
        tokens_seen=4_096,
        budget_tokens=4_096,
        wall_s=2.5,
        attempt=attempt,
        started_at=now,
        finished_at=now,
        git_commit=None,
        data_hash="d" * 16,
        host="example",
        device="cpu",
        audited=trial.audited,
        predicted_peak_gib=trial.predicted_peak_gib,
        gpu_fraction=trial.gpu_fraction,
        code_hash=TRAINER.code_hash,
    )


def report(step: int, *, val_loss: float | None = None, losses: int = 2) -> Report:
    """The report at `step`, with 100 tokens a step; it covers `losses` steps."""
    return Report(
        step=step,
        tokens_seen=100 * step,
        budget_tokens=4_096,
        wall_s=0.5 * step,
        lr=1e-3,
        losses=[float(step)] * losses,
        metrics={} if val_loss is None else {"val_loss": val_loss},
    )
