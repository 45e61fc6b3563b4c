"""Kills a study at random moments, again and again, and checks that nothing was lost.

    python -m benchmarks.chaos [--json] [--kills N] [--quick] [--seed S]

A study (a search, then an ablation of its winner) is swept in lives: a life begins with the command (`--resume`), loses
up to two of its processes (a trial's Tune actor, which is its Train controller, its worker, a node's raylet), and ends
with the death of its driver. Lives take place in turn on a cluster of three nodes and on a private Ray, whose only
raylet takes the driver along. More than two losses a life would rightly make a trial `lost`. After the last kill the
study is completed, and the following must hold, or the exit code is 1:

- every planned trial has exactly one final record, and completed;
- the bytes of every record that was final at a kill are as they were;
- no placement group and no process is left;
- no driver ended by itself before the study was done, but for those whose only raylet was killed;
- the ablation's tables equal those of a run that nobody disturbed, but for times and what derives from them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._same_tables import differences
from benchmarks.instruments import victims
from benchmarks.instruments.nodes import cluster, standing
from benchmarks.instruments.victims import MARK, Kind

ROOT = Path(__file__).parents[1]
OTHERS: tuple[Kind, ...] = ("trial", "worker", "raylet")
MOST_A_LIFE = 2
"""Losses between two deaths of a driver: as many as a trial is tried again after."""

TOKENS_A_REPORT = 4 * 8 * 64
"""Steps, sequences, tokens of the study below."""

BOUND_S = 600.0
"""Nothing of a life takes longer, on a machine that others use too."""

STUDY = """\
study: {name}
base:
  preset: tiny
  data: {{corpus: facts, facts_entities: 32}}
  model: {{dim: 64, n_layers: 2, vocab_size: 512, knowledge_num: 256}}
  train: {{tokens: {tokens}, report_every: 4, checkpoint_every: 2}}
  eval: {{val_tokens: 1_024, prompts: 4, new_tokens: 8, fact_probes: 8}}
search: {{train.lr: {{loguniform: [1.0e-3, 1.0e-2]}}}}
optimizer: {{sampler: sobol, trials: {trials}, seed: 0}}
ablation:
  baseline: best
  seeds: {seeds}
  exploratory: true
  arms: {{blind: {{model.memory: blind}}}}
resources: {{cpu: 1, gpu: 0, workers: 1}}
tracking: {{swanlab: disabled}}
"""


@dataclass
class Run:
    """A study under attack. `root` holds its results and, as its temporary folder, every Ray that it starts."""

    root: Path
    study: Path
    dice: random.Random
    address: str
    node: Any
    """Starts a node of the cluster; called where one was killed."""
    head: int
    """The pid of the head's raylet."""
    gap: int
    """Reports of trials between two kills, at most: on a fast machine the study would be done before the last one."""
    private: bool = False
    final: dict[Path, bytes] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    driver: subprocess.Popen[str] | None = None
    crashed: list[str] = field(default_factory=list)

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def folder(self) -> Path:
        return self.results / self.study.stem

    def sweep(self, *flags: str) -> subprocess.Popen[str]:
        """The command, in a session of its own; its output goes to a file."""
        self.lives += 1
        resume = ["--resume"] if (self.folder / "study.json").exists() else []
        where = [] if self.private else ["--address", self.address]
        command = [sys.executable, "-m", "ablate.sweep", str(self.study), "--results", str(self.results)]
        with (self.root / f"life-{self.lives}.log").open("w") as log:
            self.driver = subprocess.Popen(
                [*command, *resume, *where, *flags], stdout=log, stderr=log, text=True, start_new_session=True
            )
        return self.driver

    def note(self) -> None:
        """Remember every record that is final now."""
        for path in (self.folder / "trials").glob("*.parquet"):
            self.final.setdefault(path, path.read_bytes())

    def live(self, losses: list[Kind]) -> bool:
        """One life: these losses, then the driver's death. False where the study was done before that."""
        driver = self.sweep()
        for kind in losses:
            self._pause(driver)
            victim = self._victim(kind, driver)
            if victim is None:
                break
            self.note()
            # A node of the cluster goes with all that runs on it; a private Ray's agents are the next start's to end.
            if victims.kill(victim, with_children=kind == "raylet" and not self.private):
                self.kills[kind] += 1
                _say(f"life {self.lives}: killed a {kind} ({victim.pid})")
            if kind == "raylet" and not self.private:
                self.node()
        self._pause(driver)
        self.note()
        code = driver.poll()
        if code is None:
            driver.kill()
            self.kills["driver"] += 1
            _say(f"life {self.lives}: killed the driver")
        elif code and not (self.private and "raylet" in losses):
            said = (self.root / f"life-{self.lives}.log").read_text().splitlines()[-1:]
            self.crashed.append(f"life {self.lives}: exit {code}: {said}")
            _say(self.crashed[-1])
        driver.wait()
        return code != 0

    def _pause(self, driver: subprocess.Popen[str]) -> None:
        """A random while, or a random number of reports if they come sooner; shorter where the driver ends."""
        from ablate.records.ledger import Ledger

        def reports() -> int:
            return Ledger(self.folder).history(columns=["step"], repeats=True).num_rows

        end, most = time.monotonic() + self.dice.uniform(0.0, 30.0), reports() + self.dice.uniform(0.0, self.gap)
        while time.monotonic() < end and reports() <= most and driver.poll() is None:
            time.sleep(0.1)

    def _victim(self, kind: Kind, driver: subprocess.Popen[str]) -> Any:
        """A process of this kind, as soon as there is one; None where the driver ends before."""
        end = time.monotonic() + BOUND_S
        while driver.poll() is None and time.monotonic() < end:
            # In a life on the cluster the private Ray of the life before may still be dying: not worth a kill.
            found = victims.find(kind, root=self.root / "ray" if not self.private else self.root, spare=self.head)
            found = [one for one in found if not self.private or str(self.root / "ray") not in _session(one)]
            if found:
                return self.dice.choice(sorted(found, key=lambda process: process.pid))
            time.sleep(0.05)
        return None


