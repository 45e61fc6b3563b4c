"""The command that trains one configuration: `python -m model.train --set preset=tiny --set model.memory=blind`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from model.api import check_data, train
from model.config import PATH_KEYS, Config, ConfigError, check_packages, check_processes, missing_files, resolve
from model.metrics import MOST_EPOCHS
from model.outcome import DataError, NonFiniteLoss, Report, Result, Verdict, full_disk

_SET = "set a key of the configuration, e.g. preset=tiny or model.memory=blind; repeatable"
_OUT = (
    "where checkpoints and samples go; default: results/single/ID, where ID follows from the configuration, so that the"
    " same command resumes"
)


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m model.train`."""
    made = argparse.ArgumentParser(
        prog="python -m model.train",
        description="Train one configuration by itself, without a study and without Ray.",
        epilog="example: python -m model.train --set preset=tiny --set model.memory=blind --set train.seed=3",
    )
    made.add_argument("--config", type=Path, metavar="FILE", help="YAML with dotted keys: `model.ema_decay: 0.95`")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=_SET)
    made.add_argument("--out", type=Path, metavar="DIR", help=_OUT)
    return made


def main(argv: list[str] | None = None) -> int:
    """The command. Exit 0 done, 1 the loss left the numbers, 2 bad input, 130 interrupted, or the disk is full."""
    arguments = parser().parse_args(argv)
    out: Path | None = arguments.out
    try:
        _check_folder()
        check_processes(os.environ)
        config = _read(arguments.config, arguments.set)
        check_packages(config)
        out = out or Path("results/single") / _id(config)
        for key, path in missing_files(config):
            raise ConfigError(key, path, "no such file", "give a path that exists")
        check_data(config)
        _make(out)
        with _interruptible() as asked:
            result = _train(config, out, asked=asked)
        if result.verdict is not Verdict.INTERRUPT and int(os.environ.get("RANK", "0")) == 0:
            print(json.dumps({"tokens_seen": result.tokens_seen, **result.metrics}, indent=2), flush=True)
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    except NonFiniteLoss as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader (`| head`) has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(full_disk(error), file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        return _interrupted(out)
    return _interrupted(out) if result.verdict is Verdict.INTERRUPT else 0


def _check_folder() -> None:
    """Raise ConfigError where the current folder was removed: torch's libraries end the process there, in no words that
    name the cause."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ConfigError("current folder", ".", "it does not exist any more", "change to one that exists") from None


def _interrupted(out: Path | None) -> int:
    from model.checkpoint import newest  # imports torch

    left = newest(out) if out is not None else None
    what = "no checkpoint was written" if left is None else f"the newest checkpoint is {left}"
    print(f"interrupted; {what}", file=sys.stderr)
    return 130


@contextmanager
def _interruptible() -> Iterator[Event]:
    """An event that the first Ctrl-C sets; the second raises KeyboardInterrupt. Where the process ignores Ctrl-C (as
    one in the background does), it still ignores it."""
    asked, before = Event(), signal.getsignal(signal.SIGINT)

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        # Not print, because the signal may interrupt a print.
        os.write(2, b"\nstopping at the next report, with a checkpoint; Ctrl-C again stops at once\n")

    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _make(out: Path) -> None:
    """Make the folder before training, so that a folder that cannot be written is an error at the start."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--out", out, f"no folder can be there ({error.strerror})", "give another") from error


def _train(config: Config, out: Path, *, asked: Event) -> Result:
    """Train with a progress bar on stderr, and write samples beside the checkpoints. Interrupts the run at the first
    report after `asked` was set."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
    first = os.environ.get("RANK", "0") == "0"
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not first) as bar:
        task = bar.add_task("starting", total=1.0)

        validated: list[float] = []

        def show(report: Report) -> Verdict:
            val = report.metrics.get("val_loss")
            validated.extend([val] if isinstance(val, float) else [])
            text = f"step {report.step}  ce {report.metrics['ce_loss']:.4f}"
            text += f"  val {val:.4f}" if isinstance(val, float) else ""
            text += f"  {report.metrics['tokens_per_s']:,.0f} tokens/s"
            bar.update(task, description=text, completed=report.tokens_seen / report.budget_tokens)
            if report.note and first:
                console.print(report.note, markup=False, highlight=False)
            return Verdict.INTERRUPT if asked.is_set() else Verdict.CONTINUE

        result = train(config, show, checkpoint_dir=out)
    if first and result.verdict is Verdict.CONTINUE:
        for caution in _cautions(result, validated):
            console.print(caution, markup=False, highlight=False)
    if first and result.verdict is Verdict.CONTINUE:
        (out / "samples.json").write_text(json.dumps(result.samples, indent=2, ensure_ascii=False), "utf-8")
    return result


def _cautions(result: Result, validated: list[float]) -> list[str]:
    """What makes the run's losses say less than they seem to. `validated`: val_loss at each report."""
    found, epoch = [], result.metrics.get("epoch_tokens")
    if isinstance(epoch, int) and result.tokens_seen > MOST_EPOCHS * epoch:
        found.append(f"caution: the run saw its training data {result.tokens_seen / epoch:.3g} times: it memorises")
    if validated and min(validated) < validated[-1]:
        low = f"{min(validated):.4f}, before it ended at {validated[-1]:.4f}"
        found.append(f"caution: val_loss was lowest, {low}: the run overfits, or its rate ends too high")
    return found


def _id(config: Config) -> str:
    """The name of a configuration's folder. Each has its own, so no run replaces the checkpoints of another."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]


def _read(path: Path | None, sets: list[str]) -> Config:
    """Merge the overrides of a file, then those of --set. `preset` is one of them, by default `tiny`."""
    overrides: dict[str, Any] = {}
    if path is not None:
        overrides |= _read_file(path)
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator:
            raise ConfigError("--set", item, "not KEY=VALUE", "write it like model.ema_decay=0.95")
        overrides[key] = _scalar(text)
    for key in PATH_KEYS:
        if isinstance(overrides.get(key), str):
            overrides[key] = str(Path(overrides[key]).absolute())
    return resolve(str(overrides.pop("preset", "tiny")), overrides)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        read = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # strings only: safe
    except UnicodeDecodeError as error:
        raise ConfigError("--config", path, f"not UTF-8 ({error.reason})", "save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError("--config", path, f"cannot be read ({error.strerror})", "give a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError("--config", path, "not YAML", "write it like `model.ema_decay: 0.95`") from error
    if not isinstance(read, dict):
        raise ConfigError("--config", path, "not a mapping", "write it like `model.ema_decay: 0.95`")
    return {str(key): _scalar(value) for key, value in read.items()}


def _scalar(text: str) -> Any:
    """The number that a text writes (`1e-4`, `50_000`), otherwise the text (`on` stays `on`)."""
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    return text


if __name__ == "__main__":
    sys.exit(main())
