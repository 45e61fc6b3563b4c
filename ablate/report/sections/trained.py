"""What was trained: the base against its preset, and each arm's change, parameters, budget and epochs."""

from __future__ import annotations

from ablate import formatting
from ablate.analyze.search.space import show
from ablate.analyze.trained import Span, Trained
from ablate.records.ledger import Ledger
from ablate.report.render.document import Block, Cell, Code, Column, Section, Table, cell, notice, words
from ablate.report.sections.findings import Findings
from ablate.spec.designs import BASELINE, SEARCH
from ablate.study import checks


def trained_sections(findings: Findings) -> list[Section]:
    """The base, and what its trials trained; the base alone before a trial has ended."""
    blocks: list[Block] = [notice(caution) for caution in findings.cautions] + _base(findings) + _check(findings)
    if findings.trained:
        blocks += [words(_passes(findings)), _table(findings)]
    return [Section("What was trained", tuple(blocks))]


def _base(findings: Findings) -> list[Block]:
    base, defaults = findings.data.facts.spec.base, findings.subject.defaults
    start = ("the preset ", Code(str(base["preset"]))) if "preset" in base else ("the trainer's defaults",)
    if defaults is None:
        return [words("Trials start from ", *start, "; which values the study file changes there is not known here: "
                      "the study's trainer could not be asked.")]  # fmt: skip
    trainer = findings.data.trainer
    keys = [key for key in base if key in defaults and base[key] != defaults[key] and key != trainer.seed]
    if not keys:
        return [words("The base is ", *start, ", unchanged.")]
    table = Table(
        label="base",
        caption="The study's base: every value that the study file changes.",
        columns=(
            Column("parameter", "parameter", number=False),
            Column("base", "base", number=False),
            Column("default", f"preset {base['preset']}" if "preset" in base else "default", number=False),
        ),
        rows=tuple((cell(key), *(Cell(_value(held[key]), held[key]) for held in (base, defaults))) for key in keys),
    )
    return [words("The base is ", *start, " with other values."), table]


def _check(findings: Findings) -> list[Block]:
    """What short runs of the trainer showed; of the built-in trainer its tests do."""
    found = checks.read(Ledger(findings.data.path), code_hash=findings.data.facts.provenance.code_hash)
    if found is None:
        own = bool(findings.data.trainer.settings)
        return [words("The trainer, as its code was, was never checked by short runs (ablate check).")] if own else []
    if found.complaints:
        return [notice(f"Short runs of the trainer: {complaint}.") for complaint in found.complaints]
    text = "Short runs of the trainer: the same seed gives the same numbers bit for bit, another seed gives others"
    text += ", each searched key and each arm changes something"
    resumed = "; whether a resumed run equals one that was not interrupted is not known"
    if found.resumed_apart is not None:
        resumed = ", and a resumed run equals one that was not interrupted"
    return [words(f"{text}{resumed}.")]


def _value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else show(value)  # pyright: ignore


def _passes(findings: Findings) -> str:
    """The budget, in epochs where they are known."""
    unit = findings.data.trainer.budget_unit
    budget, epoch, epochs = (
        _over([getattr(entry, name) for entry in findings.trained]) for name in ("budget", "epoch", "epochs")
    )
    if not budget.known:
        return "No trial has recorded its budget."
    text = f"A trial's budget is {_number(budget)} {unit}"
    if not epoch.known:
        return f"{text}; how many passes over the training data (epochs) that is was not recorded."
    return f"{text}: {_number(epochs)} epochs, as one pass over the training data has {_number(epoch)} {unit}."


def _table(findings: Findings) -> Table:
    unit = findings.data.trainer.budget_unit
    numbers = {
        "parameters": ("parameters", "parameters"),
        "active": ("active_parameters", "active"),
        "budget": ("budget", f"budget ({unit})"),
        "epochs": ("epochs", "epochs"),
    }
    kept = [name for name in numbers if any(getattr(entry, name).known for entry in findings.trained)]
    return Table(
        label="trained",
        caption="What the trials trained; the lowest and the highest number where they differ." + _active(findings),
        columns=(
            Column("group", "trials", number=False),
            Column("changes", "what they change", number=False),
            *(Column(*numbers[name]) for name in kept),
        ),
        rows=tuple(
            (cell(entry.group), cell(_changes(findings, entry)), *(_cell(getattr(entry, name)) for name in kept))
            for entry in findings.trained
        ),
    )


def _active(findings: Findings) -> str:
    metric = findings.data.trainer.by_name.get("active_parameters")
    return f" Active: {metric.about}." if metric else " Active parameters are the trainer's, by formula."


def _changes(findings: Findings, entry: Trained) -> str:
    if entry.group == SEARCH:
        return ", ".join(dimension.key for dimension in findings.data.space)
    ablation = findings.data.facts.spec.ablation
    if entry.group == BASELINE:
        return "the search's best" if ablation and ablation.baseline == "best" else "the base"
    arm = findings.data.arms.get(entry.group)
    return ", ".join(f"{key} = {show(value)}" for key, value in arm.overrides.items()) if arm else "not in the study"


def _over(spans: list[Span]) -> Span:
    known = [span for span in spans if span.known] or spans
    return Span(min(span.low for span in known), max(span.high for span in known))


def _cell(span: Span) -> Cell:
    return Cell(_number(span), span.low if span.low == span.high else _number(span))


def _number(span: Span) -> str:
    """`204,800`, `3.2 to 3.3`."""
    if not span.known:
        return formatting.DASH
    ends = [f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}" for value in (span.low, span.high)]
    return " to ".join(dict.fromkeys(ends))
