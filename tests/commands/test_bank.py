"""`python -m model.bank`: what it says of a bank is what the checkpoint, the data and the validation say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ablate.report.render.document import Table, words
from ablate.report.sections.run import bank_content
from model import checkpoint
from model.api import ConfigError, Verdict, bank_excerpt, train
from model.bank.__main__ import main, render, visible
from model.data import load_documents
from model.data.tokenizer import load_or_train
from model.evaluate import Bank, Evaluator, read_bank, select_entries, summarise_bank
from model.evaluate.bank_contents import containing
from model.trainer import Trainer
from model.transformer import Transformer
from tests import ROOT
from tests.model.test_resume import as_an_earlier_version
from tests.model.test_training import Listener, small


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a run of the smallest model."""
    folder = tmp_path_factory.mktemp("bank")
    train(small(), Listener(), checkpoint_dir=folder)
    return folder


@pytest.fixture(scope="module")
def bank(trained: Path) -> Bank:
    return read_bank(trained)


def test_read_bank_equals_the_checkpoint_and_the_trainers_start(trained: Path, bank: Bank, tmp_path: Path) -> None:
    model = Transformer(bank.config.model)
    checkpoint.load_model(trained / "step-12", model)
    assert np.array_equal(bank.now_NL, model.bank.tokens_NL.numpy())
    assert np.array_equal(bank.start_NL, Trainer(bank.config, checkpoint_dir=tmp_path).model.bank.tokens_NL.numpy())
    assert not np.array_equal(bank.now_NL, bank.start_NL)
    assert bank.step == 12


@torch.no_grad()
def test_use_counts_equal_the_selections_of_the_validation_text(trained: Path, bank: Bank) -> None:
    """Slow twin: the reloaded model reads the validation rows one at a time, and a Counter counts."""
    config = bank.config
    documents = load_documents(config)
    tokenizer = load_or_train(config, documents)
    rows = Evaluator(config, documents, tokenizer, train_documents=tokenizer.encode_documents(documents.train)).rows
    model = Transformer(config.model)
    checkpoint.load_model(trained / "step-12", model)
    counted: Counter[int] = Counter()
    for x_T in rows.x:
        for layer in model(torch.from_numpy(x_T)[None]).reads:
            counted.update(layer.selection.index_BTK.flatten().tolist())
    # One row or sixteen at a time may sum in another order and turn a near-tie; more than that would be a wrong count.
    difference = sum(abs(int(count) - counted[entry]) for entry, count in enumerate(bank.used_N))
    assert difference <= 0.002 * counted.total()
    assert bank.used_N.sum() == counted.total() > 0
    assert bank.window_tokens == rows.x.size


def test_entries_are_sorted_by_use_with_their_texts(bank: Bank) -> None:
    entries, matches = select_entries(bank, find=None, top=1_000)
    assert matches == len(entries) == 64
    assert [(-e.count, e.entry) for e in entries] == sorted((-int(c), s) for s, c in enumerate(bank.used_N))
    assert [e.rank for e in entries] == list(range(1, 65))
    for e in entries:
        now, start = bank.now_NL[e.entry].tolist(), bank.start_NL[e.entry].tolist()
        assert e.now == bank.tokenizer.decode(now, skip_special=False)
        assert e.start == bank.tokenizer.decode(start, skip_special=False)
        assert e.slots_changed == sum(a != b for a, b in zip(now, start, strict=True))
    assert select_entries(bank, find=None, top=3)[0] == entries[:3]


def test_find_searches_now_and_at_the_start_ignoring_case(bank: Bank) -> None:
    entries, _ = select_entries(bank, find=None, top=64)
    for text in (entries[0].now[:3], entries[5].start[1:4].swapcase(), "no entry says this"):
        expected = [e for e in entries if text.lower() in e.now.lower() or text.lower() in e.start.lower()]
        found, matches = select_entries(bank, find=text, top=64)
        assert found == expected  # ranks are those of the whole bank
        assert matches == len(expected) == int(containing(bank, text).sum())
        assert bool(expected) == (text != "no entry says this")


