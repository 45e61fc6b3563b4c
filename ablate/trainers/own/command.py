"""Runs the user's command as a process of its own, reads its reports, keeps its output, and stops it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ablate import escape
from ablate.trainers.own import emit, supervise
from ablate.trainers.own.files import search_path
from ablate.trainers.own.meters import Meters
from ablate.trainers.own.reporting import OWN_FOLDER, Reporting, WrongReport
from ablate.trainers.own.settings import PLACEHOLDER, Settings
from ablate.trainers.own.trial import Trial
from ablate.trainers.protocol import Verdict

STOP_S = 30.0
"""Seconds between SIGTERM and SIGKILL."""

_LAST_S = 5.0
"""Ray kills the children of a worker first and then the worker, which would meanwhile record an error that was none. So
where a command was killed this process waits for its own end."""

_LOOK_EVERY_S = 0.1
_LONGEST_LINE = 2**16  # bytes; the rest of a longer line is not read for reports
_KEPT = 2**21  # bytes of output that are kept at the start, and as many at the end

_OOM = re.compile(rb"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|RESOURCE_EXHAUSTED")


class CommandFailed(RuntimeError):
    """The command ended with an error. `out_of_memory`: it said that the GPU's memory was used up."""

    def __init__(self, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


def arguments(settings: Settings, trial: Trial) -> list[str]:
    """The template with its placeholders filled in. Numbers and texts are written as Python writes them."""
    values = {**trial.params, "seed": trial.seed, "data_seed": trial.data_seed, "budget": trial.budget}
    values["folder"] = trial.folder
    return [PLACEHOLDER.sub(lambda found: str(values[found[1]]), word) for word in settings.command]


def environment(trial: Trial, *, reports: Path, share: float) -> dict[str, str]:
    """The same values for a command that reads its environment. `share`: of the GPU's memory that PyTorch may take."""
    own = {
        "ABLATE_PARAMS": json.dumps(dict(trial.params)),
        "ABLATE_SEED": str(trial.seed),
        "ABLATE_DATA_SEED": str(trial.data_seed),
        "ABLATE_BUDGET": str(trial.budget),
        "ABLATE_FOLDER": str(trial.folder),
        "ABLATE_ATTEMPT": str(trial.attempt),
        emit.REPORTS: str(reports),
        "PYTHONUNBUFFERED": "1",  # a report that waits in a buffer stops no trial
        "PATH": search_path(),
    }
    allocator = "PYTORCH_CUDA_ALLOC_CONF"
    if 0 < share < 1 and allocator not in os.environ:
        own[allocator] = f"per_process_memory_fraction:{share}"
    return {**os.environ, **own}


def run(settings: Settings, trial: Trial, reporting: Reporting, *, at: Path, share: float, meters: Meters) -> None:
    """Run the command to its end. Raises CommandFailed where it fails, and what `Reporting.take` raises."""
    log = trial.folder / OWN_FOLDER / "output.log"
    channel = trial.folder / OWN_FOLDER / "reports.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    channel.unlink(missing_ok=True)
    channel.touch()
    sources = [_Lines(channel, begin=0)]
    if settings.reports.file is not None:
        written = trial.folder / settings.reports.file
        # What an earlier attempt wrote was taken then.
        sources.append(_Lines(written, begin=written.stat().st_size if written.is_file() else 0))
    reader = _Reader(settings, reporting)
    output = _Output()
    try:
        environ = environment(trial, reports=channel, share=share)
        with _started(arguments(settings, trial), at=at, environ=environ) as running:
            meters.root = running.pid
            meters.look()
            for piece in running.output():
                for line in output.take(piece):
                    if settings.reports.file is None:
                        reader.take(line, patterns=settings.reports.pattern)
                for source in sources:
                    for line in source.read():
                        reader.take(line, patterns=())
                if reader.is_over:
                    running.stop()
            ended = running.ended()
        for source in sources:
            for line in source.read():
                reader.take(line, patterns=())
    finally:
        output.write(log)
    if reader.wrong is not None:
        raise reader.wrong
    if reporting.verdict is Verdict.CONTINUE and ended.was_killed:
        time.sleep(_LAST_S)
    if reporting.verdict is Verdict.CONTINUE and ended.failed:
        raise CommandFailed(ended.message(output.last_line()), out_of_memory=bool(_OOM.search(output.tail)))


class _Reader:
    """Takes reports out of lines. A wrong one is kept, and the command is stopped for it."""

    def __init__(self, settings: Settings, reporting: Reporting) -> None:
        self._unit, self._reporting = settings.budget.unit, reporting
        self.wrong: Exception | None = None

    @property
    def is_over(self) -> bool:
        return self.wrong is not None or self._reporting.verdict is not Verdict.CONTINUE

    def take(self, line: bytes, *, patterns: tuple[str, ...]) -> None:
        """Take the report in a line, if there is one. Nothing after the command was told to stop."""
        if self.is_over:
            return
        try:
            found = _by_pattern(line, patterns, unit=self._unit) if patterns else _json(line, unit=self._unit)
            if found is not None:
                progress, metrics = found
                digest = str(metrics.pop("data_digest", ""))
                self._reporting.take(progress, metrics, digest=digest)
        except (WrongReport, ArithmeticError) as error:
            self.wrong = error


def _json(line: bytes, *, unit: str) -> tuple[Any, dict[str, Any]] | None:
    """A line that is a JSON object with the budget's unit, or `progress`, as a key."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    for key in (unit, "progress"):
        if isinstance(found, dict) and key in found:
            return found.pop(key), found
    return None


def _by_pattern(line: bytes, patterns: tuple[str, ...], *, unit: str) -> tuple[Any, dict[str, Any]] | None:
    text = line.decode("utf-8", errors="replace")
    for pattern in patterns:
        found = re.search(pattern, text)
        if found:
            values = {name: _number(value) for name, value in found.groupdict().items() if value is not None}
            return values.pop(unit), values
    return None


def _number(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        raise WrongReport(f"report: the pattern found {text[:40]!r}, which is not a number") from None


class _Lines:
    """The lines that are added to a file; a line counts when it has its end."""

    def __init__(self, path: Path, *, begin: int) -> None:
        self._path, self._at, self._rest = path, begin, b""

    def read(self) -> list[bytes]:
        """The new lines; none where there is no such file yet."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                new = file.read(2**22)
        except OSError:
            return []
        self._at += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        return lines


class _Output:
    """What the command printed: cut into lines, with the first and the last of its bytes kept."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = self._left_out = 0
        self._line = b""

    def take(self, piece: bytes) -> list[bytes]:
        """The lines that this piece ends."""
        self._keep(piece)
        *lines, self._line = (self._line + piece).split(b"\n")
        self._line = self._line[:_LONGEST_LINE]
        return lines

    def _keep(self, piece: bytes) -> None:
        room = _KEPT - len(self._head)
        self._head += piece[:room]
        if rest := piece[room:]:
            self._tail.append(rest)
            self._tail_bytes += len(rest)
        while self._tail_bytes > _KEPT and len(self._tail) > 1:
            gone = len(self._tail.popleft())
            self._tail_bytes, self._left_out = self._tail_bytes - gone, self._left_out + gone

    @property
    def tail(self) -> bytes:
        """The last 64 KiB."""
        return (bytes(self._head) if not self._tail else b"".join(self._tail))[-(2**16) :]

    def last_line(self) -> str:
        """The last line that is not empty: of a traceback, the error."""
        lines = [line for line in self.tail.decode("utf-8", errors="replace").splitlines() if line.strip()]
        return escape.one_line(lines[-1].strip(), limit=300) if lines else ""

    def write(self, path: Path) -> None:
        """Write the log."""
        left_out = f"\n[... {self._left_out:,} bytes are left out ...]\n".encode() if self._left_out else b""
        path.write_bytes(bytes(self._head) + left_out + b"".join(self._tail))


class _Ended:
    """How the command ended, as `supervise` says it."""

    def __init__(self, said: str) -> None:
        self._said = said.strip()

    @property
    def failed(self) -> bool:
        return not self._said.startswith("0 ")

    @property
    def was_killed(self) -> bool:
        """By SIGKILL, or its supervisor was."""
        return self._said == "" or self._said.startswith(f"{-signal.SIGKILL} ")

    def message(self, last_line: str) -> str:
        """In words, with the last line of its output."""
        if self._said.startswith("cannot "):
            return f"the command cannot be started: {self._said.removeprefix('cannot ')}"
        code = int(self._said.split()[0]) if self._said else -signal.SIGKILL
        if code >= 0:
            what = f"the command exited with status {code}"
        else:
            what = f"the command was killed by {signal.Signals(-code).name}"
            what += "; perhaps the memory was used up" if code == -signal.SIGKILL else ""
        return f"{what}: {last_line}" if last_line else what


class _Running:
    """A command that runs under `supervise`."""

    def __init__(self, process: subprocess.Popen[bytes], *, control: int, status: int) -> None:
        self._process, self._control, self._status, self._asked = process, control, status, False
        self.pid = process.pid

    def output(self) -> Iterator[bytes]:
        """What it prints, in pieces; an empty piece ten times a second where it prints nothing."""
        assert self._process.stdout is not None
        number = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(number, selectors.EVENT_READ)
            while True:
                piece = os.read(number, 2**16) if selector.select(_LOOK_EVERY_S) else None
                if piece == b"":
                    return
                yield piece or b""

    def stop(self) -> None:
        """Ask it to stop, once."""
        if not self._asked:
            self._asked = True
            with contextlib.suppress(OSError):
                os.write(self._control, b"T")

    def ended(self) -> _Ended:
        """How it ended."""
        said = b""
        while piece := os.read(self._status, 256):
            said += piece
        self._process.wait()
        return _Ended(said.decode())


@contextmanager
def _started(command: list[str], *, at: Path, environ: Mapping[str, str]) -> Iterator[_Running]:
    """The command under its supervisor. At the end of the context, however it comes, both are gone."""
    control_r, control_w = os.pipe()
    status_r, status_w = os.pipe()
    process = None
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", supervise.__file__, str(control_r), str(status_w), str(STOP_S), *command],
            cwd=at,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(control_r, status_w),
            start_new_session=True,
        )
        os.close(status_w)
        status_w = -1
        yield _Running(process, control=control_w, status=status_r)
    finally:
        os.close(control_w)
        for number in (control_r, status_r, status_w):
            if number >= 0:
                os.close(number)
        if process is not None:
            assert process.stdout is not None
            process.stdout.close()
            process.wait()
