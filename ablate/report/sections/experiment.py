"""The experiment record of one trial, made from its results. The source's authors wrote one by hand after each run.

It has the goal, configuration, environment, command line, progress, metrics against targets, curves, samples, the bank,
a comparison with a baseline trial, hypotheses with verdicts, and files. It judges nothing that is not in the numbers.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ablate import formatting
from ablate.analyze.basis.frames import completed, of_arm, records, rows, texts
from ablate.analyze.search.best import ranked
from ablate.analyze.search.space import show
from ablate.errors import BadInput, nearest
from ablate.escape import one_line
from ablate.records.ledger import Ledger
from ablate.report.render.document import (
    Block,
    Cell,
    Code,
    Column,
    Document,
    Paragraph,
    Section,
    Table,
    cell,
    notice,
    words,
)
from ablate.report.sections.designs import hypothesis_blocks
from ablate.report.sections.diagnostics import provenance_table
from ablate.report.sections.findings import Findings
from ablate.report.sections.run import (
    bank_content,
    bank_use,
    configuration,
    number,
    progress,
    reached,
    results,
    sample_listings,
)
from ablate.spec.designs import BASELINE, SEARCH
from ablate.trainers import recorded


def chosen_trial(findings: Findings, asked: str) -> str:
    """The trial that an id, the unique beginning of an id, or `best` names. Raises BadInput."""
    trials = findings.data.trials
    where = str(findings.data.path)
    if asked == "best":
        searched = findings.search
        order = ranked(searched if len(completed(searched)) else trials, objective=findings.primary.objective)
        if order.empty:
            raise BadInput(where, "--record", asked, "no trial has completed", "name one by its id (ablate.status)")
        return texts(order, "trial_id")[0]
    ids = texts(trials, "trial_id")
    found = [trial_id for trial_id in ids if asked and trial_id.startswith(asked)]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(where, "--record", asked, f"{len(found)} trials begin so", "give more of its digits")
    raise BadInput(
        where, "--record", asked, "no trial that has ended begins so", nearest(asked, ids) if ids else "wait"
    )


def record_document(findings: Findings, trial_id: str) -> Document:
    """The whole record of a trial that has ended."""
    row = records(rows(findings.data.trials, findings.data.trials["trial_id"] == trial_id))[0]
    reports = findings.data.reports(trial_id)
    facts = findings.data.facts
    other = _other(findings, row)
    sections = [
        Section("Goal", tuple(_goal(findings, row))),
        *configuration(findings, row),
        Section(
            "Environment", (provenance_table(findings, label=f"{trial_id}_environment"), *_commands(findings, row))
        ),
        Section("Progress", tuple(progress(findings, row, reports))),
        Section("Results", tuple(results(findings, row, reports))),
        Section("What it writes", tuple(_samples(findings, trial_id))),
        Section("The bank", (*bank_use(row, findings.data.trainer), bank_content(findings.data.path, trial_id))),
        Section("Against a baseline trial", tuple(_comparison(findings, row, other))),
    ]
    if hypotheses := hypothesis_blocks(findings):
        sections.append(Section("Hypotheses of the study", tuple(hypotheses)))
    sections.append(Section("Files", (_files(findings, trial_id),)))
    return Document(
        title=f"Experiment record: study {facts.study}, trial {trial_id}",
        question=one_line(facts.question, limit=1_000),
        byline=f"{_who(row)} · {row['status']} · {pd.Timestamp(row['finished_at']):%Y-%m-%d %H:%M} UTC",
        summary=_summary(findings, row, other),
        sections=tuple(sections),
    )


def _who(row: dict[str, Any]) -> str:
    return f"{'search' if row['arm'] == SEARCH else 'arm ' + str(row['arm'])}, seed {int(row['seed'])}"


def _summary(findings: Findings, row: dict[str, Any], other: dict[str, Any] | None) -> Paragraph:
    """By rules, as the report's summary: how the trial ended, its objective, which targets it reached."""
    per = findings.primary
    value, unit = number(row, per.objective.metric), per.unit
    text = f"Trial {row['trial_id']} ({_who(row)}) ended as {row['status']} after {int(row['tokens_seen']):,} of "
    text += f"{int(row['budget_tokens']):,} tokens in {formatting.duration(float(row['wall_s']))}."
    if not math.isfinite(value):
        reason = " ".join(str(row[name]) for name in ("error_kind", "error") if pd.notna(row[name]))
        return Paragraph((f"{text} It has no {per.objective.metric}. {one_line(reason, limit=400)}".strip(),))
    text += f" Its {per.objective.metric} is {formatting.significant(value)}{unit}"
    bigram = number(row, "bigram_floor")
    if per.objective.metric == "val_loss" and math.isfinite(bigram):
        side = "below" if value < bigram else "above"
        text += f", {formatting.fixed(abs(bigram - value), 3)} nats {side} the bigram floor"
    text += "."
    known, wanted = findings.data.trainer.by_name, findings.data.facts.spec.targets
    targets = [reached(row, known[name], target) for name, target in wanted.items()]
    if targets:
        verb = "is" if sum(targets) == 1 else "are"
        text += f" Of {formatting.count(len(targets), 'target')} {sum(targets)} {verb} reached."
    if other is not None and math.isfinite(number(other, per.objective.metric)):
        gap = value - number(other, per.objective.metric)
        text += f" Against trial {other['trial_id']} ({_who(other)}) the difference is "
        text += f"{formatting.fixed(gap, formatting.decimals_for(abs(gap)), sign=True)}{unit}: "
        text += "one run against one run, so no interval and no test."
    return Paragraph((text,))


