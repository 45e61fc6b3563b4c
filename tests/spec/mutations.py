"""Mutations that break study files: of their bytes, their text and their tree."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

from tests import ROOT
from tests.study_files import GOOD

SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))

WHOLE = GOOD + (
    "question: How high?\n"
    "objective: {metric: val_loss, mode: min}\n"
    "ablation:\n"
    "  baseline: best\n"
    "  seeds: 3\n"
    "  match: flops\n"
    "  exploratory: true\n"
    "  tune_each_arm: {trials: 2, over: [train.lr]}\n"
    "  arms:\n"
    "    none: {model.memory: none}\n"
    "    noise: {reseed: true}\n"
    "  leave_one_out: {ema: {model.ema: off}}\n"
    "  add_one_in: {refresh: {model.refresh: frequency}}\n"
    "hypotheses:\n"
    "  - {claim: it helps, arm: none, metric: val_loss, min_effect: 0.01}\n"
    "targets: {val_loss: 2.5}\n"
    "resources: {cpu: 1, gpu: 0, workers: 1}\n"
    "tracking: {swanlab: disabled}\n"
)
"""A small study with every section."""

NUMBERS = (
    "0", "-1", "1.5", "1e400", "-1e400", ".nan", "nan", ".inf", "inf", "-.inf", "1e-400", "9" * 40, "9" * 5_000,
    "1e300", "1e18", "9007199254740993", "0x10", "0o17", "1_000_000_000", "1e9", "999999937", "12:30", "1.", "+5",
    "1__0", "0.5e",
)  # fmt: skip
"""Numbers, and texts that look like numbers."""

WORDS = (
    "~", "null", "true", "yes", "'", '"', "[]", "{}", "[[]]", "{a: {b: c}}", "tpe", "../..", "/etc/passwd", "a/b",
    "a\\b", "=cmd", "<b>", "$x^2$", "\\input{x}", '"\\e[31m"', '"\\0"', '"\\ud800"', "'\u202e'", "\u0645\u0631", "🌊",
    "x" * 300, "~nobody-here/x", "''", "|\n  two\n  lines", "x" * 5_000 + ".jsonl", "latest", "best", "baseline",
    "2026-11-24", "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!binary aGk=", "!mine x",
    "&a x", "*a", "<<",
)  # fmt: skip
"""Values that replace another value."""

INSERTS = (
    "\t", "\r", "\0", "\x1b[31m", "\u2028", "\ufeff", "\x85", ":", "- ", "? ", "#", "&a ", "*a", "{", "}", "[", "]",
    ",", "'", '"', "|", ">", "%", "@", "`", "---\n", "...\n", "%YAML 1.2\n", "<<: *a\n", "!!python/object:os.system ",
)  # fmt: skip
"""Strings that are inserted into a text."""

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)
"""The billion laughs attack: 33 million texts if aliases were expanded."""


@st.composite
def bytes_of_files(draw: st.DrawFn) -> bytes:
    """A good study file after up to five mutations."""
    text = draw(st.sampled_from([GOOD, WHOLE, *(path.read_text(encoding="utf-8") for path in SHIPPED)]))
    for _ in range(draw(st.integers(0, 2))):
        text = draw(st.sampled_from(_OF_TREES))(draw, text)
    for _ in range(draw(st.integers(0, 2))):
        text = draw(st.sampled_from(_OF_TEXTS))(draw, text)
    data = text.encode("utf-8", "surrogatepass")
    return draw(st.sampled_from(_OF_BYTES))(draw, data) if draw(st.integers(0, 3)) == 0 else data


@st.composite
def settings(draw: st.DrawFn) -> str:
    """The argument of a `--set`, well formed or not."""
    key = draw(
        st.sampled_from(_KEYS) | st.text(max_size=12) | st.sampled_from((".", "a" + ".b" * 3_000, "search.", ""))
    )
    value = draw(st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.text(max_size=20) | st.just("[" * 3_000))
    return f"{key}{draw(st.sampled_from(('=', '=', '=', '', '==', ' = ')))}{value}"


_KEYS = (
    "study", "question", "base", "base.preset", "base.model.dim", "base.model.knowledge_num",
    "base.model.memory_layers", "base.model.n_layers", "base.train.tokens", "base.train.batch_size", "base.train.seed",
    "base.data.train", "base.model", "base.data.corpus", "search", "search.model.ema_decay", "search.model.dim",
    "search.train.lr", "objective", "resources", "objective.metric", "optimizer.trials", "optimizer.startup",
    "optimizer.seed", "optimizer.sampler", "ablation.seeds", "early_stopping.asha.min_tokens",
    "early_stopping.audit_fraction", "ablation.arms.a", "ablation", "hypotheses", "targets", "resources.cpu",
    "resources.gpu", "resources.workers", "tracking.swanlab",
)  # fmt: skip


# ---- the text


def _drop(draw: st.DrawFn, text: str) -> str:
    start = draw(st.integers(0, max(0, len(text) - 1)))
    return text[:start] + text[start + draw(st.integers(1, 40)) :]


def _insert(draw: st.DrawFn, text: str) -> str:
    start = draw(st.integers(0, len(text)))
    return text[:start] + draw(st.sampled_from(INSERTS) | st.text(max_size=5)) + text[start:]


def _swap_lines(draw: st.DrawFn, text: str) -> str:
    lines = text.split("\n")
    one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines)


def _repeat_line(draw: st.DrawFn, text: str) -> str:
    lines = text.split("\n")
    line = lines[draw(st.integers(0, len(lines) - 1))]
    lines.insert(draw(st.integers(0, len(lines))), line)
    return "\n".join(lines)


def _indent(draw: st.DrawFn, text: str) -> str:
    lines = text.split("\n")
    index = draw(st.integers(0, len(lines) - 1))
    lines[index] = draw(st.sampled_from((" ", "  ", "\t", "    "))) + lines[index]
    return "\n".join(lines)


def _other_ends(draw: st.DrawFn, text: str) -> str:
    return text.replace("\n", draw(st.sampled_from(("\r\n", "\r", "\n\n", "\u2028", "\x85"))))


def _deep(draw: st.DrawFn, text: str) -> str:
    depth = draw(st.sampled_from((5, 100, 400, 3_000)))
    opening, closing = draw(st.sampled_from((("[", "]"), ("{a: ", "}"), ("- ", ""))))
    key = draw(st.sampled_from(("question", "base", "targets", "hypotheses", "deep")))
    return f"{text}{key}: {opening * depth}x{closing * depth}\n"


def _laugh(draw: st.DrawFn, text: str) -> str:
    return LAUGHS + text if draw(st.booleans()) else f"{text}base: &b {{model: *b}}\n"


_OF_TEXTS: tuple[Callable[[st.DrawFn, str], str], ...] = (
    _drop, _insert, _insert, _swap_lines, _repeat_line, _indent, _other_ends, _deep, _laugh,
)  # fmt: skip


# ---- the tree


def _tree(text: str) -> Any:
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return (
        [path, *(place for key, value in inner for place in _places(value, (*path, key)))] if len(path) < 20 else [path]
    )


class _Dumper(yaml.SafeDumper):
    """Writes texts without quotes, so that the reader decides what they are."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style=""))


