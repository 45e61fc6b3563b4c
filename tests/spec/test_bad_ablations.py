"""Every kind of bad input in an ablation, its hypotheses, targets and audits is one line that names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spec.test_bad_input import change, check
from tests.study_files import GOOD


def ablated(*lines: str, seeds: int = 9) -> str:
    """GOOD with an ablation; `lines` are its keys, from line 12 of the file on."""
    return GOOD + f"ablation:\n  seeds: {seeds}\n" + "".join(f"  {line}\n" for line in lines)


def sequential(*lines: str, seeds: str) -> str:
    """As `ablated`, with a mapping for seeds."""
    return ablated(*lines).replace("seeds: 9", f"seeds: {seeds}")


ARM = "arms: {a: {model.memory: none}}"
HYPOTHESIS = "{claim: better, arm: a, metric: val_loss, min_effect: 0.01}"

DESIGNS = {
    "an unknown key in an ablation": (ablated("arm: {}"), 12, "ablation.arm", "did you mean arms?"),
    "designs that are no mapping": (ablated("leave_one_out: [ema]"), 12, "ablation.leave_one_out", "not a mapping"),
    "a component that is no mapping": (
        ablated("leave_one_out: {ema: off}"),
        12,
        "ablation.leave_one_out.ema",
        "not a mapping",
    ),
    "a component with an unknown key": (
        ablated("add_one_in: {norm: {model.read_nrom: rms}}"),
        12,
        "model.read_nrom",
        "did you mean model.read_norm?",
    ),
    "a component that is in already": (
        ablated("add_one_in: {norm: {model.read_norm: rms}}"),
        12,
        "with_norm",
        "the same configuration as the baseline",
    ),
    "an arm of two designs": (
        ablated("arms: {without_ema: {model.ema_decay: 0.5}}", "leave_one_out: {ema: {model.ema: off}}"),
        13,
        "ablation.leave_one_out.ema",
        "is called without_ema already",
    ),
    "one configuration by two designs": (
        ablated("arms: {off: {model.ema: off}}", "leave_one_out: {ema: {model.ema: off}}"),
        13,
        "without_ema",
        "the same configuration as arm off",
    ),
    "reseed and something else": (
        ablated("arms: {aa: {reseed: true, model.memory: none}}"),
        12,
        "ablation.arms.aa.reseed",
        "changes only the random streams",
    ),
    "reseed: false": (ablated("arms: {aa: {reseed: false}}"), 12, "ablation.arms.aa.reseed", "write {reseed: true}"),
    "two A/A arms": (ablated("arms: {one: {reseed: true}, two: {reseed: true}}"), 12, "two", "arm one"),
    "an arm with streams of its own": (ablated("arms: {a: {train.reseed: 2}}"), 12, "train.reseed", "reseed: true"),
    "an arm with a budget of its own": (ablated("arms: {a: {train.tokens: 512}}"), 12, "train.tokens", "match"),
    "an arm called like a tuning": (
        ablated("arms: {tune.a: {model.ema: off}}"),
        12,
        "ablation.arms.tune.a",
        "reserved",
    ),
    "a factor with one level": (
        ablated("factorial: {model.ema_decay: [0.9]}"),
        12,
        "ablation.factorial.model.ema_decay",
        "two levels or more",
    ),
    "a factor that is no list": (
        ablated("factorial: {model.ema_decay: 0.9}"),
        12,
        "ablation.factorial.model.ema_decay",
        "two levels or more",
    ),
    "a level twice": (
        ablated("factorial: {model.ema_decay: [0.5, 0.5]}"),
        12,
        "ablation.factorial.model.ema_decay",
        "a level twice",
    ),
    "a level twice in another spelling": (
        ablated("factorial: {model.knowledge_length: [4, 4.0]}"),
        12,
        "knowledge_length-4.0",
        "the same configuration",
    ),
    "an unknown factor": (
        ablated("factorial: {model.ema_deccay: [0.5, 0.9]}"),
        12,
        "model.ema_deccay",
        "did you mean model.ema_decay?",
    ),
    "a seed for a factor": (ablated("factorial: {train.seed: [0, 1]}"), 12, "train.seed", "same seeds"),
    "a level that is not valid": (
        ablated("factorial: {model.ema_decay: [0.5, 1.5]}"),
        12,
        "model.ema_decay",
        "less than 1",
    ),
    "a level that is no name": (
        ablated("factorial: {data.tokenizer: [a/b.json, c/d.json]}"),
        12,
        "ablation.factorial.data.tokenizer",
        "named arm",
    ),
    "a cell that is not valid": (
        ablated("factorial:", "  model.knowledge_num: [16, 1024]", "  model.num_selected: [4, 8]"),
        14,
        "model.num_selected",
        "more than sqrt(knowledge_num) = 4",
    ),
    "too many cells": (
        ablated(
            f"factorial: {{model.ema_decay: {[n / 64 for n in range(32)]}, model.ema_update_freq: {[*range(1, 41)]}}}"
        ),
        12,
        "ablation.factorial",
        "use a search",
    ),
    "a searched factor of the best": (
        ablated("baseline: best", "factorial: {model.knowledge_length: [4, 8]}"),
        13,
        "ablation.factorial.model.knowledge_length",
        "use baseline: base",
    ),
    "too few seeds": (
        ablated(ARM, seeds=5),
        11,
        "ablation.seeds: 5",
        "the smallest p_holm with 1 arm is 0.0625; give 6 seeds, or set `exploratory: true`",
    ),
    "too few seeds for so many arms": (
        ablated("arms: {a: {model.memory: none}, b: {model.memory: blind}}", seeds=6),
        11,
        "ablation.seeds: 6",
        "give 7 seeds",
    ),
    "a most that is no more than first": (
        sequential(ARM, seeds="{first: 8, most: 8}"),
        11,
        "ablation.seeds.most: 8",
        "not above first, 8; raise it, or write seeds: 8",
    ),
    "looks that cannot reject": (
        sequential(ARM, seeds="{first: 4, most: 5}"),
        11,
        "ablation.seeds.most: 5",
        "the declared test cannot reject at any look, with 1 arm; give 6, or set `exploratory: true`",
    ),
    "too many looks": (
        sequential(ARM, seeds="{first: 8, most: 200, step: 1}"),
        11,
        "ablation.seeds.step: 1",
        "more than 25 looks; raise it to 8",
    ),
    "an alpha above the level of the report": (
        sequential(ARM, seeds="{first: 8, most: 40, alpha: 0.1}"),
        11,
        "ablation.seeds.alpha: 0.1",
        "out of range; must be at most 0.05",
    ),
    "no most": (sequential(ARM, seeds="{first: 8}"), 11, "ablation.seeds.most", "missing"),
    "an unknown key of seeds": (sequential(ARM, seeds="{first: 8, mst: 40}"), 11, "ablation.seeds.mst", "most?"),
    "the name that seeds have inside": (
        ablated(ARM, "sequential: {first: 8, most: 40}"),
        13,
        "ablation.sequential",
        "unknown key",
    ),
    "sequential seeds of a factorial": (
        sequential("factorial: {model.memory: [none, token]}", seeds="{first: 8, most: 40}"),
        12,
        "ablation.factorial",
        "write seeds: 40",
    ),
    "sequential seeds of A/A arms alone": (
        sequential("arms: {noise: {reseed: true}}", seeds="{first: 8, most: 40}"),
        11,
        "ablation.seeds: a mapping",
        "none of its arms claims anything",
    ),
    "exploratory, in words": (ablated(ARM, "exploratory: maybe"), 13, "ablation.exploratory", "true or false"),
    "an unknown match": (
        ablated(ARM, "match: flop"),
        13,
        "ablation.match",
        "'tokens', 'flops', 'wall', 'params' or 'total_params'",
    ),
    "flops of epochs": (
        ablated(ARM, "match: flops").replace("corpus: facts}", "corpus: facts}\n  train.epochs: 2"),
        14,
        "ablation.match: flops",
        "budget in tokens",
    ),
    "arms of another size": (
        ablated("arms: {a: {model.memory_heads: 4}}", "match: params"),
        12,
        "a: ",
        "active parameters: match is params, and this differs by more than 2% from the baseline's",
    ),
    "arms with other tables": (
        ablated("arms: {a: {model.memory: ngram}}", "match: total_params"),
        12,
        "a: ",
        "trained parameters: match is total_params, and this differs by more than 2% from the baseline's",
    ),
    "tuning without trials": (ablated(ARM, "tune_each_arm: {}"), 13, "ablation.tune_each_arm.trials", "missing"),
    "tuning that is no mapping": (ablated(ARM, "tune_each_arm: 4"), 13, "ablation.tune_each_arm", "mapping"),
    "tuning nothing": (
        ablated(ARM, "tune_each_arm: {trials: 4, over: []}"),
        13,
        "ablation.tune_each_arm.over",
        "different keys",
    ),
    "tuning an unknown key": (
        ablated(ARM, "tune_each_arm: {trials: 4, over: [train.ler]}"),
        13,
        "train.ler",
        "did you mean train.lr?",
    ),
    "tuning what is no nuisance": (
        ablated(ARM, "tune_each_arm: {trials: 4, over: [train.seed]}"),
        13,
        "train.seed",
        "not a nuisance parameter",
    ),
    "tuning a whole number": (
        ablated(ARM, "tune_each_arm: {trials: 4, over: [train.batch_size]}"),
        13,
        "train.batch_size",
        "give its range in `search`",
    ),
    "tuning out of range": (
        ablated(ARM, "tune_each_arm: {trials: 4, over: [train.beta1]}"),
        13,
        "train.beta1",
        "give the range of train.beta1 in `search`",
    ),
    "tuning more often than there are points": (
        ablated(ARM, "tune_each_arm: {trials: 4, over: [train.batch_size]}").replace(
            "model.knowledge_length: {choice: [4, 8, 16]}", "train.batch_size: {int: [7, 9]}"
        ),
        13,
        "ablation.tune_each_arm.trials: 4",
        "more than the 3 different points",
    ),
    "tuning what an arm fixes": (
        ablated("arms: {a: {train.lr: 0.001}}", "tune_each_arm: {trials: 4}"),
        12,
        "ablation.arms.a.train.lr",
        "tuned for each arm",
    ),
    "tuning by several objectives": (
        ablated(ARM, "tune_each_arm: {trials: 4}").replace(
            "early_stopping: {asha: {min_tokens: 1_000, reduction: 3}}\n",
            "objective: [{metric: val_loss}, {metric: peak_gib}]\n",
        ),
        13,
        "ablation.tune_each_arm",
        "several objectives",
    ),
    "hypotheses of no arms": (GOOD + f"hypotheses: [{HYPOTHESIS}]\n", 10, "hypotheses", "add an ablation"),
    "hypotheses that are no list": (ablated(ARM) + f"hypotheses: {HYPOTHESIS}\n", 13, "hypotheses", "not a list"),
    "a hypothesis about an unknown arm": (
        ablated("arms: {blind: {model.memory: blind}}")
        + "hypotheses:\n  - {claim: better, arm: blnd, metric: val_loss, min_effect: 0.01}\n",
        14,
        "hypotheses.0.arm: blnd",
        "did you mean blind?",
    ),
    "a hypothesis about an unknown metric": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace('val_loss', 'val_los')}\n",
        14,
        "hypotheses.0.metric: val_los",
        "did you mean val_loss?",
    ),
    "a hypothesis about a metric without a good side": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace('val_loss', 'read_entropy')}\n",
        14,
        "hypotheses.0.metric: read_entropy",
        "neither a higher nor a lower value is better",
    ),
    "a hypothesis of no size": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace('0.01', '0')}\n",
        14,
        "hypotheses.0.min_effect: 0",
        "greater than 0",
    ),
    "an unknown control": (
        ablated("arms: {blind: {model.memory: blind}}", "control: blnd"),
        13,
        "ablation.control: blnd",
        "did you mean blind?",
    ),
    "a control without an effect": (
        ablated("arms: {blind: {model.memory: blind}, aa: {reseed: true}}", "control: aa"),
        13,
        "ablation.control: aa",
        "an A/A arm has no effect",
    ),
    "a control that is no name": (ablated(ARM, "control: {arm: a}"), 13, "ablation.control", "not a text"),
    "a hypothesis without a size": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace(', min_effect: 0.01', '')}\n",
        13,
        "hypotheses.0.min_effect: missing",
        "give min_effect (a gain over the baseline) or target",
    ),
    "a hypothesis with two sizes": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace('0.01', '0.01, target: 3')}\n",
        14,
        "hypotheses.0.target: 3",
        "min_effect or target, not both",
    ),
    "a hypothesis with an empty target": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace('min_effect: 0.01', 'target: null')}\n",
        14,
        "hypotheses.0.target",
        "not a number",
    ),
    "a target that is no value": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace('min_effect: 0.01', 'target: low')}\n",
        14,
        "hypotheses.0.target: low",
        "not a number",
    ),
    "a level without a target": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace('0.01', '0.01, alpha: 0.01')}\n",
        14,
        "hypotheses.0.alpha: 0.01",
        "remove it",
    ),
    "a level of nothing": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace('min_effect: 0.01', 'target: 3, alpha: 0')}\n",
        14,
        "hypotheses.0.alpha: 0",
        "greater than 0",
    ),
    "a target that the seeds cannot show": (
        ablated(ARM, seeds=6) + f"hypotheses:\n  - {HYPOTHESIS.replace('min_effect: 0.01', 'target: 3')}\n",
        14,
        "hypotheses.0.target: 3",
        "give 7 seeds",
    ),
    "a hypothesis of the baseline's gain": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace('arm: a', 'arm: baseline')}\n",
        14,
        "hypotheses.0.arm: baseline",
        "not an arm of this study",
    ),
    "a hypothesis that claims nothing": (
        ablated(ARM) + f"hypotheses:\n  - {HYPOTHESIS.replace('claim: better, ', '')}\n",
        13,
        "hypotheses.0.claim: missing",
        "give it a value",
    ),
    "a target of an unknown metric": (
        GOOD + "targets: {val_los: 2}\n",
        10,
        "targets.val_los",
        "did you mean val_loss?",
    ),
    "a target that is no number": (GOOD + "targets: {val_loss: low}\n", 10, "targets.val_loss: low", "val_loss: 2.5"),
    "targets that are no mapping": (GOOD + "targets: 2\n", 10, "targets: 2", "not a mapping"),
    "an audit of more than all": (
        change("reduction: 3}}", "reduction: 3}, audit_fraction: 1.5}"),
        9,
        "early_stopping.audit_fraction",
        "at most 1",
    ),
    "an unknown key in early stopping": (
        change("reduction: 3}}", "reduction: 3}, audit: 0.1}"),
        9,
        "early_stopping.audit",
        "one of asha, audit_fraction",
    ),
    "a searched reseed": (
        change("model.ema_decay: {one_minus_loguniform: [0.3, 0.999]}", "train.reseed: {int: [0, 9]}"),
        6,
        "train.reseed",
        "chance",
    ),
}


@pytest.mark.parametrize("case", DESIGNS)
def test_a_bad_ablation_is_refused_in_one_line_at_its_place(case: str, tmp_path: Path):
    check(DESIGNS[case], tmp_path)
