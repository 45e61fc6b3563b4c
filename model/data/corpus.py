"""The documents, knowledge base and probes of a run's corpus, samples of them, and the hash that identifies them.

Three corpora: `facts` (a synthetic world, see facts.py), `pydoc` (the language reference that every CPython carries)
and `jsonl` (the user's files). Imports neither torch nor tokenizers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pydoc_data.topics import topics

from model.config import PATH_KEYS, Config, DataConfig, value_of
from model.data import facts
from model.data.datafiles import file_digest, read_documents, read_knowledge
from model.data.facts import Answer, Fact, Probe
from model.outcome import DataError

_PYDOC_CHARS = 300  # a `pydoc` document is as many whole paragraphs as reach this length
_SAMPLED_ENTITIES = 64
_SAMPLED_TEXTS = 512  # a sample has at least so many texts of a file that has more


@dataclass(frozen=True)
class Documents:
    """`train` and `val` share no text, unless the user's own files do. `data_hash` identifies the data of a study. It
    leaves out the seed: on `facts` the seed draws the world, and one study has trials of many seeds. On `facts`
    `train_answers` and `val_answers` say where each text has its object; elsewhere they are empty."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    knowledge: tuple[Fact, ...]
    probes: tuple[Probe, ...]
    data_hash: str
    train_answers: tuple[Answer, ...] = ()
    val_answers: tuple[Answer, ...] = ()


def load_documents(config: Config) -> Documents:
    """Read or make the corpus. A knowledge file, where one is given, replaces the corpus's own facts.

    Raises DataError (file, line) for a broken file.
    """
    documents = _LOADERS[config.data.corpus](config)
    if config.data.knowledge is not None:
        documents = replace(documents, knowledge=read_knowledge(config.data.knowledge))
    return documents


def text_samples(config: Config) -> Iterator[tuple[str, list[str]]]:
    """(file or corpus, a sample of its texts) for all that a run encodes. Reads and checks each file whole; raises
    DataError (file, line) for a broken one. Unlike `load_documents`, it does not hold a large corpus in memory."""
    data = config.data
    if data.corpus == "facts":
        yield data.corpus, _spread(_small_world(data).train)
    if data.corpus == "pydoc":
        yield data.corpus, _spread(_pydoc_documents())
    if data.train is not None and data.val is None:
        yield data.train, _spread(_two_at_least(read_documents(data.train), source=data.train))
    if data.train is not None and data.val is not None:
        unseen = {hash(text) for text in read_documents(data.val)}
        yield data.train, _spread(_struck_off(read_documents(data.train), unseen))
        if not unseen:
            raise _all_trained_on(data.val, data.train)
        yield data.val, _spread(read_documents(data.val))
    if data.knowledge is not None:
        yield data.knowledge, _spread(fact.sentence for fact in read_knowledge(data.knowledge))


def _two_at_least(texts: Iterable[str], *, source: str) -> Iterator[str]:
    """The texts. Raises DataError after the last where all are one, as the trial would that holds out some of them."""
    first, several = None, False
    for text in texts:
        first = text if first is None else first
        several = several or text != first
        yield text
    if not several:
        raise _one_text(source)


def _struck_off(texts: Iterable[str], unseen: set[int]) -> Iterator[str]:
    """The texts. Strikes the hash of each off the list of the `unseen`."""
    for text in texts:
        unseen.discard(hash(text))
        yield text


def _all_trained_on(val: str, train: str) -> DataError:
    rule = f"each of its texts is in {train} too, so a loss on it would not be of held-out text"
    return DataError(val, 1, rule, "give other texts, or leave data.val out: a share of data.train is held out then")


def _one_text(source: str) -> DataError:
    rule = "needs two different documents at least, to train on one and to hold one out"
    return DataError(source, 1, rule, "give more documents, or a data.val of its own")


def _spread(texts: Iterable[str]) -> list[str]:
    """Texts at equal distances, at most 2 * _SAMPLED_TEXTS, of a number of texts that is not known before."""
    kept: list[str] = []
    distance = 1
    for index, text in enumerate(texts):
        if index % distance == 0:
            kept.append(text)
        if len(kept) == 2 * _SAMPLED_TEXTS:
            kept, distance = kept[::2], 2 * distance
    return kept


