"""The live table in terminals of several widths, and the words of an estimate."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from ablate import formatting
from ablate.running.live import View
from ablate.running.progress import StudyProgress
from ablate.running.runner import Event, Progress
from ablate.spec.models import Objective
from ablate.trials.trial import Trial
from tests.fakes import fake_trial
from tests.study_files import row

CELLS = ("knowledge_length-4.ema_update_freq-20", "knowledge_length-4.ema_update_freq-5")


def shown(*, width: int, arms: tuple[str, str] = ("token_random", "search")) -> list[str]:
    """The lines of the live table: one trial has ended, one runs."""
    ended, running = (
        Trial(f"{seed:012x}", study="s", arm=arm, seed=seed, config=fake_trial(0).config, params=PARAMS)
        for seed, arm in enumerate(arms)
    )
    progress = StudyProgress(Objective(metric="val_loss", mode="min"), planned=80)
    for trial in (ended, running):
        progress.add(Event(trial, "started"), now_s=time.monotonic() - 30)
    end = row(ended, metrics={"val_loss": 2.5, "ce_loss": 2.25})
    progress.add(Event(ended, "ended", row=end), now_s=time.monotonic())
    now = Progress(tokens_seen=400, budget_tokens=1000, wall_s=1.0, loss=3.25, value=3.125, warning="")
    progress.add(Event(running, "reported", progress=now), now_s=time.monotonic())
    console = Console(file=io.StringIO(), width=width, color_system=None, soft_wrap=True)
    with console.capture() as captured:
        console.print(View(progress, console=console)._table())
    return captured.get().splitlines()


PARAMS = {"model.ema_decay": 0.912345, "model.knowledge_length": 8.0, "train.balance_loss_coef": 0.01, "train.lr": 1e-3}


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_loss_arm_state_and_time_left_are_readable(width: int) -> None:
    lines = shown(width=width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for part in ("token_random", "completed", "2.250", "2.500", "search", "40%", "3.250", "3.125", "left"):
        assert part in text, part


NAMES = {
    "wide": ("词元记忆的长名字之一号组", "词元记忆的长名字之二号组"),
    "long": ("a" * 300 + "1", "a" * 300 + "2"),
    "an escape": ("a\x1b[2Jb1", "a\nb2"),
    "markup": ("[red]b1[/red]", "[/]b2"),
}


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("names", NAMES)
def test_names_of_any_kind_leave_the_numbers_readable(names: str, width: int) -> None:
    """At 40 columns too, where the names of arms are cut. Wide characters take two columns each."""
    lines = shown(width=width, arms=NAMES[names])
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    for part in ("completed", "2.250", "2.500", "40%", "3.250", "3.125", "left"):
        assert part in text, part
    assert text.isprintable() or text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "variables", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "xterm", "COLUMNS": "40"}, {}]
)
def test_an_ended_trial_has_its_line_in_every_terminal(variables: dict[str, str]) -> None:
    """A terminal that is none (TERM=dumb, a pipe) gets no control sequences; NO_COLOR gets no colours."""
    stream = io.StringIO()
    terminal = variables.get("TERM") == "xterm"
    console = Console(file=stream, highlight=False, soft_wrap=True, force_terminal=terminal, _environ=variables)
    trial = Trial("0" * 12, study="s", arm="blind", seed=1, config=fake_trial(0).config, params=PARAMS)
    with View(StudyProgress(Objective(metric="val_loss", mode="min"), planned=1), console=console) as view:
        view.on_event(Event(trial, "started"))
        view.on_event(Event(trial, "ended", row=row(trial, metrics={"val_loss": 2.5})))
    text = stream.getvalue()
    assert "[1/1] 000000000000 blind seed 1 completed val_loss 2.500 after 4,096 tokens, 2.5 s" in text
    if not terminal:
        assert "\x1b" not in text
    if "NO_COLOR" in variables:
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]", text), "no colour"


def test_what_is_less_needed_goes_first() -> None:
    assert "train" not in "\n".join(shown(width=200))
    assert "balance_loss_coef=0.01" in "\n".join(shown(width=200))
    at_80 = "\n".join(shown(width=80))
    assert "000000000001" in at_80
    assert "ema_decay=0.9…" in at_80, "parameters are cut before anything is left out"
    at_60 = "\n".join(shown(width=60))
    assert "ema_decay" not in at_60
    assert "000000000001" not in at_60
    assert "40% of budget" in at_60


@pytest.mark.parametrize("width", [60, 80])
def test_names_of_cells_are_cut_where_they_do_not_differ(width: int) -> None:
    lines = shown(width=width, arms=CELLS)
    assert max(map(len, lines)) <= width
    assert any(line.startswith("knowledge") and "freq-20 " in line for line in lines)
    assert any(line.startswith("knowledge") and "freq-5 " in line for line in lines)


def test_the_lowest_value_over_arms_and_seeds_is_not_called_best() -> None:
    assert "best" not in "\n".join(shown(width=120, arms=("blind", "baseline")))
    assert "best val_loss 2.500" in "\n".join(shown(width=120, arms=("search", "search")))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0076, "under a second"), (0.0, "under a second"), (7.3, "about 7 s"), (59.7, "about 1 min 0 s"),
     (200.4, "about 3 min 20 s"), (7_500, "about 2 h 5 min")],
)  # fmt: skip
def test_an_estimate_is_in_whole_seconds(seconds: float, words: str) -> None:
    assert formatting.roughly(seconds) == words
