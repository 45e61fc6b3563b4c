"""The report's command: `python -m ablate.report STUDY`. Works on a finished study, a running one, and a killed one."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ablate import cli, escape, formatting
from ablate.errors import BadInput
from ablate.records import atomic_files, locations
from ablate.records.ledger import Ledger
from ablate.records.locations import Place
from ablate.report import pages, tables
from ablate.report.document import Document
from ablate.report.findings import Findings, analyse, look_of
from ablate.report.sections.arms import CSV_COLUMNS, arm_sections, csv_rows
from ablate.report.sections.bank import bank_content
from ablate.report.sections.designs import factorial_sections, hypothesis_sections
from ablate.report.sections.diagnostics import missing_sections, record_sections
from ablate.report.sections.experiment import chosen_trial, record_document
from ablate.report.sections.search import search_sections
from ablate.report.sections.summary import answer
from ablate.study import lookup
from ablate.study.dataset import read

PAGES = ("md", "html", "tex")
FORMATS = (*PAGES, "csv")
NAMED = 12  # trials that a complaint names


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, write, and print where the report is and what it answers."""
    arguments = parser().parse_args(argv)
    formats = _formats(arguments.format)
    study_dir = lookup.find(arguments.study, results=arguments.results)
    findings = findings_of(study_dir, allow_mixed=arguments.allow_mixed)
    if arguments.record is not None:
        trial_id = chosen_trial(findings, arguments.record)
        write_record(findings, trial_id, formats=formats, out=arguments.out)
        folder = arguments.out or findings.data.path / "report" / "records"
        written = [folder / f"{trial_id}.{suffix}" for suffix in PAGES if suffix in formats]
        print(*(written or [folder / "tables"]), sep="\n")
        return cli.DONE
    write_findings(findings, formats=formats, out=arguments.out)
    print(arguments.out or findings.data.path / "report")
    print(escape.one_line(answer(findings).plain, limit=10_000))
    return cli.DONE


def write(
    study_dir: Place, *, formats: Sequence[str] = FORMATS, out: Path | None = None, allow_mixed: bool = False
) -> Path:
    """Write a study's report and return its folder, results/STUDY/report where `out` is None; of a study in a bucket,
    the copy of it on this machine.

    Raises BadInput where trials that are compared differ in commit, budget, data or versions and `allow_mixed` is not
    set.
    """
    return write_findings(findings_of(study_dir, allow_mixed=allow_mixed), formats=formats, out=out)


def findings_of(study_dir: Place, *, allow_mixed: bool = False) -> Findings:
    """Read and analyse a study. Raises BadInput as `write` does."""
    # A large study that nobody may write is read from its parts.
    with contextlib.suppress(OSError):
        Ledger(study_dir).compact()
    findings = analyse(read(study_dir, whole=False))
    if findings.mixed and not allow_mixed:
        first = findings.mixed[0]
        ids = list(dict.fromkeys(trial_id for entry in findings.mixed for trial_id in entry.odd))
        named = ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
        columns = " and ".join(dict.fromkeys(entry.column for entry in findings.mixed))
        rule = f"trials of {first.comparison} differ in {columns} from its others ({first.usual})"
        hint = "train them again in one study, or pass --allow-mixed to compare them all the same, marked"
        raise BadInput(str(study_dir), first.column, named, rule, hint)
    return findings


def write_findings(findings: Findings, *, formats: Sequence[str] = FORMATS, out: Path | None = None) -> Path:
    """Write the files of these formats. Each is replaced whole: a reader sees the old one or the new one.

    That the ablation's results are shown is kept in the ledger, once for each state of the study.
    """
    ledger = Ledger(findings.data.path)
    folder = ledger.path("report") if out is None else out
    _keep_look(findings)
    for name, content in _files(findings, compose(findings), formats=formats):
        atomic_files.replace(folder / name, partial(_fill, content=content))
    if out is None:
        ledger.store.push("report")
    return folder


def _keep_look(findings: Findings) -> None:
    """Record that these results were seen, unless the same ones were before; say so where it cannot be recorded."""
    look = look_of(findings, at=datetime.now(UTC).isoformat(timespec="microseconds"))
    if look is None or any(replace(look, at=seen.at) == seen for seen in findings.data.looks):
        return
    try:
        Ledger(findings.data.path).record_look(look)
    except OSError as error:
        what = "that these results were seen is not recorded: seeds added later will not be marked as exploratory"
        print(f"{what} ({error})", file=sys.stderr)


