"""Reads the sections `ablation`, `hypotheses` and `targets` of a study file, and checks that they fit together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ablate.errors import ParameterError, nearest
from ablate.spec import declared_test, designs, distributions, feasibility, looks_reader, matching, tuning
from ablate.spec.designs import Arm
from ablate.spec.models import Ablation, Hypothesis, Objective
from ablate.spec.tree import NAME, NAME_HINT, Tree
from ablate.trainers import Config, Trainer, check_key

_NO_ARMS = "name at least one: `arms: {no_memory: {model.memory: none}}`"


def read(tree: Tree, *, base: Config, search: feasibility.Search, objectives: Sequence[Objective]) -> Ablation:
    """Read the section `ablation`. Raises BadInput unless every arm is a valid configuration."""
    written = tree.mapping("ablation")
    tree.known("ablation", written, tuple(name for name in Ablation.model_fields if name != "sequential"))
    sections = {
        "arms": {name: _named(tree, name, arm) for name, arm in _mapping(tree, written, "arms").items()},
        "leave_one_out": _components(tree, written, "leave_one_out"),
        "add_one_in": _components(tree, written, "add_one_in"),
        "factorial": _factorial(tree, _mapping(tree, written, "factorial")),
    }
    if not any(sections.values()):
        raise tree.bad("ablation.arms", "missing" if "arms" not in written else "empty", "no arms", _NO_ARMS)
    ablation = tree.model(
        "ablation", Ablation, {**written, **sections, **_tune(tree, written), **looks_reader.seeds(tree, written)}
    )
    _check_best(tree, ablation, search, objectives)
    with tree.at("ablation.factorial."):
        arms = designs.expand(ablation, base)
    _check_arms(tree, arms, base, search=search if ablation.baseline == "best" else {})
    _check_match(tree, ablation, arms, base=base, search=search)
    _check_tuning(tree, ablation, arms, base=base, search=search)
    if not arms:
        raise tree.bad("ablation.factorial", "one cell", "every cell is the baseline", "give a factor another level")
    _check_control(tree, ablation, arms)
    if ablation.sequential is not None:
        looks_reader.check(tree, ablation, ablation.sequential, arms)
    else:
        _check_power(tree, ablation, designs.family(arms, control=ablation.control))
    return ablation


def hypotheses(tree: Tree, ablation: Ablation | None, base: Config) -> tuple[Hypothesis, ...]:
    """Read the list `hypotheses`. Each claim must name an arm of the study, a metric that has a better direction, and
    either `min_effect` or a `target` that the study's seeds can show."""
    written = tree.value("hypotheses")
    if written is None:
        return ()
    example = "write a list of {claim: ..., arm: ..., metric: val_loss, min_effect: 0.01}"
    if not isinstance(written, list) or not all(isinstance(entry, dict) for entry in written):
        raise tree.bad("hypotheses", written, "not a list of mappings", example)
    if ablation is None:
        raise tree.bad("hypotheses", "given", "a hypothesis is about an arm, and the study has none", "add an ablation")
    arms = tuple(arm.name for arm in designs.expand(ablation, base))
    found: list[Hypothesis] = []
    for index, entry in enumerate(written):
        key = f"hypotheses.{index}"
        if "metric" in entry and not _better(tree, f"{key}.metric", entry["metric"]):
            rule = "neither a higher nor a lower value is better, so no improvement can be claimed"
            raise tree.bad(f"{key}.metric", entry["metric"], rule, "name another metric, such as val_loss")
        _check_kind(tree, key, entry)
        hypothesis = tree.model(key, Hypothesis, entry)
        known = arms if hypothesis.target is None else (designs.BASELINE, *arms)
        if hypothesis.arm not in known:
            raise tree.bad(f"{key}.arm", hypothesis.arm, "not an arm of this study", nearest(hypothesis.arm, known))
        found.append(hypothesis)
    _check_targets(tree, ablation, found)
    return tuple(found)