def _goal(findings: Findings, row: dict[str, Any]) -> list[Block]:
    facts = findings.data.facts
    blocks: list[Block] = [words(one_line(facts.question, limit=1_000) or "The study states no question.")]
    arm = findings.data.arms.get(str(row["arm"]))
    if arm is not None:
        changes = ", ".join(f"{key} = {show(value)}" for key, value in arm.overrides.items())
        blocks.append(words("This trial is one of the arm ", Code(arm.name), ", which changes ", Code(changes), "."))
    claims = [entry.claim for entry in findings.judged if entry.claim.arm == row["arm"]]
    for claim in claims:
        amount = f"{claim.min_effect:g} {findings.data.trainer.unit(claim.metric)}".strip()
        when = f"Exploratory, {claim.hindsight}" if claim.hindsight else "Claimed before it was trained"
        blocks.append(words(f"{when}: {claim.claim} ({claim.metric}, by {amount} at least)."))
    for claim in [entry.claim for entry in findings.reached if entry.claim.arm == row["arm"]]:
        amount = f"{claim.target:g} {findings.data.trainer.unit(claim.metric)}".strip()
        when = f"Exploratory, {claim.hindsight}" if claim.hindsight else "Claimed before it was trained"
        blocks.append(words(f"{when}: {claim.claim} ({claim.metric} of {amount} or better)."))
    return blocks


def _commands(findings: Findings, row: dict[str, Any]) -> list[Block]:
    facts = findings.data.facts
    again = f"python -m ablate.rerun {facts.study} --trial {row['trial_id']} --verify"
    return [
        words("It was trained by ", Code(facts.command), "."),
        words("To train it again and compare every step: ", Code(again)),
    ]


def _samples(findings: Findings, trial_id: str) -> list[Block]:
    try:
        kept = findings.data.samples(trial_id)
    except BadInput as error:
        return [notice(one_line(str(error), limit=400))]
    if not kept:
        return [words("It kept no samples.")]
    ended = sum(bool(sample["ended"]) for sample in kept)
    intro = f"{ended} of {formatting.count(len(kept), 'sample')} ended by themselves. "
    rule = "The text before ▸ is the prompt, held out from training."
    return [words(intro + rule), *sample_listings(kept)]