def _changed(draw: st.DrawFn, text: str, change: Callable[[Any, Any], None]) -> str:
    tree = _tree(text)
    places = _places(tree)[1:] if isinstance(tree, dict) else []
    if not places:
        return text
    tree = copy.deepcopy(tree)
    place = draw(st.sampled_from(places))
    parent = tree
    for key in place[:-1]:
        parent = parent[key]
    change(parent, place[-1])
    written = yaml.dump(tree, Dumper=_Dumper, allow_unicode=True, width=10_000, sort_keys=False)
    return re.sub(r"""["']?⟦(.*)⟧["']?""", r"\1", written)


def _another_value(draw: st.DrawFn, text: str) -> str:
    value = draw(st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.text(max_size=20))
    marked = (
        f"⟦{value}⟧" if "\n" not in value and value.isprintable() else value
    )  # the marks are removed, with any quotes

    def change(parent: Any, key: Any) -> None:
        parent[key] = marked

    return _changed(draw, text, change)


def _another_type(draw: st.DrawFn, text: str) -> str:
    kind = draw(st.sampled_from(("list", "mapping", "none", "empty list", "empty mapping", "text", "many")))

    def change(parent: Any, key: Any) -> None:
        value = parent[key]
        parent[key] = {
            "list": [value, value], "mapping": {"a": value}, "none": None, "empty list": [], "empty mapping": {},
            "text": str(value)[:200], "many": [str(number) for number in range(3_000)],
        }[kind]  # fmt: skip

    return _changed(draw, text, change)


def _another_key(draw: st.DrawFn, text: str) -> str:
    name = draw(st.sampled_from(WORDS) | st.sampled_from(_KEYS) | st.text(max_size=12))

    def change(parent: Any, key: Any) -> None:
        value = parent[key]
        if isinstance(parent, dict):
            del parent[key]
            parent[name] = value
        else:
            parent[key] = {name: value}

    return _changed(draw, text, change)


def _gone(draw: st.DrawFn, text: str) -> str:
    def change(parent: Any, key: Any) -> None:
        del parent[key]

    return _changed(draw, text, change)


_OF_TREES: tuple[Callable[[st.DrawFn, str], str], ...] = (
    _another_value, _another_value, _another_value, _another_type, _another_key, _gone,
)  # fmt: skip


# ---- the bytes


def _other_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    start = draw(st.integers(0, len(data)))
    return data[:start] + draw(st.binary(min_size=1, max_size=4)) + data[start + draw(st.integers(0, 3)) :]


def _half(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: draw(st.integers(0, len(data)))]


def _other_encoding(draw: st.DrawFn, data: bytes) -> bytes:
    encoding = draw(st.sampled_from(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "utf-7")))
    return data.decode("utf-8", "replace").encode(encoding, "replace")


def _nothing_but(draw: st.DrawFn, data: bytes) -> bytes:  # noqa: ARG001 - the signature of the others
    return draw(
        st.binary(max_size=60) | st.sampled_from((b"", b"\n", b"\0" * 900, b"\xff\xfe", b"\x1f\x8b\x08", b"PAR1"))
    )


_OF_BYTES: tuple[Callable[[st.DrawFn, bytes], bytes], ...] = (
    _other_bytes,
    _other_bytes,
    _half,
    _other_encoding,
    _nothing_but,
)