def _load_facts(config: Config) -> Documents:
    world = _world(config.data, seed=config.train.seed, entities=config.data.facts_entities)
    return Documents(data_hash=identity(config), **vars(world))


def _load_pydoc(config: Config) -> Documents:
    train, val = _hold_out(_pydoc_documents(), fraction=config.data.val_fraction, source="pydoc_data.topics")
    return Documents(train, val, (), (), identity(config))


def _load_jsonl(config: Config) -> Documents:
    data = config.data
    assert data.train is not None, "a resolved configuration of corpus jsonl names data.train"
    train = tuple(read_documents(data.train))
    if data.val is not None:
        val = tuple(read_documents(data.val))
    else:
        train, val = _hold_out(train, fraction=data.val_fraction, source=data.train)
    return Documents(train, val, (), (), identity(config))


_LOADERS = {"facts": _load_facts, "pydoc": _load_pydoc, "jsonl": _load_jsonl}


def _world(data: DataConfig, *, seed: int, entities: int) -> facts.World:
    return facts.world(
        seed,
        entities=entities,
        relations=data.facts_relations,
        objects=data.facts_objects,
        heldout=data.facts_heldout,
        openings=data.facts_openings,
    )


def _small_world(data: DataConfig) -> facts.World:
    return _world(data, seed=0, entities=min(data.facts_entities, _SAMPLED_ENTITIES))


def _pydoc_documents() -> tuple[str, ...]:
    """The topics in alphabetical order, cut between paragraphs. The rest of a topic is a document too, or joins the one
    before where it is short."""
    documents: list[str] = []
    for _, topic in sorted(topics.items()):
        groups: list[str] = []
        open_group = ""
        for paragraph in filter(None, (part.strip("\n") for part in topic.split("\n\n"))):
            open_group = f"{open_group}\n\n{paragraph}" if open_group else paragraph
            if len(open_group) >= _PYDOC_CHARS:
                groups.append(open_group)
                open_group = ""
        if open_group and groups and len(open_group) < _PYDOC_CHARS // 2:
            groups[-1] += f"\n\n{open_group}"
        elif open_group:
            groups.append(open_group)
        documents += groups
    return tuple(documents)


def _hold_out(documents: Sequence[str], *, fraction: float, source: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(train, val): holds out a share of the distinct texts, at least one, chosen by the hashes of the texts.

    So the choice is the same for all trials, and all copies of a text are on one side. `val` is in the order of the
    hashes, so its first texts are a random sample. Raises DataError where all documents are one text.
    """
    by_hash = sorted(set(documents), key=lambda text: hashlib.blake2b(text.encode(), digest_size=16).digest())
    if len(by_hash) < 2:
        raise _one_text(source)
    val = by_hash[: min(max(1, round(fraction * len(by_hash))), len(by_hash) - 1)]
    held_out = set(val)
    return tuple(text for text in documents if text not in held_out), tuple(val)


def identity(config: Config) -> str:
    """The hash of the corpus's parameters, of its built-in text, and of the bytes of its files."""
    data = config.data
    digest = hashlib.sha256()
    _update(digest, data.corpus)
    if data.corpus == "facts":
        # A small world represents all: a change of language, generator or sizes changes it. The seed is left out.
        sizes = (data.facts_entities, data.facts_relations, data.facts_objects, data.facts_heldout)
        if data.facts_openings > 1:  # younger than the hashes of studies with one
            sizes = (*sizes, data.facts_openings)
        sample = _small_world(data)
        _update(digest, repr(sizes), *sample.train, *sample.val, *(repr(asdict(fact)) for fact in sample.knowledge))
    if data.corpus == "pydoc":
        _update(digest, *_pydoc_documents())
    if data.corpus != "facts" and data.val is None:
        _update(digest, repr(data.val_fraction))
    for key in PATH_KEYS:
        path = value_of(config, key)
        if path is not None:
            _update(digest, key, file_digest(path))
    return digest.hexdigest()[:16]


def _update(digest: hashlib._Hash, *parts: str) -> None:
    """Hash each part after its length, so that different lists of parts are different bytes."""
    for part in parts:
        content = part.encode()
        digest.update(f"{len(content)}:".encode())
        digest.update(content)
