"""Tokenizers: given, trained, cached, and the same for everyone who asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config.resolve import Config, ConfigError, resolve
from model.data import language, tokenizer
from model.data.corpus import Documents, load
from model.data.datafiles import EOS, PAD, START
from model.data.tokenizer import Tokenizer, load_or_train
from model.outcome import DataError


def trained(cache_dir: Path, **overrides: object) -> Tokenizer:
    config = resolve("tiny", {f"data.{key}": value for key, value in overrides.items()})
    return load_or_train(config, load(config), cache_dir=cache_dir)


@pytest.fixture(scope="module")
def of_facts(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return trained(tmp_path_factory.mktemp("tokenizers"))


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_any_text_comes_back(of_facts: Tokenizer, text: str) -> None:
    ids = of_facts.encode_one(text)
    assert of_facts.decode(ids, skip_special=False) == text
    assert of_facts.encode([text, "a"])[0] == ids
    assert all(0 <= i < of_facts.size for i in ids)


def test_special_tokens_are_where_they_should_be(of_facts: Tokenizer) -> None:
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


def test_a_probe_is_cut_where_running_text_is(of_facts: Tokenizer) -> None:
    config = resolve("tiny", {})
    for probe in load(config).probes[:200]:
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
        load_or_train(config, load(config), cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_training_is_deterministic_over_processes(tmp_path: Path) -> None:
    program = (
        "import hashlib, pathlib, sys; from model.config.resolve import resolve; from model.data.corpus import load\n"
        "from model.data.tokenizer import load_or_train\n"
        "config = resolve('tiny', {'data.corpus': 'pydoc'})\n"
        "trained = load_or_train(config, load(config), cache_dir=pathlib.Path(sys.argv[1]))\n"
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
def test_a_damaged_cache_is_trained_over(tmp_path: Path, damage: str) -> None:
    good = trained(tmp_path).to_json()
    (cached,) = tmp_path.iterdir()
    whole = cached.read_bytes()
    foreign = json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}).encode()
    cached.write_bytes({"cut": whole[:-100], "foreign": foreign, "empty": b"", "binary": b"\xff\n\xfe"}[damage])
    assert trained(tmp_path).to_json() == good
    assert cached.read_bytes() == whole


def test_the_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = trained(tmp_path).to_json()
    monkeypatch.setattr(tokenizer, "_train", None)
    assert trained(tmp_path).to_json() == good


def test_a_cache_that_cannot_be_written_is_said_and_survived(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="tokenizer not cached"):
        assert trained(tmp_path / "file").size > 259


def test_a_given_tokenizer_is_taken_as_it_is_but_never_cuts_or_pads(of_facts: Tokenizer, tmp_path: Path) -> None:
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


def test_a_given_tokenizer_must_have_the_special_tokens(of_facts: Tokenizer, tmp_path: Path) -> None:
    content = json.loads(of_facts.to_json())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != START]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"data\.tokenizer: .*has no special token <\|im_start\|>; add it"):
        load_or_train(*given_config(path))


def test_a_given_tokenizer_must_fit_the_embedding(of_facts: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    of_facts.save(path)
    fitting, documents = given_config(path, vocab_size=of_facts.size)
    assert load_or_train(fitting, documents).size == of_facts.size
    with pytest.raises(ConfigError, match=f"has {of_facts.size} token ids, .* set model.vocab_size to {of_facts.size}"):
        load_or_train(*given_config(path, vocab_size=of_facts.size - 1))


@pytest.mark.parametrize(("content", "line"), [("{}", 1), ("[1, 2]", 1), ('{\n"model": }', 2), ("", 1)])
def test_a_file_that_is_no_tokenizer_is_said_to_be_none(tmp_path: Path, content: str, line: int) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"not (JSON|a tokenizer)") as caught:
        load_or_train(*given_config(path))
    assert caught.value.line == line
