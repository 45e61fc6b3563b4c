"""Tokenizers: given, trained, cached, and the same for everyone who asks."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from model.api import check_data, train
from model.config import Config, ConfigError, resolve
from model.data import Documents, language, load_documents, tokenizer
from model.data.datafiles import EOS, PAD, START
from model.data.tokenizer import Tokenizer, load_or_train
from model.outcome import DataError
from tests.model.test_training import Listener, small


def trained(cache_dir: Path, **overrides: object) -> Tokenizer:
    config = resolve("tiny", {f"data.{key}": value for key, value in overrides.items()})
    return load_or_train(config, load_documents(config), cache_dir=cache_dir)


@pytest.fixture(scope="module")
def of_facts(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return trained(tmp_path_factory.mktemp("tokenizers"))


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_encode_and_decode_are_inverse(of_facts: Tokenizer, text: str) -> None:
    ids = of_facts.encode_one(text)
    assert of_facts.decode(ids, skip_special=False) == text
    assert of_facts.encode([text, "a"])[0] == ids
    assert all(0 <= i < of_facts.size for i in ids)


def test_special_tokens_have_their_ids(of_facts: Tokenizer) -> None:
    assert of_facts.encode_one(PAD) == [of_facts.pad_id]
    assert of_facts.encode_one(EOS) == [of_facts.eos_id]
    assert of_facts.decode([*of_facts.encode_one("a"), of_facts.eos_id]) == "a"


def test_documents_end_in_eos(of_facts: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_BATCH", 2)
    texts = ["one", "two words", "three", "four", "five"]
    documents = of_facts.encode_documents(texts)
    expected = [[*ids, of_facts.eos_id] for ids in of_facts.encode(texts)]
    assert [documents[d].tolist() for d in range(len(documents))] == expected
    assert len(of_facts.encode_documents([])) == 0


def test_probes_have_the_tokens_of_running_text(of_facts: Tokenizer) -> None:
    config = resolve("tiny", {})
    for probe in load_documents(config).probes[:200]:
        whole = of_facts.encode_one(f"{probe.prefix}{probe.object}.")
        assert whole == [
            *of_facts.encode_one(probe.prefix),
            *of_facts.encode_one(probe.object),
            *of_facts.encode_one("."),
        ]
        # Every candidate is one token, so guessing costs ln(facts_objects) and no candidate is longer than another.
        assert {len(ids) for ids in of_facts.encode(probe.candidates)} == {1}


def test_worlds_of_all_seeds_share_one_tokenizer(tmp_path: Path) -> None:
    for seed in (0, 1):
        config = resolve("tiny", {"train.seed": seed})
        load_or_train(config, load_documents(config), cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_training_is_deterministic_over_processes(tmp_path: Path) -> None:
    program = (
        "import hashlib, pathlib, sys; from model.config import resolve; from model.data import load_documents\n"
        "from model.data.tokenizer import load_or_train\n"
        "config = resolve('tiny', {'data.corpus': 'pydoc'})\n"
        "trained = load_or_train(config, load_documents(config), cache_dir=pathlib.Path(sys.argv[1]))\n"
        "print(hashlib.sha256(trained.to_json().encode()).hexdigest())"
    )
    # Side by side, with and without the library's own threads, into one cache and into another.
    runs = [(name, threads) for name in ("a", "a", "b") for threads in ("false", "true")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / name)],
            env=os.environ | {"TOKENIZERS_PARALLELISM": threads, "PYTHONHASHSEED": str(i)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i, (name, threads) in enumerate(runs)
    ]
    digests = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert len(set(digests)) == 1
    assert [path.suffix for path in (tmp_path / "a").iterdir()] == [".json"], "no part file is left"


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty", "binary"])
def test_a_damaged_tokenizer_cache_is_replaced(tmp_path: Path, damage: str) -> None:
    good = trained(tmp_path).to_json()
    (cached,) = tmp_path.iterdir()
    whole = cached.read_bytes()
    foreign = json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}).encode()
    cached.write_bytes({"cut": whole[:-100], "foreign": foreign, "empty": b"", "binary": b"\xff\n\xfe"}[damage])
    assert trained(tmp_path).to_json() == good
    assert cached.read_bytes() == whole


def test_a_cached_tokenizer_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = trained(tmp_path).to_json()
    monkeypatch.setattr(tokenizer, "_train", None)
    assert trained(tmp_path).to_json() == good


def test_an_unwritable_tokenizer_cache_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="tokenizer not cached"):
        assert trained(tmp_path / "file").size > 259


def test_a_given_tokenizer_neither_truncates_nor_pads(of_facts: Tokenizer, tmp_path: Path) -> None:
    content = json.loads(of_facts.to_json())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    given_one = trained(tmp_path / "unused", tokenizer=str(path))
    assert not (tmp_path / "unused").exists()
    text = language.RELATIONS[0].wordings[-1].format(s="Ba")
    assert given_one.encode_one(text) == of_facts.encode_one(text)
    assert len(given_one.encode_one(text)) > 4
    of_facts.save(path)
    assert trained(tmp_path, tokenizer=str(path)).to_json() == of_facts.to_json()


def given_config(path: Path, *, vocab_size: int = 2_048) -> tuple[Config, Documents]:
    config = resolve("tiny", {"data.tokenizer": str(path), "model.vocab_size": vocab_size})
    return config, Documents((), (), (), (), "")


@pytest.mark.parametrize(("token", "purpose"), [(EOS, "ends a text"), (PAD, "pads")])
def test_a_given_tokenizer_must_have_the_special_tokens(
    of_facts: Tokenizer, tmp_path: Path, token: str, purpose: str
) -> None:
    content = json.loads(of_facts.to_json())
    content["added_tokens"] = [added for added in content["added_tokens"] if added["content"] != token]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    rule = rf"data\.tokenizer: .*has no special token that {purpose}; add one of {re.escape(token)} "
    with pytest.raises(ConfigError, match=rule):
        load_or_train(*given_config(path))


def byte_level(specials: list[str], *, vocab_size: int = 400, texts: Sequence[str] = ("a river", "the sea")) -> str:
    """The tokenizer.json of a byte-level BPE, its special tokens first, as MiniMind publishes its own."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer=trainer)
    return inner.to_str()


