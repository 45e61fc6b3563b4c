"""`--set KEY=VALUE` sets one value of a study file on the command line.

KEY is a dotted path in the file's tree (`optimizer.trials`, `base.data.corpus`, `search.model.ema_decay`); VALUE is
read like a value of the file.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ablate.errors import BadInput
from ablate.spec import yaml_marks
from ablate.spec.yaml_marks import Document
from ablate.trainers.recorded import flatten

PLACE = "--set"

DOTTED = ("base", "search")
"""Sections whose keys may have dots: `base: {model.dim: 64}`."""


def apply(document: Document, sets: Sequence[str]) -> Document:
    """The document with every `KEY=VALUE` set; a later one replaces an earlier one. Raises BadInput at `--set`."""
    tree, places = copy.deepcopy(document.tree), dict(document.places)
    for text in sets:
        key, equals, written = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise BadInput(PLACE, text, "", "not KEY=VALUE", "write it like --set optimizer.trials=4")
        if key.count(".") > yaml_marks.DEPTH:
            raise BadInput(PLACE, key, "", "nested too deeply", "write it like --set optimizer.trials=4")
        value = yaml_marks.value(written, place=PLACE)
        section, _, rest = key.partition(".")
        if rest and section in DOTTED:
            _put_dotted(tree, section, rest, value)
        else:
            _put(tree, key, value)
        places = {known: place for known, place in places.items() if not _within(known, key)} | {key: PLACE}
    return Document(document.name, tree, places)


def _put_dotted(tree: dict[str, Any], section: str, key: str, value: Any) -> None:
    """Set a key of `base` or `search`, whether the file nests it or writes it with dots."""
    written = tree.setdefault(section, {})
    if not isinstance(written, dict):
        return  # the reader reports the section that is not a mapping
    flat = flatten({key: value}) if section == "base" else {key: value}
    known = flatten(written) if section == "base" else written
    tree[section] = {**known, **flat}


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a key of another section. Keys of the tree may have dots, so the longest one that begins `key` is entered."""
    if key not in tree:
        for known in sorted(tree, key=len, reverse=True):
            if key.startswith(f"{known}.") and isinstance(tree[known], dict):
                return _put(tree[known], key[len(known) + 1 :], value)
        head, _, rest = key.partition(".")
        if rest and (head not in tree or tree[head] is None):
            tree[head] = {}
            return _put(tree[head], rest, value)
    tree[key] = value
    return None


def _within(key: str, parent: str) -> bool:
    return key == parent or key.startswith(f"{parent}.")
