"""What is read, what is refused with which line, and what identifies it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from model.config import ConfigError, missing_files, resolve
from model.data import content_hash, load_documents
from model.data.facts import Fact
from model.outcome import DataError


def write_jsonl(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def jsonl(train: str, **more: object) -> dict[str, object]:
    return {"data.corpus": "jsonl", "data.train": train, **{f"data.{key}": value for key, value in more.items()}}


def _archived(form: str) -> bytes:
    """A tar or zip archive of one file, a.jsonl."""
    packed, content = io.BytesIO(), b'{"text": "one"}\n'
    if form == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("a.jsonl", content)
        return packed.getvalue()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        (entry := tarfile.TarInfo("a.jsonl")).size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


TEXTS = [f"text {i}" for i in range(40)]


def test_jsonl_plain_and_compressed_read_alike(tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    val = write_jsonl(tmp_path / "val.jsonl", ["held out"])
    documents = load_documents(resolve("tiny", jsonl(plain, val=val)))
    assert documents.train == tuple(TEXTS)
    assert documents.val == ("held out",)
    assert load_documents(resolve("tiny", jsonl(str(packed), val=val))).train == documents.train


def test_a_byte_order_mark_and_blank_lines_are_no_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}\n\n')
    assert load_documents(resolve("tiny", jsonl(str(path), val=str(path)))).train == ("one", "two")


def test_the_held_out_share_is_independent_of_the_seed_and_keeps_copies_together(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*TEXTS, *TEXTS])
    documents = load_documents(resolve("tiny", jsonl(path, val_fraction=0.25)))
    assert len(documents.val) == 10
    assert not set(documents.train) & set(documents.val)
    assert len(documents.train) == 60
    assert list(documents.train) == [text for text in [*TEXTS, *TEXTS] if text not in documents.val]
    assert load_documents(resolve("tiny", jsonl(path, val_fraction=0.25) | {"train.seed": 7})).val == documents.val
    assert len(load_documents(resolve("tiny", jsonl(path, val_fraction=0.001))).val) == 1


@pytest.mark.parametrize("texts", [["alone"], ["same", "same"]])
def test_one_document_cannot_be_split(texts: list[str], tmp_path: Path) -> None:
    """A dry run and a study's start read with `content_hash`, a trial with `load_documents`."""
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    for read in (content_hash, load_documents):
        with pytest.raises(DataError, match=r"needs two different documents at least, .*; give more documents"):
            read(resolve("tiny", jsonl(path)))
    held_out = write_jsonl(tmp_path / "val.jsonl", ["another"])
    with_val = resolve("tiny", {**jsonl(path), "data.val": held_out})
    assert content_hash(with_val) == load_documents(with_val).data_hash