def _other(findings: Findings, row: dict[str, Any]) -> dict[str, Any] | None:
    """The trial to compare with: for an arm's trial the baseline's run on its seed, for others the median completed
    trial of the search. None where there is no such trial."""
    trials, objective = findings.data.trials, findings.primary.objective
    if row["arm"] not in (SEARCH, BASELINE):
        done = completed(of_arm(trials, BASELINE))
        same = records(rows(done, done["seed"] == row["seed"]))
        return same[0] if same else None
    order = records(ranked(of_arm(trials, SEARCH), objective=objective))
    median = order[len(order) // 2] if order else None
    return None if median is None or median["trial_id"] == row["trial_id"] else median


def _comparison(findings: Findings, row: dict[str, Any], other: dict[str, Any] | None) -> list[Block]:
    if other is None:
        return [words("There is no completed trial to compare it with.")]
    wanted = dict.fromkeys(
        [*(entry.metric for entry in findings.data.objectives), *findings.data.trainer.headlines, "wall_s"]
    )
    lines = []
    for name in wanted:
        own, theirs = number(row, name), number(other, name)
        if not (math.isfinite(own) and math.isfinite(theirs)):
            continue
        gap = own - theirs
        unit = findings.data.trainer.unit(name) if name in findings.data.trainer.by_name else "s"
        lines.append(
            (
                Cell(f"{name} ({unit})" if unit else name, name),
                Cell(formatting.significant(own), own),
                Cell(formatting.significant(theirs), theirs),
                Cell(formatting.fixed(gap, formatting.decimals_for(abs(gap)), sign=True), gap),
                Cell(
                    f"{formatting.fixed(100 * gap / abs(theirs), 1, sign=True)}%" if theirs else formatting.DASH, None
                ),
            )
        )
    what = (
        "the baseline's run on the same seed"
        if other["arm"] == BASELINE
        else "the median completed trial of the search"
    )
    changed = _differences(row, other)
    table = Table(
        label=f"{row['trial_id']}_comparison",
        caption=f"This trial and trial {other['trial_id']}, {what}. One run against one run has no interval: the "
        "study's report says which differences are shown.",
        columns=(
            Column("metric", "metric", number=False),
            Column("this", "this trial"),
            Column("other", "the other"),
            Column("difference", "difference"),
            Column("relative", "relative"),
        ),
        rows=tuple(lines),
        empty="They have no metric in common.",
    )
    return [words("What differs in their configurations: ", Code(changed or "nothing but the arm"), "."), table]


def _differences(row: dict[str, Any], other: dict[str, Any]) -> str:
    ours, theirs = (recorded.values(str(entry["config_json"])) for entry in (row, other))
    pairs = [(key, ours[key], theirs[key]) for key in ours if key in theirs and ours[key] != theirs[key]]
    return ", ".join(f"{key} {show(mine)} (other: {show(its)})" for key, mine, its in pairs)


def _files(findings: Findings, trial_id: str) -> Table:
    """The trial's files, relative to the study's folder."""
    root = Ledger(findings.data.path).root
    about = {
        f"trials/{trial_id}.parquet": "its final row",
        f"history/{trial_id}-*.parquet": "a row a report, a file an attempt",
        f"samples/{trial_id}.json": "what it wrote",
        f"checkpoints/{trial_id}": "weights, bank and optimiser, where kept",
        f"swanlab/*{trial_id}*": "its SwanLab run",
        f"reruns/*{trial_id}*": "runs of the same configuration",
    }
    found = [
        (path.relative_to(root).as_posix() + ("/" if path.is_dir() else ""), said)
        for pattern, said in about.items()
        for path in sorted(root.glob(pattern))
    ]
    return Table(
        label=f"{trial_id}_files",
        caption=f"Files of the trial, under the study's folder ({findings.data.facts.study}).",
        columns=(Column("file", "file", number=False), Column("about", "what it holds", number=False)),
        rows=tuple((cell(name), cell(said)) for name, said in found),
        empty="No file of the trial is left.",
    )
