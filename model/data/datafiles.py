"""Parses the files of a corpus. Every error names the file, the line, the rule and a hint.

Imports neither torch nor tokenizers, so that a study can check its data before it starts.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.config import ConfigError
from model.data.facts import Fact
from model.outcome import DataError

PAD, START, EOS = "<unk>", "<|im_start|>", "<|im_end|>"
"""The special tokens that every tokenizer must have."""

_LINE_HINT = 'each line must be {"text": "..."}'
_KNOWLEDGE_HINT = 'give a list of {"target": [{"sentence": ...}]} or of {"sentence": ...}'


def read_documents(path: str) -> Iterator[str]:
    """The texts of a JSONL file (also `.gz`), one after the other. Skips blank lines.

    Raises DataError for a file that cannot be read or holds no document, and for a line that is not JSON, has no
    "text", or whose text is empty, not a string, or not encodable.
    """
    number = 0
    found = False
    try:
        with gzip.open(path, "rb") if path.endswith(".gz") else Path(path).open("rb") as lines:
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
    text = _read_text(path)
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DataError(path, line, f"not JSON ({error})", _KNOWLEDGE_HINT) from error
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
    text = _read_text(path)
    hint = "give the tokenizer.json that Hugging Face's tokenizers writes"
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(path, error.lineno, f"not JSON ({error})", hint) from error
    try:
        vocabulary = content["model"]["vocab"]
        # Unigram lists its pieces in the order of their ids; every other model maps a token to its id.
        of_token = {piece: i for i, (piece, _) in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
        special = {token["content"]: token["id"] for token in content["added_tokens"]}
        size = max((*of_token.values(), *special.values())) + 1
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(path, 1, "not a tokenizer with a vocabulary and added tokens", hint) from error
    missing = [token for token in (PAD, START, EOS) if token not in special]
    if missing:
        rule = f"has no special token {' '.join(missing)}"
        raise ConfigError("data.tokenizer", path, rule, "add it to its added_tokens, or leave data.tokenizer out")
    if size > vocab_size:
        rule = f"has {size} token ids, model.vocab_size is {vocab_size}"
        raise ConfigError("data.tokenizer", path, rule, f"set model.vocab_size to {size} or more")
    return text


def file_digest(path: str) -> str:
    """The sha256 of a file's bytes, in hex. Raises DataError where it cannot be read."""
    try:
        with Path(path).open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


class _MalformedError(ValueError):
    """A fact breaks a rule; the caller knows its file and line."""


def _text_of(line: bytes, *, path: str, number: int) -> str:
    try:
        item = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(path, number, f"not UTF-8 ({error.reason})", "save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(path, number, f"not JSON ({error})", _LINE_HINT) from error
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


def _read_text(path: str) -> str:
    try:
        content = gzip.decompress(Path(path).read_bytes()) if path.endswith(".gz") else Path(path).read_bytes()
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(path, line, f"not UTF-8 ({error.reason})", "save the file as UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken_gzip(path, 1, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error


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