def test_the_summary_equals_counts_by_hand(bank: Bank) -> None:
    summary = summarise_bank(bank)
    changed = [bank.now_NL[s].tolist() != bank.start_NL[s].tolist() for s in range(64)]
    assert summary.changed_share == pytest.approx(sum(changed) / 64)
    assert summary.used_share == pytest.approx(sum(int(c) > 0 for c in bank.used_N) / 64)
    assert summary.distinct_tokens == pytest.approx(sum(len(set(row)) for row in bank.now_NL.tolist()) / 64)
    assert summary.distinct_tokens_at_start == pytest.approx(sum(len(set(row)) for row in bank.start_NL.tolist()) / 64)
    assert summary.slots_changed_share == pytest.approx((bank.now_NL != bank.start_NL).sum() / bank.now_NL.size)


def test_the_command_prints_a_table_or_json(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained / "step-12"), "--top", "2"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "bank at step 12: 64 entries of 4 tokens"
    assert len(table) == 9  # four lines on the whole, a blank, two of headers, two entries
    assert main([str(trained), "--json", "--top", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["rank"] for row in answer["rows"]] == [1, 2]
    assert answer["entries"] == answer["matches"] == 64


@pytest.mark.parametrize("text", ["no entry says this", "\x1b[31m", "\udcff"])
def test_a_search_without_a_match_says_so(trained: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main([str(trained), "--find", text, "--top", "3"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"no entry contains {visible(text)}, now or at the start"
    assert said.err == ""
    assert main([str(trained), "--find", text, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["matches"], answer["rows"]) == (0, [])


def lose(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / checkpoint.MODEL)
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, folder / checkpoint.MODEL)

    return change


def replaced(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / checkpoint.MODEL)
        save_file(tensors | {name: change(tensors[name]).contiguous()}, folder / checkpoint.MODEL)

    return rewrite


DAMAGE = {
    "entries lost": lose("bank.tokens_NL"),
    "uses lost": lose("bank.used_N"),
    "fewer entries": replaced("bank.tokens_NL", lambda tokens_NL: tokens_NL[::2]),
    "fewer uses": replaced("bank.used_N", lambda used_N: used_N[::2]),
    "no tokens": replaced("bank.tokens_NL", lambda tokens_NL: tokens_NL - 10_000),
    "a window of many numbers": replaced("bank.used_tokens", lambda tokens: torch.zeros(3, dtype=tokens.dtype)),
}


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_shown(
    trained: Path, bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, *, checksums: bool
) -> None:
    newest = shutil.copytree(trained / "step-12", tmp_path / "step-13")
    if not checksums:
        as_an_earlier_version(newest)
    DAMAGE[damage](newest)
    complains(capsys, [str(tmp_path)], "checkpoint step-13 is damaged (model.safetensors ")
    with pytest.raises(ConfigError, match="checkpoint step-13 is damaged"):
        bank_excerpt(tmp_path, top=3)
    shutil.copytree(trained / "step-12", tmp_path / "step-12")
    assert main([str(tmp_path), "--top", "3"]) == 0
    said = capsys.readouterr()
    assert said.out.rstrip("\n") == render(bank, find=None, top=3)
    assert said.err.startswith("checkpoint step-13 is damaged (")
    assert said.err.endswith("); step 12 is shown\n")
    with pytest.raises(ConfigError, match="checkpoint step-13 is damaged"):
        bank_excerpt(tmp_path, top=3)


def test_a_byte_that_changed_is_damage(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(trained / "step-12", tmp_path / "step-12")
    moments = bytearray((folder / checkpoint.OPTIMIZER).read_bytes())
    moments[-1] ^= 1
    (folder / checkpoint.OPTIMIZER).write_bytes(moments)
    complains(capsys, [str(folder)], "checkpoint step-12 is damaged (optimizer.safetensors is not what was written)")


@pytest.mark.parametrize("buffered", ["", pytest.param("1", marks=pytest.mark.slow)], ids=["buffered", "unbuffered"])
def test_an_answer_that_cannot_be_printed_is_one_line(trained: Path, buffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "model.bank", str(trained), "--find", "no such text"],
            cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": buffered}, stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=100, check=False,
        )  # fmt: skip
    assert done.stderr == "cannot be written (No space left on device); make room, or make it writable\n"
    assert done.returncode == 130


def test_lost_checksums_are_damage(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(trained / "step-12", tmp_path / "step-12")
    (folder / checkpoint.CHECKSUMS).unlink()
    complains(capsys, [str(folder)], "checkpoint step-12 is damaged (SHA256SUMS is missing)")


def test_no_control_character_reaches_the_terminal(bank: Bank) -> None:
    assert visible('a\n\x1b[31m\u202e\\"é') == '"a\\n\\x1b[31m\\u202e\\\\"é"'
    escape = bank.tokenizer.encode_one("\x1b")
    hostile = replace(bank, now_NL=np.full_like(bank.now_NL, escape[0]))
    assert "\x1b" not in render(hostile, find="\x1b", top=64)
    assert "\\x1b" in render(hostile, find="\x1b", top=64)


def test_a_checkpoint_before_the_first_validation_has_no_use_counts(tmp_path: Path) -> None:
    stopped = Listener(at=1, verdict=Verdict.INTERRUPT)
    train(small(eval__every=100), stopped, checkpoint_dir=tmp_path)
    assert "not counted yet" in render(read_bank(tmp_path), find=None, top=1)


@pytest.mark.parametrize("memory", ["none", "blind"])
def test_a_memory_without_entries_is_one_line_of_error(
    memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small(model__memory=memory), Listener(), checkpoint_dir=tmp_path)
    complains(capsys, [str(tmp_path)], f"model.memory {memory}")


def complains(capsys: pytest.CaptureFixture[str], arguments: list[str], about: str) -> None:
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert about in said.err


def test_bad_input_is_one_line_of_error(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complains(capsys, [str(tmp_path)], "no checkpoint there")
    complains(capsys, [str(tmp_path / "nothing")], "no checkpoint there")
    complains(capsys, [__file__], "no checkpoint there")
    complains(capsys, [str(trained), "--top", "0"], "--top: 0")
    complains(capsys, ["x" * 300], "File name too long")
    damaged = tmp_path / "step-12"
    shutil.copytree(trained / "step-12", damaged)
    (damaged / checkpoint.MODEL).write_bytes(b"something else")
    complains(capsys, [str(tmp_path)], "checkpoint step-12 is damaged (model.safetensors is not a checkpoint's tensors")
    for text in ("{}", "[1]", "no JSON", '{"config": {}, "progress": {"step": 1}}'):
        (damaged / checkpoint.STATE).write_text(text)
        complains(capsys, [str(tmp_path)], "not a checkpoint's state")


def test_a_checkpoint_without_a_data_hash_is_shown(trained: Path, bank: Bank, tmp_path: Path) -> None:
    as_an_earlier_version(shutil.copytree(trained / "step-12", tmp_path / "step-12"))
    state = tmp_path / "step-12" / checkpoint.STATE
    kept = json.loads(state.read_text())
    kept.pop("data_hash")
    state.write_text(json.dumps(kept))
    assert render(read_bank(tmp_path), find=None, top=3) == render(bank, find=None, top=3)


def test_a_missing_or_changed_data_file_is_one_line_of_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"the {word} is on the table"}) + "\n" for word in "abcdefgh"))
    train(small(data__corpus="jsonl", data__train=str(text)), Listener(), checkpoint_dir=tmp_path / "run")
    assert main([str(tmp_path / "run")]) == 0
    said = text.read_text()
    text.write_text(said.replace("table", "chair"))
    complains(capsys, [str(tmp_path / "run")], "trained on other data (")
    text.write_text(said)
    assert main([str(tmp_path / "run")]) == 0
    text.unlink()
    complains(capsys, [str(tmp_path / "run")], f"data.train: {text}")


def test_bank_content_shows_the_entries_or_the_reason_why_not(trained: Path, bank: Bank, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "checkpoints" / "some-trial")
    table = bank_content(tmp_path, "some-trial")
    assert isinstance(table, Table)
    entries, _ = select_entries(bank, find=None, top=15)
    assert [row[0].value for row in table.rows] == [entry.entry for entry in entries]
    shown = ["".join(char for char in " ".join(entry.now.split()) if char.isprintable()) for entry in entries]
    assert [row[3].text for row in table.rows] == shown
    assert bank_content(tmp_path, "another") == words("Its entries cannot be shown as text: no checkpoint there.")
    (tmp_path / "checkpoints" / "some-trial" / "step-12" / checkpoint.STATE).write_text("{}")
    damaged = bank_content(tmp_path, "some-trial")
    assert "cannot be shown as text: checkpoint step-12 is damaged (state.json is not a checkpoint's state" in str(
        damaged
    )
