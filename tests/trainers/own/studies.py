"""Studies of trainers that a user might write: a study file and scripts in a folder, run by the command."""

from __future__ import annotations

import textwrap
from pathlib import Path

from ablate import cli, sweep
from ablate.records.ledger import Ledger
from ablate.running.inline import InlineRunner
from ablate.running.runner import Halt
from ablate.running.trial import StudyContext
from ablate.spec import study_file
from ablate.study import lifecycle, phases

STUDY = """
study: own
trainer:
  {how}
  parameters: {{lr: 0.1, norm: layer}}
  budget: {{unit: steps, value: 40}}
  metrics:
    val_loss: {{better: min, unit: nats/token}}
    accuracy: {{better: max}}
{more}
tracking: {{swanlab: disabled}}
resources: {{gpu: 0}}
"""

SEARCH = "search: {lr: {choice: [0.1, 0.2]}}\noptimizer: {sampler: random, trials: 2}"

FUNCTION = "function: train:main"
COMMAND = "command: python train.py --lr={lr} --norm={norm} --seed={seed} --steps={budget} --out={folder}"

WALK = '''
    """A walk towards 3 that saves where it is, and then reports."""
    import json, os, random

    def main(trial):
        saved = trial.folder / "walk.json"
        step, x = json.loads(saved.read_text()) if saved.exists() else (0, random.gauss(0, 1))
        while step < trial.budget:
            step, x = step + 1, x - trial.params["lr"] * (x - 3) * (0.5 if trial.params["norm"] == "rms" else 1)
            if step % 10 == 0:
                saved.write_text(json.dumps([step, x]))
                trial.report(step, val_loss=(x - 3) ** 2, accuracy=1 / (1 + (x - 3) ** 2))
'''


def write(folder: Path, script: str, *, how: str = FUNCTION, more: str = SEARCH, **files: str) -> Path:
    """The study file, beside train.py and other files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"train": script, **files}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    path = folder / "own.yaml"
    path.write_text(STUDY.format(how=how, more=more), encoding="utf-8")
    return path


def run(path: Path, *flags: str) -> tuple[int, Ledger]:
    """Run the study in this process: the exit code, and its results."""
    results = path.parent / "results"
    code = cli.guarded(lambda: sweep.main([str(path), "--results", str(results), "--inline", *flags]))
    return code, Ledger(results / "own")


def train(path: Path) -> Ledger:
    """Train the study's trials, without the command and without a report."""
    study = study_file.load(path)
    ledger, _ = lifecycle.open_study(study, path.parent / "results", resume=False)
    context = StudyContext(ledger, swanlab="disabled", objective=study.objectives[0].metric, git_commit=None)
    runner = InlineRunner(context, halt=Halt(), on_event=lambda _: None)
    phases.run(study, ledger, runner=runner, halt=Halt(), say=lambda _: None)
    return ledger
