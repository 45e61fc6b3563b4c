"""Whether the inference keeps its word: coverage, family-wise error and power, simulated through the report's own code.

    python -m benchmarks.inference [--json] [--studies N] [--residuals PATH]

Every simulated study is a table of trials as the ledger has it, analysed by `ablate.analyze.paired.effects`: a baseline
and equal or better arms on shared seeds, with runs that failed or none. `best`: the baseline is the winner of a search,
picked by its search seed and trained again on fresh ones. Residuals are normal, or those of real runs (per-seed losses
of a study's arms, resampled seed by seed), where results/ has some; those are reported and held to no bound.

Sequential seeds are decided by `ablate.analyze.arms.sequential`, as a sweep decides them, and compared with the fixed
design that gives every arm the most seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ablate.analyze.arms import sequential
from ablate.analyze.arms.paired import effects
from ablate.analyze.arms.sequential import Claims
from ablate.analyze.basis.stats import detectable_effect, holm
from ablate.spec import spending
from ablate.spec.declared_test import ALPHA
from ablate.spec.designs import BASELINE
from ablate.spec.models import Objective
from ablate.spec.spending import Looks

LOSS = Objective(metric="val_loss", mode="min")
SIZES = (5, 8, 10)
ARMS = 6
COVERAGE, FWER, POWER = (0.935, 0.965), 0.06, 0.8
SHARED, OWN = 0.05, 0.01  # standard deviations: of a seed's difficulty, and of a run's own noise, nats a token
LOST = 0.1  # share of runs that fail where some do
WARM, SPREAD = 12, 0.02  # a search's trials, and the standard deviation of their true losses


@dataclass(frozen=True)
class Setting:
    """What is simulated. `plant`: the true effect of every arm, as a multiple of the mde stated for it."""

    n: int
    residuals: np.ndarray | None = None
    lost: float = 0.0
    best: bool = False
    plant: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Shares over the simulated studies. `coverage`: of arms whose t interval holds the true difference; `fwer`: of
    studies in which Holm's exact p rejects for any arm (of equal arms: the family-wise error); `found_t`: of arms found
    at 0.05 / arms by the t test that the mde is stated for; `found`: by the declared test, Holm's exact p."""

    coverage: float
    fwer: float
    found_t: float
    found: float
    pairs: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--studies", type=int, default=2_000, help="simulated studies for each line")
    parser.add_argument("--residuals", type=Path, default=Path("results/memory"), help="a study of real runs, or a CSV")
    arguments = parser.parse_args()
    lines = {name: simulate(setting, studies=arguments.studies) for name, setting in settings().items()}
    real = real_residuals(arguments.residuals)
    if real is None:
        print(f"{arguments.residuals}: no residuals of real runs there; normal ones only", file=sys.stderr)
    else:
        for n in SIZES:
            lines[f"real, n = {n}"] = simulate(Setting(n, residuals=real), studies=arguments.studies)
    blocks = {name: sequential_design(one, studies=arguments.studies) for name, one in sequential_settings().items()}
    broken = [*complaints(lines), *sequential_complaints(blocks)]
    if arguments.json:
        answer = {name: vars(line) for name, line in lines.items()}
        looks = {name: vars(block) for name, block in blocks.items()}
        found = {"studies": arguments.studies, "lines": answer, "sequential": looks, "broken": broken}
        print(json.dumps(found, indent=1))
    else:
        print(f"{'':<42}{'coverage':>10}{'FWER':>8}{'power (t)':>11}{'power (exact)':>15}{'pairs':>7}")
        for name, line in lines.items():
            row = f"{line.coverage:>10.3f}{line.fwer:>8.3f}{line.found_t:>11.3f}{line.found:>15.3f}{line.pairs:>7.1f}"
            print(f"{name:<42}{row}")
        head = "".join(f"{name:>8}" for name in ("FWER", "power", "fixed", "seeds", "runs"))
        print(f"\n{f'sequential seeds, looks at {LOOKS.sizes}':<52}{head}")
        for name, block in blocks.items():
            row = f"{block.fwer:>8.3f}{block.found:>8.3f}{block.found_fixed:>8.3f}{block.seeds:>8.1f}{block.runs:>8.2f}"
            print(f"{name:<52}{row}")
    for complaint in broken:
        print(complaint, file=sys.stderr)
    return 1 if broken else 0


