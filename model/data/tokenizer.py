"""Text to token ids and back: a given Hugging Face tokenizer, or a byte-level BPE trained on the corpus and cached."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from model.config import Config
from model.config import cache_dir as default_cache
from model.data import language
from model.data.corpus import Documents
from model.data.datafiles import EOS, EOS_TOKENS, PAD, PAD_TOKENS, START, first_of, read_tokenizer
from model.data.facts import Answer
from model.data.token_documents import TokenDocuments, end_documents, join
from model.outcome import DataError

# A trial owns `train.threads` cores, and the library would take all of the machine. A user may set it to "true".
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_TRAINER = "byte-level BPE, pairs seen twice at least, 1"  # changes with what `_train` does: part of the cache's key
_BATCH = 8_192  # texts encoded at a time: bounds the memory of the library's own result objects


@dataclass(frozen=True)
class Spans:
    """Encoded texts with the place of each token, flat over M texts. `ids`: int32 [tokens]; `text`: int64 [tokens], the
    token's text; `begin`, `end`: int64 [tokens], its characters `text[begin:end]`."""

    ids: NDArray[np.int32]
    text: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]


class Tokenizer:
    """A thin wrapper of tokenizers.Tokenizer that adds no special tokens, truncates nothing and pads nothing.

    A special token that a text spells out is that token: corpora in chat format rely on it.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.no_truncation()  # a tokenizer.json may have a length limit, which would cut documents silently
        inner.no_padding()
        self._inner = inner
        self.eos_id = self._first_of(EOS_TOKENS)
        self.pad_id = self._first_of(PAD_TOKENS)
        self.size: int = max(inner.get_vocab(with_added_tokens=True).values()) + 1
        """Every id is below this, which may be less than the model's vocab_size."""

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that `to_json` described."""
        return cls(tokenizers.Tokenizer.from_str(text))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_one(self, text: str) -> list[int]:
        """The ids of one text."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_documents(self, texts: Sequence[str]) -> TokenDocuments:
        """All texts, each ended by EOS, in four bytes a token."""
        batches = (texts[i : i + _BATCH] for i in range(0, len(texts), _BATCH))
        return join(end_documents(self.encode(batch), eos_id=self.eos_id) for batch in batches)

    def encode_corpus(self, texts: Sequence[str], answers: Sequence[Answer]) -> TokenDocuments:
        """`encode_documents`; where `answers` are known, each token of an object gets its fact's number."""
        documents = self.encode_documents(texts)
        if not answers:
            return documents
        spans = self.encode_spans(texts)
        begin_D, end_D, fact_D = np.array([(each.begin, each.end, each.fact) for each in answers]).T
        inside_P = (spans.begin < end_D[spans.text]) & (spans.end > begin_D[spans.text])
        facts = np.full(len(documents.ids), -1, dtype=np.int32)
        place_P = np.arange(len(spans.text)) + spans.text  # every text before has an EOS
        facts[place_P[inside_P]] = fact_D[spans.text[inside_P]]
        return TokenDocuments(documents.ids, documents.starts, facts)

    def encode_spans(self, texts: Sequence[str]) -> Spans:
        """The ids of each text, and which characters each token covers (with or without a leading space)."""
        encodings = self._inner.encode_batch(list(texts), add_special_tokens=False)
        places = [place for encoding in encodings for place in encoding.offsets]
        spans_P2 = np.array(places, dtype=np.int64).reshape(-1, 2)
        return Spans(
            ids=np.array([i for encoding in encodings for i in encoding.ids], dtype=np.int32),
            text=np.repeat(np.arange(len(encodings)), [len(encoding.ids) for encoding in encodings]),
            begin=spans_P2[:, 0],
            end=spans_P2[:, 1],
        )

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no character become U+FFFD."""
        return self._inner.decode(list(ids), skip_special_tokens=skip_special)

    def decode_rows(self, rows_ML: NDArray[np.int32]) -> list[str]:
        """The text of each of M rows of ids, special tokens spelt out."""
        return self._inner.decode_batch(rows_ML.tolist(), skip_special_tokens=False)

    def round_trip(self, texts: Sequence[str]) -> list[str]:
        """The texts, encoded and decoded again."""
        return self._inner.decode_batch(self.encode(texts), skip_special_tokens=False)

    def to_json(self) -> str:
        """Hugging Face's tokenizer.json."""
        return self._inner.to_str()

    def save(self, path: Path) -> None:
        """Write `to_json` to `path`."""
        path.write_text(self.to_json(), encoding="utf-8")

    def _first_of(self, tokens: Sequence[str]) -> int:
        special = {token.content: i for i, token in self._inner.get_added_tokens_decoder().items()}
        found = first_of(tokens, special)
        assert found is not None, f"a checked tokenizer has one of {tokens}"
        return special[found]


