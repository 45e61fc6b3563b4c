"""A trainer as a function, without any library: a noisy walk down to the minimum of a parabola."""

import json
import random

import ablate


def main(trial: ablate.Trial) -> None:
    lr, momentum = trial.params["lr"], trial.params["momentum"]
    saved = trial.folder / "walk.json"
    if saved.exists():  # the trial was interrupted: go on where it was
        step, x, speed = json.loads(saved.read_text())
    else:
        step, x, speed = 0, random.Random(trial.seed).gauss(0, 3), 0.0
    while step < trial.budget:
        noise = random.Random(f"{trial.data_seed} {step}").gauss(0, 0.3)
        speed = momentum * speed - lr * (x + noise)
        step, x = step + 1, x + speed
        if step % 20 == 0 or step == trial.budget:
            saved.write_text(json.dumps([step, x, speed]))  # save, then report
            trial.report(step, height=x * x)