@pytest.mark.parametrize(
    ("specials", "eos", "pad"),
    [
        (["<|endoftext|>", START, EOS], EOS, "<|endoftext|>"),  # MiniMind
        (["<unk>", "<s>", "</s>"], "</s>", "<unk>"),  # MiniMind's first
        ([PAD, START, EOS], EOS, PAD),
        (["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>"),  # GPT-2
    ],
)
def test_published_tokenizers_train(specials: list[str], eos: str, pad: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(byte_level(specials))
    config = small(data__tokenizer=str(path))
    loaded = load_or_train(config, load_documents(config))
    assert (loaded.encode_one(eos), loaded.encode_one(pad)) == ([loaded.eos_id], [loaded.pad_id])
    assert loaded.encode_documents(["a river"])[0][-1] == specials.index(eos)
    assert len(check_data(config)) == 16
    result = train(config, Listener(), checkpoint_dir=tmp_path / "run")
    assert math.isfinite(cast(float, result.metrics["val_bpb"]))


def without_unknown(words: Sequence[str]) -> str:
    """A BPE that has tokens for the characters of these words, and silently drops others."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.train_from_iterator(words, trainer=trainers.BpeTrainer(special_tokens=[EOS, "<pad>"], show_progress=False))
    return inner.to_str()


def word_level(words: Sequence[str], *, unknown: str | None) -> str:
    vocabulary = {word: i for i, word in enumerate([*words, *filter(None, [unknown])])}
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=unknown or "[none]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens([EOS, PAD])
    return inner.to_str()


LATIN, GREEK = ["the river runs to the sea"] * 10, ["ο ποταμός τρέχει"] * 10


@pytest.mark.parametrize(
    ("written", "lost"),
    [
        (without_unknown(LATIN), 0.42),
        (word_level(["the", "river", "sea"], unknown=PAD), 0.5),
        (byte_level([EOS, PAD]).replace('"Ï":', '"never":'), 0.3),  # half of each Greek letter
    ],
)
def test_a_tokenizer_that_loses_text_is_refused_with_the_share(written: str, lost: float, tmp_path: Path) -> None:
    path, text = tmp_path / "tokenizer.json", tmp_path / "text.jsonl"
    path.write_text(written)
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in [*LATIN, *GREEK]))
    config = small(data__corpus="jsonl", data__train=str(text), data__tokenizer=str(path))
    with pytest.raises(
        ConfigError, match=rf"^data\.tokenizer: {path}: loses [0-9.]+% of the characters of {text}"
    ) as caught:
        check_data(config)
    share = re.search(r"loses ([0-9.]+)%", caught.value.rule)
    assert share is not None
    assert float(share[1]) / 100 == pytest.approx(lost, abs=0.15)


def test_a_knowledge_base_is_not_lost_either(tmp_path: Path) -> None:
    path, knowledge = tmp_path / "tokenizer.json", tmp_path / "knowledge.json"
    config = small(data__tokenizer=str(path), data__knowledge=str(knowledge))
    path.write_text(without_unknown(load_documents(small()).train))
    knowledge.write_text(json.dumps([{"sentence": sentence} for sentence in GREEK]))
    with pytest.raises(ConfigError, match=f"loses 100.0% of the characters of {knowledge}"):
        check_data(config)


def test_case_spaces_and_spelt_out_special_tokens_are_no_loss(tmp_path: Path) -> None:
    """Up to one character in a hundred may be lost."""
    path, text = tmp_path / "tokenizer.json", tmp_path / "text.jsonl"
    content = json.loads(without_unknown(["the river runs to the sea"]))
    content["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(content))
    config = small(data__corpus="jsonl", data__train=str(text), data__tokenizer=str(path))
    said = [f"The RIVER  runs\nto the sea{EOS}" for _ in range(20)]
    for last, refused in (("the", False), ("ποτ", False), ("ποταμός", True)):
        text.write_text("".join(json.dumps({"text": each}) + "\n" for each in [*said, last]))
        if refused:
            with pytest.raises(ConfigError, match=r"loses 1\.\d% of the characters"):
                check_data(config)
        else:
            assert check_data(config)


@pytest.mark.parametrize(
    "written",
    [
        word_level(["the"], unknown=None),  # fails at its first unknown word
        byte_level([EOS, PAD]).replace('"type":"ByteLevel"', '"type":"BitLevel"'),
        byte_level([EOS, PAD]).replace('"merges":[', '"merges":[["river","delta"],'),
    ],
)
def test_a_tokenizer_that_the_library_cannot_use_is_one_line_of_error(written: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(written)
    with pytest.raises(DataError, match=rf"^{path}:1: tokenizers [0-9.]+ cannot use it \(.+\); write it") as caught:
        check_data(small(data__tokenizer=str(path)))
    assert len(str(caught.value).splitlines()) == 1


def test_a_given_tokenizer_must_fit_the_embedding(of_facts: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    of_facts.save(path)
    fitting, documents = given_config(path, vocab_size=of_facts.size)
    assert load_or_train(fitting, documents).size == of_facts.size
    with pytest.raises(ConfigError, match=f"has {of_facts.size} token ids, .* set model.vocab_size to {of_facts.size}"):
        load_or_train(*given_config(path, vocab_size=of_facts.size - 1))


@pytest.mark.parametrize(("content", "line"), [("{}", 1), ("[1, 2]", 1), ('{\n"model": }', 2), ("", 1)])
def test_a_file_that_is_no_tokenizer_is_an_error(tmp_path: Path, content: str, line: int) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"not (JSON|a tokenizer)") as caught:
        load_or_train(*given_config(path))
    assert caught.value.line == line
