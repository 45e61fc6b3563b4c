"""Checks a configuration's data before a run: each file is whole, and the tokenizer loses none of the text.

A tokenizer drops what it has no token for, and says nothing. So samples of the texts are encoded and decoded again.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from model.config import Config, ConfigError
from model.data.corpus import identity, text_samples

MOST_LOST = 0.01
"""Share of a text's characters that a tokenizer may lose."""

_CHARS = 2_000  # of a sampled text: bounds the time


def content_hash(config: Config) -> str:
    """The `data_hash` of the configuration, sixteen hex digits, after reading and checking every file.

    Raises DataError (file, line) for a broken file, ConfigError for a tokenizer that does not fit the model or loses
    more than MOST_LOST of a text.
    """
    for source, texts in text_samples(config):
        if config.data.tokenizer is not None:
            _check_tokenizer(config, texts, source=source, path=config.data.tokenizer)
    return identity(config)


def _check_tokenizer(config: Config, texts: Sequence[str], *, source: str, path: str) -> None:
    from model.data.tokenizer import given, using  # only where there is one

    tokenizer = given(path, vocab_size=config.model.vocab_size)
    with using(path):
        lost = lost_share([text[:_CHARS] for text in texts], round_trip=tokenizer.round_trip)
    if lost > MOST_LOST:
        rule = f"loses {lost:.1%} of the characters of {source}, when that is encoded and decoded again"
        hint = "give one with tokens for every character, such as a byte-level BPE, or leave data.tokenizer out"
        raise ConfigError("data.tokenizer", path, rule, hint)


def lost_share(texts: Sequence[str], *, round_trip: Callable[[Sequence[str]], list[str]]) -> float:
    """The share of the texts' characters that `round_trip` does not give back, from 0 to 1.

    Case, white space and compatible forms (NFKC) count as equal: many tokenizers change them on purpose.
    """
    before, after = ([_characters(text) for text in each] for each in (texts, round_trip(texts)))
    lost = sum((was - now).total() for was, now in zip(before, after, strict=True))
    return lost / max(1, sum(was.total() for was in before))


def _characters(text: str) -> Counter[str]:
    return Counter(char for char in unicodedata.normalize("NFKC", text).casefold() if not char.isspace())
