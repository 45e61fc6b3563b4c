"""The report's command: `python -m ablate.report STUDY`. Works on a finished study, a running one, and a killed one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ablate import cli, escape, numbers, pages, parts, studies, tables
from ablate.chapters.answer import answer
from ablate.chapters.arms import CSV_COLUMNS, arm_sections, csv_rows
from ablate.chapters.record import missing_sections, record_sections
from ablate.chapters.search import search_sections
from ablate.dataset import read
from ablate.document import Document
from ablate.errors import BadInput
from ablate.findings import Findings, analyse

FORMATS = ("md", "html", "tex", "csv")
NAMED = 12  # trials that a complaint names


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, write, and print where the report is and what it answers."""
    arguments = _parser().parse_args(argv)
    formats = _formats(arguments.format)
    study_dir = studies.find(arguments.study, results=arguments.results)
    findings = findings_of(study_dir, allow_mixed=arguments.allow_mixed)
    print(write_findings(findings, formats=formats, out=arguments.out))
    print(escape.one_line(answer(findings).plain, limit=10_000))
    return cli.DONE


def write(
    study_dir: Path, *, formats: Sequence[str] = FORMATS, out: Path | None = None, allow_mixed: bool = False
) -> Path:
    """Write a study's report and return its folder, results/STUDY/report where `out` is None.

    Raises BadInput where trials that are compared differ in commit, budget or data and `allow_mixed` is not set.
    """
    return write_findings(findings_of(study_dir, allow_mixed=allow_mixed), formats=formats, out=out)


def findings_of(study_dir: Path, *, allow_mixed: bool = False) -> Findings:
    """Read and analyse a study. Raises BadInput as `write` does."""
    findings = analyse(read(study_dir))
    if findings.mixed and not allow_mixed:
        first = findings.mixed[0]
        ids = list(first.odd)
        named = ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
        rule = f"trials of {first.comparison} differ in {first.column} from its others ({first.usual})"
        cure = "train them again in one study, or pass --allow-mixed to compare them all the same, marked"
        raise BadInput(str(study_dir), first.column, named, rule, cure)
    return findings


def write_findings(findings: Findings, *, formats: Sequence[str] = FORMATS, out: Path | None = None) -> Path:
    """Write the files of these formats. Each is replaced whole: a reader sees the old one or the new one."""
    folder = findings.data.path / "report" if out is None else out
    for name, content in _files(findings, compose(findings), formats=formats):
        parts.replace(folder / name, partial(_fill, content=content))
    return folder


def compose(findings: Findings) -> Document:
    """The whole report, before any format is chosen."""
    facts, progress = findings.data.facts, findings.progress
    state = "" if progress.whole else ", unfinished"
    day = facts.started_at[:10]
    byline = (
        f"{numbers.count(progress.final, 'trial')} of {progress.planned}{state} · {facts.provenance.device} · {day}"
    )
    sections = [
        *missing_sections(findings),
        *search_sections(findings),
        *arm_sections(findings),
        *record_sections(findings),
    ]
    return Document(
        title=f"Study {facts.study}",
        question=escape.one_line(facts.question, limit=1_000),
        byline=byline,
        answer=answer(findings),
        sections=tuple(sections),
    )


def _files(findings: Findings, document: Document, *, formats: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(name in the report's folder, content). What the pages show comes before the pages."""
    drawings = {}
    if {"md", "html", "tex"} & set(formats):
        from ablate import figures

        for figure in document.figures:
            drawn = figure.draw()
            drawings[figure.label] = figures.to_svg(drawn)
            yield f"figures/{figure.label}.svg", drawings[figure.label].encode()
            yield f"figures/{figure.label}.png", figures.to_png(drawn)
    renderers = {"md": tables.to_markdown, "tex": tables.to_latex, "csv": tables.to_csv}
    for suffix, render in renderers.items():
        if suffix in formats:
            for table in document.tables:
                yield f"tables/{table.label}.{suffix}", render(table).encode()
    if "csv" in formats:
        yield "trials.csv", findings.data.trials.to_csv(index=False).encode()
        if findings.primary.effects:
            yield "ablation.csv", tables.csv_text(CSV_COLUMNS, csv_rows(findings)).encode()
    if "md" in formats:
        yield "report.md", pages.to_markdown(document).encode()
    if "html" in formats:
        yield "report.html", pages.to_html(document, drawings=drawings).encode()


def _fill(path: Path, *, content: bytes) -> None:
    path.write_bytes(content)


def _formats(text: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    for part in chosen or [text]:
        if part not in FORMATS:
            raise BadInput("--format", "", part or "empty", "no such format", f"choose from {', '.join(FORMATS)}")
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ablate.report",
        description="Write a study's report: tables, figures, one page. Also while it runs, and after it was killed.",
        epilog="example: python -m ablate.report ema --format html",
    )
    parser.add_argument("study", metavar="STUDY", help="a name under results/, a path, or `latest`")
    parser.add_argument("--results", metavar="DIR", type=Path, default=Path("results"), help="default: results")
    parser.add_argument(
        "--format", metavar="LIST", default=",".join(FORMATS), help="of md, html, tex, csv; default: all of them"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write; default: results/STUDY/report")
    parser.add_argument(
        "--allow-mixed",
        action="store_true",
        help="compare trials of different commits, budgets or data all the same, and mark them",
    )
    return parser


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