def attack(run: Run, *, kills: int) -> dict[str, Any]:
    """So many kills, then an undisturbed life to the end, then what must hold."""
    began_s = time.monotonic()
    others: list[Kind] = [kind for _ in range(kills // len(OTHERS) + 1) for kind in OTHERS]
    run.dice.shuffle(others)
    while run.kills.total() < kills and not run.crashed:
        run.private = run.lives % 2 == 1
        room = min(run.dice.randint(0, MOST_A_LIFE), kills - run.kills.total() - 1)
        losses: list[Kind] = [others.pop() for _ in range(min(room, len(others)))]
        if not run.live(losses):
            _say("the study was done before all kills were made")
            break
    run.private = False
    last = run.sweep("--json")
    code = last.wait(timeout=BOUND_S + 60 * kills)  # about as many trials are left
    return {
        "kills": run.kills.total(),
        "by_kind": dict(run.kills),
        "lives": run.lives,
        "crashed": run.crashed,
        "exit": code,
        "seconds": round(time.monotonic() - began_s, 1),
        **verdict(run),
    }


def verdict(run: Run) -> dict[str, Any]:
    """What the study's folder says after the last life."""
    from ablate.records.ledger import Ledger
    from ablate.study import study_json

    ledger = Ledger(run.folder)
    rows = ledger.rows()
    planned = study_json.parse(ledger.read_study(), place=ledger.place).planned
    changed = [path.name for path, content in run.final.items() if not path.exists() or path.read_bytes() != content]
    ends = Counter(row.status for row in rows)
    return {
        "planned": planned,
        "records": len({row.trial_id for row in rows}),
        "ends": dict(ends),
        "final_at_a_kill": len(run.final),
        "changed": changed,
        "most_attempts": max((row.attempt for row in rows), default=0),
        "exactly_once": len(rows) == len({row.trial_id for row in rows}) == planned == ends["completed"],
    }


def undisturbed(run: Run) -> Path:
    """The same study without Ray and without a kill; its folder."""
    command = [sys.executable, "-m", "ablate.sweep", str(run.study), "--inline", "--results", str(run.root / "calm")]
    with (run.root / "calm.log").open("w") as log:
        # One thread, as a worker of one CPU has: sums in another order would differ in their last bits.
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=True)
    return run.root / "calm" / run.study.stem


def _session(process: Any) -> str:
    """The command line of the raylet that a process belongs to, or of itself."""
    import psutil

    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return " ".join(words) if words[0].endswith("/raylet") else " ".join(process.parent().cmdline())
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="trials of seconds, for the tests")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="c-", ignore_cleanup_errors=True) as folder:
        found = measure(Path(folder), kills=arguments.kills, quick=arguments.quick, seed=arguments.seed)
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"{name:<16} {value}" for name, value in found.items()))
    return 0 if found["held"] else 1


def measure(root: Path, *, kills: int, quick: bool, seed: int) -> dict[str, Any]:
    """Everything, below `root`: the attack, the calm run, what is left."""
    # Its own token, temporary folder and mark, for this process and all that it starts.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "TMPDIR": str(root)}
    os.environ |= {MARK: str(root), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    tempfile.tempdir = None
    tokens, trials, seeds = (60_000, 1, 2) if quick else (100_000, 2, max(2, kills // 2))
    trials_planned = trials + 2 * seeds  # the baseline and an arm on every seed
    study = root / "chaos.yaml"
    study.write_text(STUDY.format(name="chaos", tokens=tokens, trials=trials, seeds=seeds), encoding="utf-8")
    with cluster(root) as (address, add, head):
        # Ray has taken SIGTERM for itself, and would leave the driver behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        gap = trials_planned * tokens // TOKENS_A_REPORT // (kills + 1)
        run = Run(root, study, random.Random(seed), address, node=add, head=head, gap=gap)
        try:
            found = attack(run, kills=kills)
            found["groups_left"] = standing(address)
        finally:
            if run.driver is not None:
                run.driver.kill()
    end = time.monotonic() + 30.0
    while (remain := victims.left(root)) and time.monotonic() < end:
        time.sleep(0.2)
    found["processes_left"] = [f"{one.pid} {' '.join(words)[:80]}" for one, words in remain]
    for process, _ in remain:
        victims.kill(process)
    found["tables_differ"] = differences(run.folder, undisturbed(run))
    found["held"] = (
        found["exit"] == 0
        and found["exactly_once"]
        and not any(found[name] for name in ("crashed", "changed", "groups_left", "processes_left", "tables_differ"))
    )
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
