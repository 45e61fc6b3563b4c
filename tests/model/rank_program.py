"""What the tests of several ranks start in every process: twenty steps, and what each rank then holds, to its own file.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.model.rank_program FOLDER fp64 fp32

`fp32/1` is fp32, interrupted once, into the folder FOLDER/interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.api import Report, Verdict, resolve
from model.trainer import Trainer

STEPS = 20
OVERRIDES = {
    "model.ema_update_freq": 2,
    "train.seed": 1,  # at the default, 42, fp32 meets a near tie (docs/log.md)
    "train.accumulation_steps": 2,
    "train.tokens": STEPS * 8 * 64,
    "train.report_every": 5,
    "train.checkpoint_every": 100,
    "eval.val_tokens": 512,
}


def run(folder: Path, precision: str, *, engine: str = "ddp", interrupts: int = 0) -> None:
    """Train, and write `PRECISION-rank-R.safetensors`: the weights, `bank.tokens_NL`, and `losses` of every step.

    The run is stopped at its last report: there is nothing to measure. It is interrupted at each of its first
    `interrupts` reports, and gone on with.
    """
    losses: list[float] = []
    left = interrupts

    def report(now: Report) -> Verdict:
        nonlocal left
        losses.extend(now.losses)
        if left:
            left -= 1
            return Verdict.INTERRUPT
        return Verdict.STOP if now.step == STEPS else Verdict.CONTINUE

    config = resolve("tiny", {**OVERRIDES, "train.precision": precision, "train.engine": engine})
    for _ in range(interrupts):
        Trainer(config, checkpoint_dir=folder / precision).run(report)
    trainer = Trainer(config, checkpoint_dir=folder / precision)
    trainer.run(report)
    folder.mkdir(parents=True, exist_ok=True)
    held = {name: tensor.contiguous() for name, tensor in trainer.model.state_dict().items()}
    rank = os.environ.get("RANK", "0")
    save_file(
        {**held, "losses": torch.tensor(losses, dtype=torch.float64)}, folder / f"{precision}-rank-{rank}.safetensors"
    )


if __name__ == "__main__":
    for wanted in sys.argv[2:]:
        precision, _, interrupts = wanted.partition("/")
        place = Path(sys.argv[1]) / ("interrupted" if interrupts else "")
        run(place, precision, interrupts=int(interrupts or 0))