def load_or_train(config: Config, documents: Documents, *, cache_dir: Path | None = None) -> Tokenizer:
    """The tokenizer of `data.tokenizer`, or a byte-level BPE of at most `model.vocab_size` tokens, cached once trained.

    It is trained on the training documents and the knowledge base, never on validation text. On `facts` it is trained
    on the language and not on the world, so that trials of all seeds share it. `cache_dir` is by default
    $XDG_CACHE_HOME (~/.cache) / ablate/tokenizers. Raises DataError or ConfigError where the user's tokenizer is broken
    or does not fit.
    """
    data, vocab_size = config.data, config.model.vocab_size
    if data.tokenizer is not None:
        return given(data.tokenizer, vocab_size=vocab_size)
    if data.corpus == "facts":
        texts = language.reference_texts(
            relations=data.facts_relations, object_count=data.facts_objects, openings=data.facts_openings
        )
    else:
        texts = [*documents.train, *(fact.sentence for fact in documents.knowledge)]
    key = _key(texts, vocab_size=vocab_size)
    folder = default_cache("tokenizers") if cache_dir is None else cache_dir
    if folder is None:  # a user without a home
        return _train(texts, vocab_size=vocab_size)
    path = folder / f"{key}.json"
    cached = _read_cache(path, key=key)
    if cached is not None:
        return Tokenizer.from_json(cached)
    trained = _train(texts, vocab_size=vocab_size)
    try:
        _write_cache(path, trained.to_json(), key=key)
    except OSError as error:
        warnings.warn(f"{path}: tokenizer not cached ({error}); every trial trains it again", stacklevel=2)
    return trained


def given(path: str, *, vocab_size: int) -> Tokenizer:
    """The tokenizer of a tokenizer.json. Raises DataError or ConfigError where it is broken or does not fit."""
    text = read_tokenizer(path, vocab_size=vocab_size)
    with using(path):
        return Tokenizer.from_json(text)


@contextmanager
def using(path: str) -> Iterator[None]:
    """Turn the errors of the library, which has no type for them, into a DataError of the tokenizer's file."""
    try:
        yield
    except Exception as error:  # the library is Rust, and raises plain Exception for all that it cannot do
        rule = f"tokenizers {tokenizers.__version__} cannot use it ({' '.join(str(error).split())[:200]})"
        raise DataError(path, 1, rule, "write it with this version, or leave data.tokenizer out") from error


def _train(texts: Sequence[str], *, vocab_size: int) -> Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # a pair seen once is a name that does not recur
        special_tokens=[PAD, START, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # every byte, so that no text is unknown
        show_progress=False,
    )
    inner.train_from_iterator(_in_batches(texts), trainer=trainer)
    return Tokenizer(inner)


def _in_batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for i in range(0, len(texts), _BATCH):
        yield texts[i : i + _BATCH]


def _key(texts: Sequence[str], *, vocab_size: int) -> str:
    digest = hashlib.sha256(f"{_TRAINER}/{tokenizers.__version__}/{vocab_size}/{len(texts)}".encode())
    for text in texts:
        content = text.encode()
        digest.update(f"/{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def _read_cache(path: Path, *, key: str) -> str | None:
    """The cached tokenizer.json; None where there is none, or where it is not what was written under this key."""
    try:
        digest, _, text = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return text.decode() if digest == _seal(text, key=key) else None


def _write_cache(path: Path, text: str, *, key: str) -> None:
    """Write a temporary file, then rename it: trials that start at the same time see a complete file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_seal(content, key=key) + b"\n" + content)
        Path(part).replace(path)
    except OSError:
        Path(part).unlink(missing_ok=True)
        raise


def _seal(content: bytes, *, key: str) -> bytes:
    """The first line of a valid cache file."""
    return hashlib.sha256(key.encode() + content).hexdigest().encode()