def settings() -> dict[str, Setting]:
    """Every line of the table on normal residuals."""
    found: dict[str, Setting] = {}
    for n in SIZES:
        found[f"equal arms, n = {n}"] = Setting(n)
        found[f"equal arms, failed runs, n = {n}"] = Setting(n, lost=LOST)
        found[f"equal arms, baseline: best, n = {n}"] = Setting(n, best=True)
        found[f"effect of one mde, n = {n}"] = Setting(n, plant=1.0)
        found[f"effect of one mde, baseline: best, n = {n}"] = Setting(n, plant=1.0, best=True)
    return found


@dataclass(frozen=True)
class Block:
    """Shares over the simulated studies of ARMS arms. `fwer`: of studies in which an arm is decided (of equal arms: the
    family-wise error); `found`: of arms that are decided; `found_fixed`: of arms that Holm's exact p finds in the fixed
    design; `seeds`: mean of an arm; `runs`: of the baseline and all arms, over those of the fixed design."""

    fwer: float
    found: float
    found_fixed: float
    seeds: float
    runs: float


@dataclass(frozen=True)
class Noise:
    """What differs between the lines of the sequential table. `effect`: of every arm, in standard deviations of the
    paired differences; `tails`: degrees of freedom of Student's t, 0 for the normal distribution."""

    effect: float = 0.0
    tails: int = 0
    lost: float = 0.0


LOOKS = Looks(spending.sizes(first=8, most=28, step=4), ALPHA, first_seed=1)


def sequential_settings() -> dict[str, Noise]:
    """Every line of the sequential table."""
    return {
        "equal arms": Noise(),
        "equal arms, t with 3 degrees of freedom": Noise(tails=3),
        "equal arms, failed runs": Noise(lost=LOST),
        "effect of half a standard deviation": Noise(0.5),
        "effect of 1 standard deviation": Noise(1.0),
        "effect of 2 standard deviations": Noise(2.0),
    }


def sequential_design(noise: Noise, *, studies: int, seed: int = 0) -> Block:
    """So many studies, each decided look by look as a sweep decides, with all values at hand."""
    rng = np.random.default_rng(seed)
    names = [f"arm{index}" for index in range(ARMS)]
    claims = Claims(tuple((name, "val_loss") for name in names))
    wrong = found = fixed = seeds = runs = 0
    for _ in range(studies):
        values = _values(noise, rng, names)
        walk = sequential.walk({"val_loss": values}, claims=claims, looks=LOOKS, arms=names)
        taken = [walk.had(name)[-1] for name in names]
        wrong += bool(walk.decided)
        found += len(walk.decided)
        whole = [sequential.look_p(values, name, LOOKS.seeds(LOOKS.most)) for name in names]
        fixed += sum(p <= ALPHA for p in holm(whole))
        seeds += sum(taken)
        runs += sum(taken) + max(taken)
    arms = ARMS * studies
    return Block(wrong / studies, found / arms, fixed / arms, seeds / arms, runs / (arms + studies) / LOOKS.most)


def _values(noise: Noise, rng: np.random.Generator, names: list[str]) -> dict[str, dict[int, float]]:
    """Baseline and arms on the most seeds; the paired differences have a standard deviation of 1."""
    shape = (ARMS + 1, LOOKS.most)
    own_AS = rng.standard_normal(shape) if not noise.tails else rng.standard_t(noise.tails, shape)
    spread = np.sqrt(2 * (noise.tails / (noise.tails - 2) if noise.tails else 1.0))
    values_AS = 5 * rng.standard_normal(LOOKS.most) + own_AS / spread
    values_AS[1:] += noise.effect
    values_AS[rng.random(shape) < noise.lost] = np.nan
    return {
        name: dict(enumerate(row.tolist(), start=1)) for name, row in zip([BASELINE, *names], values_AS, strict=True)
    }


def sequential_complaints(blocks: dict[str, Block]) -> list[str]:
    """What does not hold of the sequential table. The bound leaves room for chance, as FWER does."""
    return [
        f"{name}: family-wise error {block.fwer:.3f} is not under {FWER}"
        for name, block in blocks.items()
        if name.startswith("equal") and block.fwer >= FWER
    ]