def write_record(
    findings: Findings, trial_id: str, *, formats: Sequence[str] = FORMATS, out: Path | None = None
) -> Path:
    """Write the experiment record of one trial, ID.md and so on, and return its folder: report/records by default."""
    ledger = Ledger(findings.data.path)
    folder = ledger.path("report", "records") if out is None else out
    _keep_look(findings)
    document = record_document(findings, trial_id, bank=bank_content(findings.data.path, trial_id))
    drawings: dict[str, str] = {}
    for name, content in _drawn(document, drawings) if set(PAGES) & set(formats) else ():
        atomic_files.replace(folder / name, partial(_fill, content=content))
    for suffix, render in TABLES.items():
        for table in document.tables:
            if suffix in formats:
                atomic_files.replace(
                    folder / f"tables/{table.label}.{suffix}", partial(_fill, content=render(table).encode())
                )
    for suffix, text in _pages(document, drawings, formats=formats):
        atomic_files.replace(folder / f"{escape.file_name(trial_id)}.{suffix}", partial(_fill, content=text.encode()))
    if out is None:
        ledger.store.push("report/records")
    return folder


def compose(findings: Findings) -> Document:
    """The whole report, before any format is chosen."""
    facts, progress = findings.data.facts, findings.progress
    state = "" if progress.whole else ", unfinished"
    day = facts.started_at[:10]
    byline = (
        f"{formatting.count(progress.final, 'trial')} of {progress.planned}{state} · {facts.provenance.device} · {day}"
    )
    sections = [
        *missing_sections(findings),
        *search_sections(findings),
        *arm_sections(findings),
        *factorial_sections(findings),
        *hypothesis_sections(findings),
        *record_sections(findings),
    ]
    return Document(
        title=f"Study {facts.study}",
        question=escape.one_line(facts.question, limit=1_000),
        byline=byline,
        answer=answer(findings),
        sections=tuple(sections),
    )


TABLES = {"md": tables.to_markdown, "tex": tables.to_latex, "csv": tables.to_csv}


def _files(findings: Findings, document: Document, *, formats: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(name in the report's folder, content). What the pages show comes before the pages."""
    drawings: dict[str, str] = {}
    if set(PAGES) & set(formats):
        yield from _drawn(document, drawings)
    for suffix, render in TABLES.items():
        if suffix in formats:
            for table in document.tables:
                yield f"tables/{table.label}.{suffix}", render(table).encode()
    if "csv" in formats:
        yield "trials.csv", _trials_csv(findings).encode()
        if findings.primary.effects:
            yield "ablation.csv", tables.csv_text(CSV_COLUMNS, csv_rows(findings)).encode()
    for suffix, text in _pages(document, drawings, formats=formats):
        yield f"report.{suffix}", text.encode()


def _drawn(document: Document, drawings: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Every figure in each of its formats; `drawings` gets its `<svg>` by its label."""
    from ablate.report import canvas

    for figure in document.figures:
        drawn = figure.draw()
        drawings[figure.label] = canvas.to_svg(drawn)
        yield f"figures/{figure.label}.svg", drawings[figure.label].encode()
        yield f"figures/{figure.label}.png", canvas.to_png(drawn)
        yield f"figures/{figure.label}.pdf", canvas.to_pdf(drawn)


def _pages(document: Document, drawings: dict[str, str], *, formats: Sequence[str]) -> Iterator[tuple[str, str]]:
    if "md" in formats:
        yield "md", pages.to_markdown(document)
    if "tex" in formats:
        yield "tex", pages.to_latex(document)
    if "html" in formats:
        yield "html", pages.to_html(document, drawings=drawings)


def _trials_csv(findings: Findings) -> str:
    trials = findings.data.trials
    texts = trials.select_dtypes(include=["object", "string"])
    shown = trials.assign(**{name: texts[name].map(escape.csv_value) for name in texts})
    return shown.rename(columns=escape.csv_value).to_csv(index=False)


def _fill(path: Path, *, content: bytes) -> None:
    path.write_bytes(content)


def _formats(text: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    for part in chosen or [text]:
        if part not in FORMATS:
            raise BadInput("--format", "", part or "empty", "no such format", f"choose from {', '.join(FORMATS)}")
    return chosen


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ablate.report`."""
    made = argparse.ArgumentParser(
        prog="python -m ablate.report",
        description="Write a study's report: tables, figures and pages. Works while the study runs and after it was"
        " killed, too.",
        epilog="example: python -m ablate.report ema --format html",
    )
    made.add_argument(
        "study", metavar="STUDY", help="a name under --results, a path, an s3:// or gs:// URL, or `latest`"
    )
    made.add_argument("--results", metavar="DIR", type=locations.parse, default="results", help=locations.HELP)
    made.add_argument(
        "--format",
        metavar="LIST",
        default=",".join(FORMATS),
        help="formats to write, from md,html,tex,csv; default: all",
    )
    made.add_argument("--out", metavar="DIR", type=Path, help="where to write; default: results/STUDY/report")
    made.add_argument(
        "--allow-mixed",
        action="store_true",
        help="compare trials of different commits, budgets, data or versions anyway, and mark them",
    )
    made.add_argument(
        "--record",
        metavar="TRIAL",
        help="write the experiment record of one trial instead, into report/records/: its id, the"
        " beginning of its id, or `best`",
    )
    return made


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
