"""Every kind of bad input gives one line: `file:line: key: value: rule; hint`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ablate import sweep
from ablate.cli import BAD_INPUT, DONE, guarded
from ablate.errors import BadInput
from ablate.spec import study_file
from ablate.study import lifecycle
from tests import study_files
from tests.model.data.test_tokenizer import without_unknown
from tests.study_files import GOOD


def change(old: str, new: str) -> str:
    """GOOD with one thing changed."""
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def with_base(line: str) -> str:
    """GOOD with one more line in base: line 5 of the file."""
    return change("  data: {corpus: facts}\n", f"  data: {{corpus: facts}}\n  {line}\n")


NO_SEARCH = GOOD[: GOOD.index("search:")] + GOOD[GOOD.index("optimizer:") :]
ABLATION = GOOD + "ablation:\n  seeds: 3\n  arms:\n"

BAD = {
    "unknown key": (with_base("model.dmi: 64"), 5, "model.dmi", "did you mean model.dim?"),
    "unknown section": (GOOD + "serach: {}\n", 10, "serach", "did you mean search?"),
    "unknown key in a section": (change("trials: 6", "trails: 6"), 8, "optimizer.trails", "did you mean trials?"),
    "duplicate key": (GOOD + "study: again\n", 10, "study", "duplicate key"),
    "duplicate key, nested and dotted": (with_base("data.corpus: pydoc"), 5, "base.data.corpus", "duplicate key"),
    "not YAML": (GOOD + "a: [1, 2\n", 11, "", "not YAML"),
    "empty": ("", 1, "", "empty"),
    "only a comment": ("# nothing\n", 1, "", "empty"),
    "a list": ("- study: tides\n", 1, "", "a list"),
    "a single value": ("tides\n", 1, "", "a single value"),
    "an alias": (change("study: tides", "study: &s tides\nquestion: *s"), 1, "question", "alias"),
    "wrong type": (with_base("model.dim: wide"), 5, "model.dim", "not a whole number"),
    "true for a number": (with_base("model.dim: true"), 5, "model.dim", "neither a number nor a text"),
    "wrong type in a section": (change("trials: 6", "trials: many"), 8, "optimizer.trials", "not a whole number"),
    "wrong type of a section": (
        change("optimizer: {", "optimizer: [{").replace("seed: 0}", "seed: 0}]"),
        8,
        "optimizer",
        "not a mapping",
    ),
    "a search for nothing": (with_base("model.memory: none"), 7, "model.ema_decay", "has no effect in any trial"),
    "a search for nothing, whatever is drawn": (
        change("model.ema_decay:", "model.memory: {choice: [none, blind]}\n  model.ema_decay:"),
        7,
        "model.ema_decay",
        "model.memory is none",
    ),
    "empty range": (change("[0.3, 0.999]", "[0.5, 0.5]"), 6, "model.ema_decay", "empty range"),
    "inverted range": (change("[0.3, 0.999]", "[0.999, 0.3]"), 6, "model.ema_decay", "inverted range"),
    "empty choice": (change("[4, 8, 16]", "[]"), 7, "model.knowledge_length", "empty choice"),
    "a choice twice": (change("[4, 8, 16]", "[4, 4.0]"), 7, "model.knowledge_length", "twice"),
    "unknown distribution": (change("choice:", "chioce:"), 7, "model.knowledge_length", "did you mean choice?"),
    "log of zero": (change("choice: [4, 8, 16]", "logint: [0, 8]"), 7, "model.knowledge_length", "above 0"),
    "real numbers for a whole one": (
        change("choice: [4, 8, 16]", "uniform: [4, 8]"),
        7,
        "model.knowledge_length",
        "use int",
    ),
    "ema_decay": (with_base("model.ema_decay: 1.0"), 5, "model.ema_decay", "less than 1"),
    "ema_decay at a range's upper end": (change("0.999]", "1.0]"), 6, "model.ema_decay", "below 1"),
    "ema_decay at a uniform's upper end": (
        change("one_minus_loguniform: [0.3, 0.999]", "uniform: [0.3, 1.0]"),
        6,
        "model.ema_decay",
        "less than 1",
    ),
    "ema_decay at a range's lower end": (change("[0.3,", "[-0.5,"), 6, "model.ema_decay", "at least 0"),
    "a choice that is not valid": (change("[4, 8, 16]", "[4, 0]"), 7, "model.knowledge_length", "greater than 0"),
    "knowledge_num": (
        with_base("model.knowledge_num: 1000"),
        5,
        "model.knowledge_num",
        "not a square; try 961 or 1024",
    ),
    "num_selected": (
        with_base("model.num_selected: 33"),
        5,
        "model.num_selected",
        "more than sqrt(knowledge_num) = 32",
    ),
    "knowledge_dim": (with_base("model.knowledge_dim: 63"), 5, "model.knowledge_dim", "odd"),
    "dim and heads": (with_base("model.n_heads: 3"), 5, "model.dim", "not divisible by n_heads = 3"),
    "searched dim and heads": (
        change("model.knowledge_length: {choice: [4, 8, 16]}", "model.dim: {int: [64, 128]}"),
        7,
        "model.dim",
        "not divisible",
    ),
    "searched with a fixed value": (
        change("model.knowledge_length: {choice: [4, 8, 16]}", "model.knowledge_num: {choice: [4, 1024]}"),
        7,
        "model.knowledge_num",
        "num_selected",
    ),
    "a searched seed": (
        change("model.ema_decay: {one_minus_loguniform: [0.3, 0.999]}", "train.seed: {int: [0, 9]}"),
        6,
        "train.seed",
        "chance",
    ),
    "neither search nor ablation": (NO_SEARCH, 1, "search", "no search and no ablation"),
    "unknown metric": (
        GOOD + "objective: {metric: val_los, mode: min}\n",
        10,
        "objective.metric",
        "did you mean val_loss?",
    ),
    "unknown mode": (GOOD + "objective: {metric: val_loss, mode: low}\n", 10, "objective.mode", "min"),
    "a metric that no trial measures": (
        GOOD.replace("corpus: facts", "corpus: pydoc") + "objective: {metric: val_object_nats}\n",
        10,
        "objective.metric",
        "no trial measures it: data.corpus is pydoc; choose another metric",
    ),
    "a metric twice": (GOOD + "objective: [{metric: val_loss}, {metric: val_loss}]\n", 10, "objective", "twice"),
    "unknown sampler": (change("sampler: tpe", "sampler: tpee"), 8, "optimizer.sampler", "tpe"),
    "unknown preset": (change("preset: tiny", "preset: seed-1.4.5"), 3, "preset", "did you mean seed-1.4.6?"),
    "no preset": (change("  preset: tiny\n", ""), 2, "base.preset", "preset"),
    "a name with a path": (change("study: tides", "study: ../tides"), 1, "study", "path"),
    "a hidden name": (change("study: tides", "study: .tides"), 1, "study", "letters"),
    "a reserved name": (change("study: tides", "study: latest"), 1, "study", "reserved"),
    "stopping by several objectives": (
        GOOD + "objective: [{metric: val_loss}, {metric: peak_gib}]\n",
        9,
        "early_stopping",
        "several",
    ),
    "equal arms": (ABLATION + "    a: {model.memory: none}\n    b: {model: {memory: none}}\n", 14, "b", "arm a"),
    "an arm equal to the baseline": (ABLATION + "    a: {model.memory: token}\n", 13, "a", "the baseline"),
    "an arm called baseline": (
        ABLATION + "    baseline: {model.memory: none}\n",
        13,
        "ablation.arms.baseline",
        "reserved",
    ),
    "an arm called search": (ABLATION + "    search: {model.memory: none}\n", 13, "ablation.arms.search", "reserved"),
    "an arm with a seed": (ABLATION + "    a: {train.seed: 3}\n", 13, "train.seed", "same seeds"),
    "an arm that is not valid": (ABLATION + "    a: {model.dim: 30}\n", 13, "model.dim", "divisible"),
    "an arm with an unknown key": (
        ABLATION + "    a: {model.memroy: none}\n",
        13,
        "model.memroy",
        "did you mean model.memory?",
    ),
    "no arms": (GOOD + "ablation: {seeds: 3, arms: {}}\n", 10, "ablation.arms", "no arms"),
    "no seeds": (GOOD + "ablation: {arms: {a: {model.memory: none}}}\n", 10, "ablation.seeds", "missing"),
    "best of nothing": (
        NO_SEARCH + "ablation: {baseline: best, seeds: 3, arms: {a: {model.memory: none}}}\n",
        7,
        "ablation.baseline",
        "no search",
    ),
    "one and a half GPUs": (GOOD + "resources: {gpu: 1.5}\n", 10, "resources.gpu", "whole"),
    "a GPU without memory": (GOOD + "resources: {gpu_memory_gib: 0}\n", 10, "resources.gpu_memory_gib", "greater"),
    "mps: on": (GOOD + "resources: {mps: on}\n", 10, "resources.mps", "off"),
    "an unknown SwanLab mode": (GOOD + "tracking: {swanlab: cloud}\n", 10, "tracking.swanlab", "offline"),
}


def check(case: tuple[str, int, str, str], folder: Path) -> None:
    """The text of a case is refused in one line with its place, its key and its words."""
    text, line, key, words = case
    path = study_files.write(folder, text)
    with pytest.raises(BadInput) as caught:
        study_file.load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}:{line}: {key}"), said
    assert words in said
    assert re.search(r": .+; .+", said)
    assert "\n" not in said


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line_at_its_place(case: str, tmp_path: Path):
    check(BAD[case], tmp_path)


@pytest.mark.parametrize(
    ("given", "key", "words"),
    [
        ("study=a/b", "study", "path"),
        ("study=latest", "study", "reserved"),
        ("optimizer.trails=4", "optimizer.trails", "did you mean trials?"),
        ("optimzer.trials=4", "optimzer", "did you mean optimizer?"),
        ("base.model.dmi=4", "model.dmi", "did you mean model.dim?"),
        ("base.model.knowledge_num=1000", "model.knowledge_num", "961 or 1024"),
        ("search.model.ema_decay={one_minus_loguniform: [0.3, 1.0]}", "model.ema_decay", "below 1"),
        ("search=null", "search", "nothing to do"),
        ("trials", "trials", "not KEY=VALUE"),
        ("optimizer.trials=[", "", "not YAML"),
    ],
)
def test_an_error_in_a_setting_is_reported_at_set(given: str, key: str, words: str, tmp_path: Path):
    with pytest.raises(BadInput) as caught:
        study_files.load(tmp_path, given)
    assert str(caught.value).startswith(f"--set: {key}")
    assert words in str(caught.value)


def test_a_missing_data_file_is_reported_at_the_key_that_names_it(tmp_path: Path):
    text = change("data: {corpus: facts}", "data: {corpus: jsonl, train: none.jsonl}")
    study = study_files.load(tmp_path, text=text)
    with pytest.raises(BadInput) as caught:
        study_file.check_files(study)
    said = str(caught.value)
    assert said.startswith(f"{study.file}:4: data.train: {tmp_path / 'none.jsonl'}: no such file; ")


@pytest.mark.parametrize("line", ["{text: broken}", '{"title": "no text"}', '{"text": ""}'])
def test_a_malformed_line_of_data_is_reported_by_file_and_line(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "good"}\n' + line + "\n", encoding="utf-8")
    study = study_files.load(tmp_path, "base.data.corpus=jsonl", f"base.data.train={data}")
    with pytest.raises(BadInput) as caught:
        study_file.check_files(study)
    assert str(caught.value).startswith(f"{data}:2: ")
    assert guarded(lambda: bool(study_file.check_files(study))) == BAD_INPUT
    assert capsys.readouterr().err == f"{caught.value}\n"


@pytest.mark.parametrize("flags", [["--dry-run"], ["--inline"]])
@pytest.mark.parametrize("fault", ["it loses text", "it cannot be loaded", "a pipe"])
def test_a_run_and_its_plan_refuse_the_same_data(
    fault: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tokenizer, data = tmp_path / "tokenizer.json", tmp_path / "data.jsonl"
    data.write_text(
        "".join(f'{{"text": "{word}"}}\n' for word in ("ποταμός", "the river", "the sea")), encoding="utf-8"
    )
    written = without_unknown(["the river", "the sea"])
    tokenizer.write_text(written if fault == "it loses text" else written.replace('"Whitespace"', '"Blackspace"'))
    if fault == "a pipe":
        data.unlink()
        os.mkfifo(data)
    text = change("data: {corpus: facts}", "data: {corpus: jsonl, train: data.jsonl, tokenizer: tokenizer.json}")
    path, results = study_files.write(tmp_path, text), tmp_path / "results"
    assert guarded(lambda: sweep.main([str(path), "--results", str(results), *flags])) == BAD_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(
        {
            "it loses text": f"{path}:4: data.tokenizer: {tokenizer}: loses 3",
            "it cannot be loaded": f"{tokenizer}:1: tokenizers 0",
            "a pipe": f"{data}:1: is a pipe",
        }[fault]
    )
    assert said.err.count("\n") == 1
    assert not (results / "tides").exists()


@pytest.mark.parametrize("key", ["train", "knowledge", "tokenizer"])
def test_a_run_and_its_plan_refuse_a_missing_file_in_the_same_words(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tmp_path.joinpath("data.jsonl").write_text('{"text": "the river"}\n{"text": "the sea"}\n')
    names = {"train": "data.jsonl", key: "none.json"}
    files = ", ".join(f"{name}: {value}" for name, value in names.items())
    path = study_files.write(tmp_path, change("data: {corpus: facts}", f"data: {{corpus: jsonl, {files}}}"))
    said: list[str] = []
    for flag in ("--dry-run", "--inline"):
        assert guarded(lambda flag=flag: sweep.main([str(path), "--results", str(tmp_path / "r"), flag])) == BAD_INPUT
        captured = capsys.readouterr()
        assert captured.out == ""
        said.append(captured.err)
    assert said[0] == said[1]
    assert said[0].startswith(f"{path}:4: data.{key}: {tmp_path / 'none.json'}: no such file; ")
    assert guarded(lambda: sweep.main([str(path), "--dry-run", "--gpu", "4090"])) == DONE
    assert "no such file" in capsys.readouterr().out, "the machine with that GPU has the files"


def test_another_base_for_an_existing_study_is_refused_and_nothing_is_written(tmp_path: Path):
    results = tmp_path / "results"
    ledger, _ = lifecycle.open_study(study_files.load(tmp_path), results, resume=False)
    before = ledger.path("study.json").read_bytes()
    with pytest.raises(BadInput) as caught:
        lifecycle.open_study(study_files.load(tmp_path, "base.model.dim=64"), results, resume=True)
    assert str(caught.value).startswith("--set: base.model.dim: changed: study tides exists with another base; ")
    assert ledger.path("study.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \x00\n", b"a: !!python/object:os.system {}\n", b"[" * 5_000])
def test_garbage_is_bad_input(content: bytes, tmp_path: Path):
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput):
        study_file.load(path)


def test_a_missing_study_file_is_bad_input(tmp_path: Path):
    with pytest.raises(BadInput, match="cannot be read"):
        study_file.load(tmp_path / "none.yaml")
    with pytest.raises(BadInput, match="cannot be read"):
        study_file.load(tmp_path)
