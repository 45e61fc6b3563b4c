"""Parses the files of a corpus. Every error names the file, the line, the rule and a hint.

Imports neither torch nor tokenizers, so that a study can check its data before it starts.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from model.config import ConfigError
from model.data.facts import Fact
from model.outcome import DataError

PAD, START, EOS = "<unk>", "<|im_start|>", "<|im_end|>"
"""The special tokens of a tokenizer that is trained here."""

EOS_TOKENS = (EOS, "</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>")
PAD_TOKENS = (PAD, "<pad>", "<|pad|>", "[PAD]", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""What ends a text, and what fills a row: the first of these that is among a tokenizer's added tokens. MiniMind's
tokenizers, for one, end a text with `<|im_end|>` and pad with `<unk>` or, where they have none, `<|endoftext|>`."""

_LINE_HINT = 'each line must be {"text": "..."}'
_ONE_LIST = "it is one JSON list", "write one object a line, for example with jq -c '.[]'"
_KNOWLEDGE_HINT = 'give a list of {"target": [{"sentence": ...}]} or of {"sentence": ...}'


def read_documents(path: str) -> Iterator[str]:
    """The texts of a JSONL file (also `.gz`), one after the other. Skips blank lines.

    Raises DataError for a file that cannot be read or holds no document, and for a line that is not JSON, has no
    "text", or whose text is empty, not a string, or not encodable.
    """
    number = 0
    found = False
    try:
        with _open(path, packed=path.endswith(".gz")) as lines:
            for number, line in enumerate(lines, start=1):
                if line.isspace():
                    continue
                yield _text_of(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, path=path, number=number)
                found = True
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken_gzip(path, number + 1, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not found:
        raise DataError(path, 1, "no documents", _LINE_HINT)


def read_knowledge(path: str) -> tuple[Fact, ...]:
    """The facts of a knowledge base: a JSON list of `{"target": [FACT, ...]}` or of FACT, where FACT is
    `{"sentence", "subject", "predicate", "object"}`; only the sentence is required. Raises DataError."""
    text, items = _read_json(path, hint=_KNOWLEDGE_HINT)
    if not isinstance(items, list) or not items:
        raise DataError(path, 1, "not a list of facts", _KNOWLEDGE_HINT)
    facts: list[Fact] = []
    for index, item in enumerate(items):
        try:
            wrapped = isinstance(item, dict) and "target" in item
            facts += [_parse_fact(fact) for fact in (_target(item) if wrapped else [item])]
        except _MalformedError as error:
            raise DataError(path, _line_of(text, index), f"item {index + 1}: {error}", _KNOWLEDGE_HINT) from None
    return tuple(facts)


def read_tokenizer(path: str, *, vocab_size: int) -> str:
    """The checked JSON of a Hugging Face tokenizer. Raises DataError where the file is no tokenizer, ConfigError where
    it lacks a special token or has ids that `vocab_size` rows of an embedding do not cover."""
    hint = "give the tokenizer.json that Hugging Face's tokenizers writes"
    text, content = _read_json(path, hint=hint)
    try:
        vocabulary = content["model"]["vocab"]
        # Unigram lists its pieces in the order of their ids; every other model maps a token to its id.
        of_token = {piece: i for i, (piece, _) in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
        special = {token["content"]: token["id"] for token in content["added_tokens"]}
        size = max((*of_token.values(), *special.values())) + 1
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(path, 1, "not a tokenizer with a vocabulary and added tokens", hint) from error
    for purpose, tokens in (("ends a text", EOS_TOKENS), ("pads", PAD_TOKENS)):
        if first_of(tokens, special) is None:
            rule = f"has no special token that {purpose}"
            hint = f"add one of {' '.join(tokens)} to its added_tokens, or leave data.tokenizer out"
            raise ConfigError("data.tokenizer", path, rule, hint)
    if size > vocab_size:
        rule = f"has {size} token ids, model.vocab_size is {vocab_size}"
        raise ConfigError("data.tokenizer", path, rule, f"set model.vocab_size to {size} or more")
    return text


def first_of(tokens: Iterable[str], special: Iterable[str]) -> str | None:
    """The first of `tokens` that is among `special`."""
    there = set(special)
    return next((token for token in tokens if token in there), None)


def file_digest(path: str) -> str:
    """The sha256 of a file's bytes, in hex. Raises DataError where it cannot be read."""
    try:
        with _open(path, packed=False) as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


class _MalformedError(ValueError):
    """A fact breaks a rule; the caller knows its file and line."""


def _text_of(line: bytes, *, path: str, number: int) -> str:
    try:
        item = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.doc[: error.pos].endswith("\r"):
            rule, hint = "its lines end in CR alone", "end them in LF, for example with tr '\\r' '\\n'"
            raise DataError(path, number, rule, hint) from error
        if number == 1 and line.split() == [b"["]:
            raise DataError(path, number, *_ONE_LIST) from error
        raise _not_json(path, number, line, error, hint=_LINE_HINT) from error
    if number == 1 and isinstance(item, list) and any(isinstance(each, dict) for each in item):
        raise DataError(path, number, *_ONE_LIST)
    if not isinstance(item, dict) or "text" not in item:
        raise DataError(path, number, 'no "text"', _LINE_HINT)
    text = item["text"]
    if not isinstance(text, str):
        raise DataError(path, number, f'"text" is not a string but {_JSON_NAMES[type(text)]}', _LINE_HINT)
    if not text or text.isspace():
        raise DataError(path, number, '"text" is empty', "remove the line, or give it a text")
    if not _encodable(text):
        raise DataError(path, number, '"text" has half a surrogate pair', "write the character as UTF-8")
    return text


def _target(item: dict[str, Any]) -> list[Any]:
    if not isinstance(item["target"], list) or not item["target"]:
        raise _MalformedError('"target" is not a list of facts')
    return item["target"]


def _parse_fact(item: Any) -> Fact:
    if not isinstance(item, dict) or "sentence" not in item:
        raise _MalformedError('no "sentence"')
    parts = {name: item[name] for name in ("sentence", "subject", "predicate", "object") if item.get(name) is not None}
    for name, part in parts.items():
        if not isinstance(part, str):
            raise _MalformedError(f'"{name}" is not a string but {_JSON_NAMES[type(part)]}')
        if not _encodable(part):
            raise _MalformedError(f'"{name}" has half a surrogate pair')
    if "sentence" not in parts or not parts["sentence"].strip():
        raise _MalformedError('"sentence" is empty')
    return Fact(**parts)


def _read_json(path: str, *, hint: str) -> tuple[str, Any]:
    """(text, value) of a JSON file, also `.gz`. Raises DataError."""
    try:
        with _open(path, packed=path.endswith(".gz")) as file:
            content = file.read().removeprefix(codecs.BOM_UTF8)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken_gzip(path, 1, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        text = content.decode("utf-8")
        return text, json.loads(text)
    except (ValueError, RecursionError) as error:
        line = 1
        if isinstance(error, UnicodeDecodeError):
            line = content.count(b"\n", 0, error.start) + 1
        elif isinstance(error, json.JSONDecodeError):
            line = error.lineno
        raise _not_json(path, line, content, error, hint=hint) from error


def _open(path: str, *, packed: bool) -> BufferedReader | gzip.GzipFile:
    """Open a file to read its bytes; unpack them where it is `packed`. Raises OSError.

    Raises DataError for a pipe or a device: opening one may wait for ever, and each trial reads the file again.
    """
    mode = Path(path).stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a folder is an OSError
        what = "a pipe" if stat.S_ISFIFO(mode) else "no ordinary file"
        raise DataError(path, 1, f"is {what}, which cannot be read again and again", "write its content to a file")
    return gzip.open(path, "rb") if packed else Path(path).open("rb")


@dataclass(frozen=True)
class _Format:
    """A kind of file that is no text in UTF-8: `begin` stands in it at byte `at`."""

    what: str
    begin: bytes
    hint: str
    at: int = 0


_ENCODE, _UNPACK = "save the file as UTF-8", "unpack it"
_TABLE = "write its texts as JSON lines, for example with pandas: to_json(NAME, orient='records', lines=True)"
_EXPORT = "write its texts to a file of JSON in UTF-8"

_FORMATS = (
    _Format("UTF-32 text", codecs.BOM_UTF32_LE, _ENCODE),  # before UTF-16, whose mark its mark begins with
    _Format("UTF-32 text", codecs.BOM_UTF32_BE, _ENCODE),
    _Format("UTF-16 text", codecs.BOM_UTF16_LE, _ENCODE),
    _Format("UTF-16 text", codecs.BOM_UTF16_BE, _ENCODE),
    _Format("gzip data", b"\x1f\x8b", _UNPACK),
    _Format("zstd data", b"\x28\xb5\x2f\xfd", _UNPACK),
    _Format("lz4 data", b"\x04\x22\x4d\x18", _UNPACK),
    _Format("bzip2 data", b"BZh", _UNPACK),
    _Format("xz data", b"\xfd7zXZ\0", _UNPACK),
    _Format("a zip archive", b"PK\3\4", _UNPACK),
    _Format("a 7z archive", b"7z\xbc\xaf\x27\x1c", _UNPACK),
    _Format("a tar archive", b"ustar", _UNPACK, at=257),
    _Format("a Parquet table", b"PAR1", _TABLE),
    _Format("an Arrow table", b"ARROW1", _TABLE),
    _Format("an SQLite database", b"SQLite format 3\0", _EXPORT),
    _Format("a NumPy array", b"\x93NUMPY", _EXPORT),
    _Format("a PDF", b"%PDF-", _EXPORT),
)


def _not_json(path: str, line: int, content: bytes, error: Exception, *, hint: str) -> DataError:
    """The error of bytes that are not JSON in UTF-8, with its cause. `content`: those of the line, or of the file."""
    found = next((each for each in _FORMATS if line == 1 and content.startswith(each.begin, each.at)), None)
    if found is not None:
        named = ", or let its name end in .gz" if found.what == "gzip data" and not path.endswith(".gz") else ""
        return DataError(path, line, f"it is {found.what}", found.hint + named)
    if b"\0" in content:
        return DataError(path, line, "it is UTF-16 or UTF-32 text, or no text at all (it has zero bytes)", _ENCODE)
    if isinstance(error, UnicodeDecodeError):
        return DataError(path, line, f"not UTF-8 ({error.reason})", _ENCODE)
    return DataError(path, line, f"not JSON ({error})", hint)


def _broken_gzip(path: str, line: int, error: Exception) -> DataError:
    return DataError(path, line, f"not a whole gzip file ({error})", "compress or download it again")


def _unreadable(path: str, error: OSError) -> DataError:
    return DataError(path, 1, f"cannot be read ({error.strerror or error})", "check the path")


def _encodable(text: str) -> bool:
    """Whether UTF-8 can encode the text. JSON can spell half a surrogate pair, which no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _line_of(text: str, index: int) -> int:
    """The line on which item `index` of a JSON list begins."""
    decoder = json.JSONDecoder()
    place = text.index("[") + 1
    for skipped in range(index + 1):
        while text[place].isspace() or text[place] == ",":
            place += 1
        if skipped < index:
            _, place = decoder.raw_decode(text, place)
    return text.count("\n", 0, place) + 1
