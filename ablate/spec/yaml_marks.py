"""Reads YAML into a plain tree that remembers the line of every key.

Scalars follow YAML 1.2: `1e-4` (a text to PyYAML) and `50_000` are numbers; `on`, `off`, `yes`, `no` and `none` are
texts. Whatever has a meaning that a reader must guess is refused: aliases, duplicate keys, tags, several documents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ablate.errors import BadInput
from ablate.trainers.section import EXACT

DEPTH = 32
"""Most levels of a file's tree; a study needs five."""

SIZE = 2**18
"""Most bytes of a file. Reading takes about a second for 100,000 bytes, and any file may be given."""

_INT = re.compile(r"[-+]?[0-9][0-9_]{0,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class Document:
    """A study file: a tree of mappings, lists and scalars, and the place of each dotted key."""

    name: str
    tree: dict[str, Any]
    places: dict[str, str]
    """Dotted key -> `file:line`, or `--set`. A dotted key and the same nested keys have one name here."""

    def place(self, key: str) -> str:
        """The place of `key` or of the first key inside it; else of its nearest parent; else line 1."""
        for known, place in self.places.items():
            if known == key or known.startswith(f"{key}."):
                return place
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return self.places[key] if key else f"{self.name}:1"


def read(path: Path) -> Document:
    """Read a file that holds one mapping. Raises BadInput with file and line."""
    name = str(path)
    try:
        with path.open("rb") as file:
            written = file.read(SIZE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(name, "", "", f"cannot be read ({why})", "give the path of a study file") from None
    if len(written) > SIZE:
        raise BadInput(name, "", "", f"longer than {SIZE:,} bytes", "give the path of a study file")
    try:
        text = written.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(name, "", "", "not UTF-8 text", "save it as UTF-8") from None
    node = _compose(text, name)
    hint = "write `key: value` lines; see search_spaces/ for examples"
    if node is None:
        raise BadInput(f"{name}:1", "", "", "empty", hint)
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise BadInput(_line(name, node), "", "", f"{kind}, not a mapping", hint)
    walker = _Walker(name)
    tree = walker.mapping(node, "")
    return Document(name, tree, walker.places)


def value(text: str, *, place: str) -> Any:
    """The value that `text` has in a study file and in `--set KEY=text`. Raises BadInput at `place`."""
    node = _compose(text, place, lines=False)
    walker = _Walker(place, lines=False)
    return None if node is None else walker.value(node, "")


def _compose(text: str, name: str, *, lines: bool = True) -> yaml.Node | None:
    # _Shallow is a BaseLoader, which makes no objects and leaves every plain scalar a text; `_scalar` reads it.
    try:
        return yaml.compose(text, Loader=_Shallow)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark and lines else name
        raise BadInput(place, "", "", f"not YAML ({error.problem or error.context})", "check the line") from None
    except yaml.YAMLError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error, yaml.reader.ReaderError) else 1
        place = f"{name}:{line}" if lines else name
        raise BadInput(place, "", "", f"not YAML ({str(error).splitlines()[0]})", "save it as plain text") from None


class _Shallow(yaml.BaseLoader):
    """A BaseLoader that stops at DEPTH levels, before Python's stack overflows or a quadratic scan takes long."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As BaseLoader's."""
        if self._depth > DEPTH:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEPTH} levels deep", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _line(name: str, node: yaml.Node) -> str:
    return f"{name}:{node.start_mark.line + 1}"


class _Walker:
    """Turns nodes into values and records the place of every key."""

    def __init__(self, name: str, *, lines: bool = True) -> None:
        self._name, self._lines = name, lines
        self._seen: set[int] = set()
        self.places: dict[str, str] = {}

    def value(self, node: yaml.Node, key: str) -> Any:
        if id(node) in self._seen:  # for an alias, the composer returns the node of the anchor
            raise BadInput(self._place(node), key, "*", "YAML aliases are not supported", "write the value out")
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{key}.{index}") for index, item in enumerate(node.value)]
        return self._scalar(node, key)

    def mapping(self, node: yaml.MappingNode, parent: str) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise BadInput(self._place(key_node), parent, "", "a key that is not text", "write `key: value`")
            name = key_node.value
            self._check_text(key_node, parent, name)
            key = f"{parent}.{name}" if parent else name
            if key in self.places:
                hint = f"keep one of them (the other is at {self.places[key]})"
                raise BadInput(self._place(key_node), key, _brief(value_node), "duplicate key", hint)
            self.places[key] = self._place(key_node)
            tree[name] = self.value(value_node, key)
        return tree

    def _scalar(self, node: yaml.Node, key: str) -> Any:
        text = str(node.value)
        if not text.isprintable():
            self._check_text(node, key, text)
        if node.tag != yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG:
            raise BadInput(self._place(node), key, text, f"has a tag ({node.tag})", "write the plain value")
        if getattr(node, "style", None) is not None:  # quoted, or a block
            return text
        read = _plain(text)
        if isinstance(read, int) and abs(read) > EXACT:
            raise BadInput(self._place(node), key, text, "too large to be exact", f"give {EXACT:,} at most")
        return read

    def _check_text(self, node: yaml.Node, key: str, text: str) -> None:
        """Refuse characters that files, terminals or C libraries cannot take: NUL and lone surrogates (`"\\ud800"`)."""
        for char in text:
            if char == "\0" or "\ud800" <= char <= "\udfff":
                raise BadInput(self._place(node), key, f"U+{ord(char):04X}", "not a character of text", "remove it")

    def _place(self, node: yaml.Node) -> str:
        return _line(self._name, node) if self._lines else self._name


def _plain(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def _brief(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""