def targets(tree: Tree) -> dict[str, float]:
    """Read the mapping `targets`: metric -> the value that the user wants to reach."""
    found: dict[str, float] = {}
    for name, value in tree.optional("targets").items():
        key = f"targets.{name}"
        tree.metric(key, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise tree.bad(key, value, "not a finite number", "write it like val_loss: 2.5")
        found[name] = float(value)
    return found


# ---- designs as the file writes them


def _mapping(tree: Tree, written: dict[str, Any], name: str) -> dict[str, Any]:
    found = tree.value(name, written)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise tree.bad(f"ablation.{name}", found, "not a mapping", "write `name: {model.memory: none}` lines under it")
    return found


def _named(tree: Tree, name: str, written: object) -> dict[str, Any]:
    key = f"ablation.arms.{name}"
    if name in (designs.SEARCH, designs.BASELINE) or designs.is_preparation(name):
        raise tree.bad(key, "arm", "a reserved name, which the study gives to arms of its own", "choose another name")
    if isinstance(written, dict) and "reseed" in written:
        if written != {"reseed": True}:
            rule = "an A/A arm changes only the random streams of the baseline"
            raise tree.bad(f"{key}.reseed", written["reseed"], rule, "write {reseed: true} alone")
        if tree.trainer.description.reseed is None:
            rule = "this trainer cannot change the random streams of a trial"
            raise tree.bad(f"{key}.reseed", "true", rule, "leave the arm out")
        return written
    return _overrides(tree, key, name, written)


def _components(tree: Tree, written: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    components = _mapping(tree, written, name)
    return {
        component: _overrides(tree, f"ablation.{name}.{component}", component, overrides)
        for component, overrides in components.items()
    }


def _overrides(tree: Tree, key: str, name: str, written: object) -> dict[str, Any]:
    if not NAME.fullmatch(name):
        raise tree.bad(key, "arm", "not an arm's name", NAME_HINT)
    if not isinstance(written, dict):
        raise tree.bad(key, written, "not a mapping", "write {model.memory: none}")
    overrides = tree.overrides(f"{key}.", written)
    with tree.at(f"{key}."):
        for parameter, value in overrides.items():
            _may_override(parameter, value, tree.trainer)
    return overrides


def _may_override(parameter: str, value: object, trainer: Trainer) -> None:
    check_key(trainer, parameter)
    known = trainer.description
    if parameter == known.seed:
        raise ParameterError(parameter, value, "every arm has the same seeds", "remove it")
    if parameter == known.reseed:
        rule, hint = "only an A/A arm changes the random streams", "write the arm as {reseed: true}"
        raise ParameterError(parameter, value, rule, hint)
    if parameter in known.budget_keys:
        rule = "ablation.match decides the budget of every arm"
        raise ParameterError(parameter, value, rule, "remove it, or set it in base")


def _factorial(tree: Tree, written: dict[str, Any]) -> dict[str, list[Any]]:
    cells = 1
    for factor, levels in written.items():
        key = f"ablation.factorial.{factor}"
        hint = "write it like model.knowledge_length: [4, 8]"
        if not isinstance(levels, list) or len(levels) < 2:
            raise tree.bad(key, levels, "not a list of two levels or more", hint)
        with tree.at("ablation.factorial."):
            _may_override(factor, levels, tree.trainer)
        for level in levels:
            if isinstance(level, (list, dict)) or not NAME.fullmatch(designs.cell_name({factor: level})):
                rule = "a level that cannot be part of an arm's name"
                raise tree.bad(key, level, rule, "make it a named arm: `arms: {NAME: {KEY: VALUE}}`")
        if len(set(map(str, levels))) < len(levels):
            raise tree.bad(key, levels, "a level twice", "remove one of them")
        cells *= len(levels)
    if cells > designs.MAX_CELLS:
        raise tree.bad("ablation.factorial", f"{cells:,} cells", f"more than {designs.MAX_CELLS}", "use a search")
    return written


def _tune(tree: Tree, written: dict[str, Any]) -> dict[str, Any]:
    """`tune_each_arm`, with the trainer's default for `over` where the file leaves it out."""
    tune = tree.value("tune_each_arm", written)
    return {"tune_each_arm": {"over": tree.trainer.tuned_by_default, **tune}} if isinstance(tune, dict) else {}


def _better(tree: Tree, key: str, metric: object) -> str:
    return tree.trainer.description.by_name[tree.metric(key, metric)].better


# ---- whether the parts fit together


def _check_best(tree: Tree, ablation: Ablation, search: feasibility.Search, objectives: Sequence[Objective]) -> None:
    """Check that what needs one best trial (`tune_each_arm`, `baseline: best`) can have one."""
    several = len(objectives) > 1
    rule = "several objectives have no single best trial"
    if ablation.tune_each_arm is not None and several:
        raise tree.bad("ablation.tune_each_arm", "given", rule, "give one objective")
    if ablation.baseline != "best":
        return
    if not search:
        raise tree.bad("ablation.baseline", "best", "the study has no search", "use base, or add a search")
    if several:
        raise tree.bad("ablation.baseline", "best", rule, "use base")
    for factor in ablation.factorial:
        if factor in search:
            rule = "it is searched, so the baseline's cell is unknown until the search has ended"
            raise tree.bad(f"ablation.factorial.{factor}", "a factor", rule, "use baseline: base, or do not search it")


def _check_arms(tree: Tree, arms: Sequence[Arm], base: Config, *, search: feasibility.Search) -> None:
    places: dict[str, str] = {}
    for arm in arms:
        place = designs.prefix(arm).removesuffix(".")
        if arm.name in places:
            hint = f"rename it, or the one at {places[arm.name]}"
            raise tree.bad(place, "arm", f"another arm is called {arm.name} already", hint)
        places[arm.name] = place
        if not NAME.fullmatch(arm.name):
            raise tree.bad(place, arm.name, "not an arm's name", f"{NAME_HINT}; 100 characters at most")
        with tree.at(f"{place}."):
            feasibility.check_arm(base, arm.overrides, search=search)
    try:
        feasibility.check_different(base, {arm.name: arm.overrides for arm in arms}, search=search)
    except ParameterError as error:
        raise error.at(tree.document.place(places[error.key])) from None


def _check_match(
    tree: Tree, ablation: Ablation, arms: Sequence[Arm], *, base: Config, search: feasibility.Search
) -> None:
    key, match = "ablation.match", ablation.match
    known = tree.trainer.description
    others = set(known.budget_keys) - {known.budget}
    searched = ablation.baseline == "best" and bool(others & search.keys())
    if match in ("flops", "wall") and (base.budget is None or searched):
        unit = known.budget_unit
        rule = f"needs a budget in {unit}, and the {unit} of an epoch are unknown until the corpus is read"
        raise tree.bad(key, match, rule, f"give {known.budget} in base, or match tokens")
    if match == "flops" and not base.cost.flops_per_token:
        raise tree.bad(key, match, "the trainer does not say how many FLOPs it takes", "match tokens or wall")
    if match not in ("params", "total_params"):
        return
    which = "active" if match == "params" else "trained"
    for corner in feasibility.corners(search) if ablation.baseline == "best" else iter([{}]):
        baseline = base.override(corner)
        for arm in arms:
            config = baseline.override(arm.overrides)
            if not matching.same_size(baseline, config, match):
                own, control = matching.size(config, match), matching.size(baseline, match)
                rule = f"match is {match}, and this differs by more than 2% from the baseline's {control:,}"
                hint = "change the arm's size, or match tokens or flops"
                wrong = ParameterError(arm.name, f"{own:,} {which} parameters", rule, hint)
                raise wrong.at(tree.document.place(designs.prefix(arm).removesuffix(".")))


def _check_tuning(
    tree: Tree, ablation: Ablation, arms: Sequence[Arm], *, base: Config, search: feasibility.Search
) -> None:
    if ablation.tune_each_arm is None:
        return
    key = "ablation.tune_each_arm.over"
    try:
        space = tuning.space(ablation.tune_each_arm, base, search)
    except ParameterError as error:
        raise error.at(tree.document.place(key)) from None
    points = distributions.points(space)
    if points < ablation.tune_each_arm.trials:
        trials = f"{key.rpartition('.')[0]}.trials"
        rule = f"more than the {points:.0f} different points of the tuned space"
        raise tree.bad(trials, ablation.tune_each_arm.trials, rule, f"give {points:.0f}, or a wider range in `search`")
    known: Mapping[str, Any] = {**(search if ablation.baseline == "best" else {}), **space}
    for arm in arms:
        for parameter in arm.overrides:
            if parameter in space:
                place = designs.prefix(arm) + parameter
                rule = f"arm {arm.name} sets it, but it is tuned for each arm"
                raise tree.bad(place, arm.overrides[parameter], rule, f"remove it, or take {parameter} out of over")
        try:
            feasibility.check_arm(base, arm.overrides, search=known)
        except ParameterError as error:
            rule = f"not valid for arm {arm.name}: {error.rule} ({error.hint})"
            hint = f"give the range of {error.key} in `search`"
            raise ParameterError(error.key, error.value, rule, hint).at(tree.document.place(key)) from None


def _check_control(tree: Tree, ablation: Ablation, arms: Sequence[Arm]) -> None:
    """Check that the positive control is an arm, and not one in which no effect can be."""
    if ablation.control is None:
        return
    design = {arm.name: arm.design for arm in arms}
    claims = tuple(name for name, kind in design.items() if kind != "reseed")
    if ablation.control in claims:
        return
    if ablation.control in design:
        rule = "an A/A arm has no effect, so it cannot be the positive control"
        raise tree.bad("ablation.control", ablation.control, rule, "name an arm whose gain is known")
    hint = nearest(ablation.control, claims) if claims else "add the arm"
    raise tree.bad("ablation.control", ablation.control, "not an arm of this study", hint)


def _check_kind(tree: Tree, key: str, written: Mapping[str, Any]) -> None:
    """Check that a hypothesis is about `min_effect` or about a `target`."""
    one, hint = {"min_effect", "target"} & written.keys(), "give min_effect (a gain over the baseline) or target"
    if not one:
        raise tree.bad(f"{key}.min_effect", "missing", "a hypothesis needs min_effect or target", hint)
    if len(one) == 2:
        rule = "a hypothesis has min_effect or target, not both"
        raise tree.bad(f"{key}.target", written["target"], rule, "make it two hypotheses")
    for name in one:
        if written[name] is None:
            raise tree.bad(f"{key}.{name}", "null", "not a number", "write it like 0.1 or 1e-4")
    if "alpha" in written and "target" not in written:
        rule = f"only a hypothesis about a target has a level of its own; others are judged at {declared_test.ALPHA}"
        raise tree.bad(f"{key}.alpha", written["alpha"], rule, "remove it")


def _check_targets(tree: Tree, ablation: Ablation, found: Sequence[Hypothesis]) -> None:
    """Refuse targets that the one-sample test cannot show with the study's seeds, unless the study is exploratory."""
    claims = [(index, claim) for index, claim in enumerate(found) if claim.target is not None]
    smallest = min(1.0, len(claims) * declared_test.smallest_p_one_sided(ablation.seeds))
    for index, claim in claims:
        if smallest >= claim.alpha and not ablation.exploratory:
            about = "1 target" if len(claims) == 1 else f"{len(claims)} targets"
            rule = f"the one-sample test cannot reject at {claim.alpha:g}: its smallest p by Holm over {about} is"
            rule += f" {smallest:.3g}"
            needed = declared_test.seeds_needed_one_sided(claim.alpha / len(claims))
            hint = f"give {needed} seeds, or set `exploratory: true`"
            raise tree.bad(f"hypotheses.{index}.target", claim.target, rule, hint)


def _check_power(tree: Tree, ablation: Ablation, arms: int) -> None:
    smallest = declared_test.smallest_p_holm(seeds=ablation.seeds, arms=arms)
    if smallest > declared_test.ALPHA and not ablation.exploratory:
        rule = (
            f"the declared test cannot reject: the smallest p_holm with {arms} {'arm' if arms == 1 else 'arms'}"
            f" is {smallest:.3g}"
        )
        hint = f"give {declared_test.seeds_needed(arms)} seeds, or set `exploratory: true`"
        raise tree.bad("ablation.seeds", ablation.seeds, rule, hint)
