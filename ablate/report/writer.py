"""The command `python -m ablate.report STUDY`. It works on finished, running and killed studies."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ablate import cli, escape, formatting
from ablate.errors import BadInput
from ablate.records import atomic_files, locations
from ablate.records.ledger import Ledger
from ablate.records.locations import Place
from ablate.report.render import pages, tables
from ablate.report.render.document import Document
from ablate.report.sections.arms import CSV_COLUMNS, arm_sections, csv_rows
from ablate.report.sections.designs import factorial_sections, hypothesis_sections
from ablate.report.sections.diagnostics import diagnostic_sections, missing_sections
from ablate.report.sections.experiment import chosen_trial, record_document
from ablate.report.sections.findings import Findings, analyse, interim_look
from ablate.report.sections.search import search_sections
from ablate.report.sections.summary import summary
from ablate.report.sections.trained import trained_sections
from ablate.study import lookup
from ablate.study.dataset import read

PAGES = ("md", "html", "tex")
FORMATS = (*PAGES, "csv")
NAMED = 12  # most trials that an error names


def main(argv: Sequence[str] | None = None) -> int:
    """Write a report or an experiment record; print where it is and, of a report, its summary."""
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
    print(escape.one_line(summary(findings).plain, limit=10_000))
    return cli.DONE


def write(
    study_dir: Place, *, formats: Sequence[str] = FORMATS, out: Path | None = None, allow_mixed: bool = False
) -> Path:
    """Write a study's report and return its folder: `out`, or results/STUDY/report. For a study in a bucket this is
    the folder's copy on this machine.

    Raises BadInput where compared trials differ in code, budget, data or versions and `allow_mixed` is not set.
    """
    return write_findings(findings_of(study_dir, allow_mixed=allow_mixed), formats=formats, out=out)


def findings_of(study_dir: Place, *, allow_mixed: bool = False) -> Findings:
    """Read and analyse a study. Raises BadInput as `write` does."""
    # A study in a folder without write permission is read without compacting.
    with contextlib.suppress(OSError):
        Ledger(study_dir).compact()
    findings = analyse(read(study_dir, whole=False))
    if findings.mixed and not allow_mixed:
        first = findings.mixed[0]
        ids = list(dict.fromkeys(trial_id for entry in findings.mixed for trial_id in entry.odd))
        named = ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
        columns = " and ".join(dict.fromkeys(entry.column for entry in findings.mixed))
        rule = f"trials of {first.comparison} differ in {columns} from its others ({first.usual})"
        hint = "train them again in one study, or pass --allow-mixed to compare and mark them"
        raise BadInput(str(study_dir), first.column, named, rule, hint)
    return findings


def write_findings(findings: Findings, *, formats: Sequence[str] = FORMATS, out: Path | None = None) -> Path:
    """Write the report in these formats and return its folder: `out`, or results/STUDY/report."""
    data_files = _data_files(findings) if "csv" in formats else ()
    return _write(
        findings, compose(findings), stem="report", folder=["report"], formats=formats, out=out, more=data_files
    )


def write_record(
    findings: Findings, trial_id: str, *, formats: Sequence[str] = FORMATS, out: Path | None = None
) -> Path:
    """Write the experiment record of one trial (ID.md, ...) and return its folder: `out`, or report/records."""
    stem, folder = escape.file_name(trial_id), ["report", "records"]
    return _write(findings, record_document(findings, trial_id), stem=stem, folder=folder, formats=formats, out=out)


def _write(
    findings: Findings,
    document: Document,
    *,
    stem: str,
    folder: Sequence[str],
    formats: Sequence[str],
    out: Path | None,
    more: Iterable[tuple[str, bytes]] = (),
) -> Path:
    """Write `more` files and the document's; each is replaced atomically: a reader sees the old or the new one.

    The ledger records, once for each state of the study, that the ablation's results were shown.
    """
    ledger = Ledger(findings.data.path)
    target = ledger.path(*folder) if out is None else out
    _record_look(findings)
    for name, content in itertools.chain(more, _files(document, stem=stem, formats=formats)):
        atomic_files.replace(target / name, partial(_write_bytes, content=content))
    if out is None:
        ledger.store.push("/".join(folder))
    return target


def _record_look(findings: Findings) -> None:
    """Record that these results were shown, unless the same ones were before. Warn where that cannot be recorded."""
    look = interim_look(findings, at=datetime.now(UTC).isoformat(timespec="microseconds"))
    if look is None or any(replace(look, at=seen.at) == seen for seen in findings.data.looks):
        return
    try:
        Ledger(findings.data.path).record_look(look)
    except OSError as error:
        text = "not recorded that these results were seen: seeds added later will not be marked as exploratory"
        print(f"{text} ({error})", file=sys.stderr)


def compose(findings: Findings) -> Document:
    """The whole report as a document."""
    facts, progress = findings.data.facts, findings.progress
    state = "" if progress.whole else ", unfinished"
    day = facts.started_at[:10]
    byline = (
        f"{formatting.count(progress.final, 'trial')} of {progress.planned}{state} · {facts.provenance.device} · {day}"
    )
    sections = [
        *missing_sections(findings),
        *trained_sections(findings),
        *search_sections(findings),
        *arm_sections(findings),
        *factorial_sections(findings),
        *hypothesis_sections(findings),
        *diagnostic_sections(findings),
    ]
    return Document(
        title=f"Study {facts.study}",
        question=escape.one_line(facts.question, limit=1_000),
        byline=byline,
        summary=summary(findings),
        sections=tuple(sections),
    )


TABLES = {"md": tables.to_markdown, "tex": tables.to_latex, "csv": tables.to_csv}


def _files(document: Document, *, stem: str, formats: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(name in the target folder, content). The pages are last, so that the figures they link to exist."""
    from ablate.report.render import canvas

    drawings: dict[str, str] = {}
    for figure in document.figures if set(PAGES) & set(formats) else ():
        drawn = figure.draw()
        drawings[figure.label] = canvas.to_svg(drawn)
        yield f"figures/{figure.label}.svg", drawings[figure.label].encode()
        yield f"figures/{figure.label}.png", canvas.to_png(drawn)
        yield f"figures/{figure.label}.pdf", canvas.to_pdf(drawn)
    for suffix, render in TABLES.items():
        for table in document.tables if suffix in formats else ():
            yield f"tables/{table.label}.{suffix}", render(table).encode()
    if "md" in formats:
        yield f"{stem}.md", pages.to_markdown(document).encode()
    if "tex" in formats:
        yield f"{stem}.tex", pages.to_latex(document).encode()
    if "html" in formats:
        yield f"{stem}.html", pages.to_html(document, drawings=drawings).encode()


def _data_files(findings: Findings) -> Iterator[tuple[str, bytes]]:
    """The CSV files for other programs: every trial, and the arms' effects."""
    yield "trials.csv", _trials_csv(findings).encode()
    if findings.primary.effects:
        yield "ablation.csv", tables.csv_text(CSV_COLUMNS, csv_rows(findings)).encode()


def _trials_csv(findings: Findings) -> str:
    trials = findings.data.trials
    texts = trials.select_dtypes(include=["object", "string"])
    shown = trials.assign(**{name: texts[name].map(escape.csv_value) for name in texts})
    return shown.rename(columns=escape.csv_value).to_csv(index=False)


def _write_bytes(path: Path, *, content: bytes) -> None:
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
        help="compare trials of different code, budgets, data or versions anyway, and mark them",
    )
    made.add_argument(
        "--record",
        metavar="TRIAL",
        help="write the experiment record of one trial instead, into report/records/: its id, the"
        " beginning of its id, or `best`",
    )
    return made