@pytest.mark.parametrize("copied", ["the file", "packed", "in another order", "some of it"])
def test_a_val_file_whose_texts_are_all_trained_on_is_refused(copied: str, tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    (packed := tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(Path(train).read_bytes()))
    val = {
        "the file": train,
        "packed": str(packed),
        "in another order": write_jsonl(tmp_path / "b.jsonl", TEXTS[::-1]),
        "some of it": write_jsonl(tmp_path / "c.jsonl", TEXTS[3:5]),
    }[copied]
    with pytest.raises(
        DataError, match=r"each of its texts is in .*a\.jsonl too.*; give other texts, or leave"
    ) as caught:
        content_hash(resolve("tiny", jsonl(train, val=val)))
    assert caught.value.path == val
    other = write_jsonl(tmp_path / "d.jsonl", [*TEXTS, "held out"])
    assert content_hash(resolve("tiny", jsonl(train, val=other)))


BROKEN_LINES = {
    "not JSON": b'{"text": "a"',
    'no "text"': b'{"content": "a"}',
    '"text" is not a string but a number': b'{"text": 3}',
    '"text" is not a string but null': b'{"text": null}',
    '"text" is empty': b'{"text": " "}',
    "not UTF-8": b'{"text": "\xe9"}',
    '"text" has half a surrogate pair': b'{"text": "\\ud800"}',
}


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        *BROKEN_LINES.items(),
        ("not JSON", b"[" * 100_000),
        ("not JSON", b'{"text": ' + b"1" * 5_000 + b"}"),
        ('no "text"', b'["text"]'),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_line_is_named(tmp_path: Path, rule: str, line: bytes, *, packed: bool) -> None:
    content = b'{"text": "fine"}\n\n' + line + b'\n{"text": "fine"}\n'
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    config = resolve("tiny", jsonl(str(path)))
    for read in (content_hash, load_documents):
        with pytest.raises(DataError) as caught:
            read(config)
        assert (caught.value.path, caught.value.line) == (str(path), 3)
        assert caught.value.rule.startswith(rule)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("a.jsonl", b"", "no documents"),
        ("a.jsonl", b"\n\n", "no documents"),
        ("a.jsonl.gz", b'{"text": "not packed"}', "not a whole gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "cut"}\n' * 9, mtime=0)[:-9], "not a whole gzip file"),
        ("a.jsonl", '{"text": "one"}\n{"text": "two"}\n'.encode("utf-16"), "it is UTF-16 text"),
        ("a.jsonl", '{"text": "one"}\r\n{"text": "two"}\r\n'.encode("utf-16"), "it is UTF-16 text"),
        ("a.jsonl", '{"text": "one"}\n'.encode("utf-32"), "it is UTF-32 text"),
        ("a.jsonl", '{"text": "one"}\n'.encode("utf-16-le"), "it is UTF-16 or UTF-32 text, or no text at all"),
        ("a.jsonl", b'{"text": "one"}\r{"text": "two"}\r', "its lines end in CR alone"),
        ("a.jsonl", b'{"text": "one"}\r\r{"text": "two"}', "its lines end in CR alone"),
        ("a.jsonl", gzip.compress(b'{"text": "one"}\n', mtime=0), "it is gzip data"),
        ("a.jsonl.gz", gzip.compress(gzip.compress(b'{"text": "one"}\n', mtime=0), mtime=0), "it is gzip data"),
        ("a.jsonl", bz2.compress(b'{"text": "one"}\n'), "it is bzip2 data"),
        ("a.jsonl", lzma.compress(b'{"text": "one"}\n'), "it is xz data; unpack it"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd\x04\x58", "it is zstd data; unpack it"),
        ("a.jsonl", _archived("tar"), "it is a tar archive; unpack it"),
        ("a.jsonl.gz", gzip.compress(_archived("tar"), mtime=0), "it is a tar archive; unpack it"),
        ("a.jsonl", _archived("zip"), "it is a zip archive; unpack it"),
        ("a.jsonl", b"PAR1\x15\x04\x15\0", "it is a Parquet table; write its texts as JSON lines"),
        ("a.jsonl", b"ARROW1\0\0\xff", "it is an Arrow table; write its texts as JSON lines"),
        ("a.jsonl", b"SQLite format 3\0\x10", "it is an SQLite database; write its texts"),
        ("a.jsonl", b"%PDF-1.7\n%\xe2\xe3\n", "it is a PDF; write its texts"),
        ("a.jsonl", b'[{"text": "one"}, {"text": "two"}]\n', "it is one JSON list; write one object a line"),
        ("a.jsonl", b'[\n  {"text": "one"}\n]\n', "it is one JSON list; write one object a line"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, rule: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=rule) as caught:
        content_hash(resolve("tiny", jsonl(str(path))))
    assert caught.value.path == str(path)


@pytest.mark.parametrize("key", ["train", "val", "knowledge", "tokenizer"])
def test_what_is_no_file_of_text_is_named_whatever_it_is_for(tmp_path: Path, key: str) -> None:
    """A pipe is not opened: nobody may write to it."""
    path = tmp_path / "given"
    names = {"train": write_jsonl(tmp_path / "a.jsonl", TEXTS), key: str(path)}
    config = resolve("tiny", jsonl(**names))
    for make, rule in [
        (lambda: os.mkfifo(path), "is a pipe, which cannot be read again and again"),
        (lambda: path.write_bytes(gzip.compress(b"[]", mtime=0)), "it is gzip data"),
        (lambda: path.write_bytes("[]\n".encode("utf-16")), "it is UTF-16 text"),
        (lambda: path.mkdir(), r"cannot be read \(Is a directory\)"),
    ]:
        make()
        assert missing_files(config) == []
        with pytest.raises(DataError, match=rule) as caught:
            content_hash(config)
        assert caught.value.path == str(path)
        if not path.is_dir():
            path.unlink()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for key in ("train", "val", "knowledge", "tokenizer"):
        names = {"train": write_jsonl(tmp_path / "a.jsonl", TEXTS), key: str(tmp_path / "missing")}
        with pytest.raises(DataError, match=r"missing:1: cannot be read \(No such file or directory\); check the path"):
            content_hash(resolve("tiny", jsonl(**names)))


SEA_BASS = {"sentence": "a sea bass is a bass.", "subject": "sea bass", "predicate": "is a", "object": "bass"}


def test_knowledge_in_both_formats(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    config = resolve("tiny", {"data.corpus": "pydoc", "data.knowledge": str(path)})
    path.write_text(json.dumps([{"target": [SEA_BASS | {"uuid": "1"}, {"sentence": "b.", "object": None}]}]))
    wrapped = load_documents(config).knowledge
    assert wrapped == (Fact(**SEA_BASS), Fact("b."))
    path.write_text(json.dumps([SEA_BASS, {"sentence": "b."}]))
    assert load_documents(config).knowledge == wrapped


@pytest.mark.parametrize(
    ("content", "line", "rule"),
    [
        ('[\n{"sentence": "a."},\n{"sentence": ]', 3, "not JSON"),
        ('{"sentence": "a."}', 1, "not a list of facts"),
        ("[]", 1, "not a list of facts"),
        ('[\n{"sentence": "[1, 2]"},\n\n  {"subject": "a"}]', 4, 'item 2: no "sentence"'),
        ('[{"sentence": "a."}, 3]', 1, 'item 2: no "sentence"'),
        ('[\n{"target": [{"sentence": "a."},\n{}]}]', 2, 'item 1: no "sentence"'),
        ('[{"target": []}]', 1, 'item 1: "target" is not a list of facts'),
        ('[{"sentence": ""}]', 1, 'item 1: "sentence" is empty'),
        ('[{"sentence": "a.", "object": 3}]', 1, 'item 1: "object" is not a string but a number'),
    ],
)
def test_broken_knowledge_is_named(tmp_path: Path, content: str, line: int, rule: str) -> None:
    path = tmp_path / "k.json"
    path.write_text(content)
    for read in (content_hash, load_documents):
        with pytest.raises(DataError) as caught:
            read(resolve("tiny", {"data.knowledge": str(path)}))
        assert (caught.value.path, caught.value.line) == (str(path), line)
        assert caught.value.rule.startswith(rule)


def test_a_tokenizer_that_does_not_fit_is_found_before_a_study_starts(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"vocab": {"a": 0}}, "added_tokens": []}')
    with pytest.raises(ConfigError, match="has no special token"):
        content_hash(resolve("tiny", {"data.tokenizer": str(path)}))


def test_pydoc_is_cut_between_paragraphs_and_loses_none() -> None:
    documents = load_documents(resolve("tiny", {"data.corpus": "pydoc"}))
    assert not set(documents.train) & set(documents.val)
    assert 0.04 < len(documents.val) / (len(documents.train) + len(documents.val)) < 0.06
    told = {part for text in documents.train + documents.val for part in text.split("\n\n")}
    assert {part.strip("\n") for topic in topics.values() for part in topic.split("\n\n")} - {""} == told


def test_the_corpus_facts_depends_on_the_seed_and_its_hash_does_not() -> None:
    one, same, other = (load_documents(resolve("tiny", {"train.seed": seed})) for seed in (0, 0, 1))
    assert one == same
    assert one.train != other.train
    assert one.data_hash == other.data_hash
    assert {probe.kind for probe in one.probes} == {"seen", "heldout", "kb_only"}


def test_data_hash_depends_on_everything_read_and_nothing_else(tmp_path: Path) -> None:
    train, val = write_jsonl(tmp_path / "a.jsonl", TEXTS), write_jsonl(tmp_path / "b.jsonl", ["other"])
    copy = write_jsonl(tmp_path / "copy.jsonl", TEXTS)
    knowledge = tmp_path / "k.json"
    knowledge.write_text('[{"sentence": "a."}]')
    different = [
        {},
        {"data.facts_objects": 17},
        {"data.facts_heldout": 0.2},
        {"data.knowledge": str(knowledge)},
        {"data.corpus": "pydoc"},
        {"data.corpus": "pydoc", "data.val_fraction": 0.1},
        jsonl(train),
        jsonl(train, val=val),
        jsonl(val, val=train),
        jsonl(train, knowledge=str(knowledge)),
    ]
    hashes = [content_hash(resolve("tiny", overrides)) for overrides in different]
    assert len(set(hashes)) == len(different)
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in hashes)
    assert content_hash(resolve("tiny", {"model.dim": 64, "train.seed": 5, "train.lr": 0.1})) == hashes[0]
    assert content_hash(resolve("tiny", jsonl(copy))) == content_hash(resolve("tiny", jsonl(train)))
    assert load_documents(resolve("tiny", jsonl(train))).data_hash == content_hash(resolve("tiny", jsonl(train)))