def complaints(lines: dict[str, Outcome]) -> list[str]:
    """What does not hold of the lines on normal residuals."""
    found = []
    for name, line in lines.items():
        if name.startswith("real"):
            continue
        if not COVERAGE[0] <= line.coverage <= COVERAGE[1]:
            found.append(f"{name}: coverage {line.coverage:.3f} is outside of {COVERAGE}")
        if name.startswith("equal") and line.fwer >= FWER:
            found.append(f"{name}: family-wise error {line.fwer:.3f} is not under {FWER}")
        if name.startswith("effect") and abs(line.found_t - POWER) > 0.02:
            found.append(f"{name}: power {line.found_t:.3f} is not the {POWER} that the mde is stated for")
    return found


def simulate(setting: Setting, *, studies: int, seed: int = 0) -> Outcome:
    """So many studies, each analysed as a report does."""
    rng = np.random.default_rng(seed)
    held = rejected = found_t = found = arms = pairs = 0
    for _ in range(studies):
        trials, truth = _study(setting, rng)
        analysed = effects(trials, objective=LOSS)
        rejected += any(effect.p_holm <= ALPHA for effect in analysed)
        for effect in analysed:
            arms += 1
            pairs += effect.n
            held += effect.difference.low <= truth <= effect.difference.high
            found_t += effect.p <= ALPHA / ARMS
            found += effect.p_holm <= ALPHA
    return Outcome(held / arms, rejected / studies, found_t / arms, found / arms, pairs / arms)


def _study(setting: Setting, rng: np.random.Generator) -> tuple[pd.DataFrame, float]:
    """A table of trials and the true difference of every arm."""
    n = setting.n
    truth = setting.plant * detectable_effect(OWN * np.sqrt(2), n=n, alpha=ALPHA / ARMS) if setting.plant else 0.0
    start = _winner(rng) if setting.best else 2.9
    if setting.residuals is None:
        shared_S, own_AS = rng.normal(0, SHARED, n), rng.normal(0, OWN, (ARMS + 1, n))
    else:
        shared_S, own_AS = np.zeros(n), _resampled(setting.residuals, rng, n)
    losses_AS = start + shared_S + own_AS
    losses_AS[1:] += truth
    names = [BASELINE, *(f"arm{index}" for index in range(ARMS))]
    lost_AS = rng.random(losses_AS.shape) < setting.lost
    trials = pd.DataFrame(
        {
            "arm": np.repeat(names, n),
            "seed": np.tile(np.arange(1, n + 1), len(names)),
            "status": np.where(lost_AS.ravel(), "nan", "completed"),
            "val_loss": np.where(lost_AS, np.nan, losses_AS).ravel(),
        }
    )
    return trials, truth


def _winner(rng: np.random.Generator) -> float:
    """The true loss of the search's best trial: picked by the noisy loss on the search's own seed, which flatters it,
    and judged on fresh seeds, which know nothing of that."""
    true = rng.normal(2.9, SPREAD, WARM)
    return float(true[np.argmin(true + rng.normal(0, OWN, WARM))])


def _resampled(residuals_RS: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """Equal arms out of real noise: for each seed a real seed's runs, dealt to the arms at random (so that no
    arm differs from another in truth)."""
    columns = residuals_RS[:, rng.integers(residuals_RS.shape[1], size=n)]
    rows = rng.permuted(np.tile(np.arange(len(columns)), (n, 1)), axis=1)
    return columns[rows[:, : ARMS + 1].T, np.arange(n)]


def real_residuals(path: Path) -> np.ndarray | None:
    """Rows: arms, columns: seeds; each arm's losses without its mean. A study's folder, or a CSV with columns arm,
    seed, val_loss. None where there is none, or fewer than ARMS + 1 arms share seeds."""
    if (path / "study.json").is_file():
        from ablate.study.dataset import read

        trials = read(path, whole=False).trials
        trials = trials[(trials["status"] == "completed") & (trials["arm"] != "search")]
    elif path.is_file():
        trials = pd.read_csv(path)
    else:
        return None
    table = pd.DataFrame(trials).pivot_table(index="arm", columns="seed", values="val_loss").dropna(axis=1)
    values_RS = np.asarray(table.to_numpy(dtype=float))
    residuals = values_RS - values_RS.mean(axis=1, keepdims=True)
    return residuals if len(residuals) > ARMS and residuals.shape[1] > 1 else None


if __name__ == "__main__":
    sys.exit(main())
