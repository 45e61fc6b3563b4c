"""A document as one page: Markdown or LaTeX that links to figure files, or HTML that holds everything in one file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import jinja2
from markupsafe import Markup
from markupsafe import escape as markup_escape

from ablate import escape
from ablate.report.render import tables
from ablate.report.render.document import Block, Code, Document, Figure, Listing, Paragraph, Section, Table


def to_markdown(document: Document) -> str:
    """report.md. It links to figures/LABEL.svg."""
    numbers = _numbers(document)
    lines = [f"# {escape.markdown(document.title)}", ""]
    if document.question:
        lines += [f"*{escape.markdown(document.question)}*", ""]
    lines += [escape.markdown(document.byline), "", f"**Summary.** {_markdown_spans(document.summary)}", ""]
    for section in document.sections:
        lines += [f"{'###' if section.sub else '##'} {escape.markdown(section.title)}", ""]
        for block in section.blocks:
            lines += [*_markdown_block(block, numbers), ""]
    return "\n".join(lines)


PREAMBLE = r"""\documentclass[11pt,a4paper]{article}
% LuaLaTeX and XeLaTeX take the fonts of the machine; pdfLaTeX has Latin letters only.
\ifdefined\directlua\def\anyfont{}\fi
\ifdefined\XeTeXversion\def\anyfont{}\fi
\ifdefined\anyfont
\usepackage{fontspec}
\else
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\fi
\usepackage[margin=22mm]{geometry}
\usepackage{array,booktabs,longtable,graphicx,textcomp,float}
\IfFileExists{pdflscape.sty}{\usepackage{pdflscape}}{\usepackage{lscape}}
\floatplacement{figure}{H}
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
\emergencystretch=3em
% Before a heading that a table follows: they shall not be torn apart.
\newcommand{\roomfortable}{\par\ifdim\pagetotal>0.72\textheight\newpage\fi}
% A character by its code point: in the first font that has it, else named.
\newcommand{\named}[1]{\texttt{U+#1}\allowbreak}
\ifdefined\anyfont
\newcommand{\letters}{}
\newcommand{\ideographs}{}
\IfFontExistsTF{DejaVu Serif}{\newfontfamily{\dejavu}{DejaVu Serif}\renewcommand{\letters}{\dejavu}}{%
\IfFontExistsTF{FreeSerif}{\newfontfamily{\freeserif}{FreeSerif}\renewcommand{\letters}{\freeserif}}{}}
\IfFontExistsTF{Noto Serif CJK SC}{\newfontfamily{\noto}{Noto Serif CJK SC}\renewcommand{\ideographs}{\noto}}{%
\IfFontExistsTF{Noto Sans CJK SC}{\newfontfamily{\noto}{Noto Sans CJK SC}\renewcommand{\ideographs}{\noto}}{%
\IfFontExistsTF{FandolSong-Regular.otf}{%
\newfontfamily{\fandol}{FandolSong-Regular.otf}\renewcommand{\ideographs}{\fandol}}{}}}
\newcommand{\ifhas}[3]{\iffontchar\font"#1 \char"#1\relax#2\else#3\fi}
\DeclareRobustCommand{\codepoint}[1]{{\ifhas{#1}{}{\letters\ifhas{#1}{}{\ideographs\ifhas{#1}{\allowbreak}{\named{#1}}}}}}
\else
\DeclareRobustCommand{\codepoint}[1]{\named{#1}}
\fi
"""

_NAMED = (
    "Characters that pdfLaTeX has no letters for stand by their code points (U+6C49). LuaLaTeX and XeLaTeX print those "
    "that a font of the machine has."
)


def to_latex(document: Document) -> str:
    """report.tex. It inputs tables/LABEL.tex and includes figures/LABEL.pdf, so it compiles in the report's folder."""
    lines = [PREAMBLE, rf"\title{{{escape.latex(document.title)}}}", rf"\author{{{escape.latex(document.byline)}}}"]
    lines += [r"\date{}", r"\begin{document}", r"\maketitle"]
    if document.question:
        lines.append(rf"\begin{{center}}\itshape {escape.latex(document.question)}\end{{center}}")
    lines.append(rf"\begin{{abstract}}\noindent {_latex_spans(document.summary)}\end{{abstract}}")
    body: list[str] = []
    for section in document.sections:
        body += ["", r"\roomfortable"] if isinstance(section.blocks[0], Table) else [""]
        body.append(rf"\{'sub' if section.sub else ''}section{{{escape.latex(section.title)}}}")
        for block in section.blocks:
            body += ["", _latex_block(block)]
    set_in_tables = (tables.to_latex(table) for table in document.tables)
    if any(escape.CODE_POINT in text for text in (*lines[1:], *body, *set_in_tables)):
        lines.append(rf"\ifdefined\anyfont\else\begin{{quote}}\small {_NAMED}\end{{quote}}\fi")
    return "\n".join([*lines, *body, r"\end{document}", ""])


def _latex_block(block: Block) -> str:
    match block:
        case Paragraph(notice=True):
            return rf"\begin{{quote}}\bfseries {_latex_spans(block)}\end{{quote}}"
        case Paragraph():
            return _latex_spans(block)
        case Table(rows=()):
            return escape.latex(block.empty)
        case Table():
            table = rf"\input{{tables/{block.label}.tex}}"
            return rf"\begin{{landscape}}{table}\end{{landscape}}" if tables.is_wide(block) else table
        case Figure():
            size = r"width=\linewidth,height=0.4\textheight,keepaspectratio"
            picture = rf"\includegraphics[{size}]{{figures/{block.label}.pdf}}"
            caption = escape.latex(block.caption)
            return "\n".join([r"\begin{figure}", r"\centering", picture, rf"\caption{{{caption}}}", r"\end{figure}"])
        case Listing():
            lines = r"\\ ".join(map(_latex_line, block.text.splitlines()))
            return rf"\textbf{{{escape.latex(block.title)}.}} {{\ttfamily\small\raggedright {lines}\par}}"


def _latex_line(line: str) -> str:
    """A line of a listing with its indent, which tells a traceback's lines apart."""
    indent = len(line) - len(line.lstrip(" "))
    start = rf"\mbox{{}}{'~' * indent}" if indent or not line else ""
    return start + escape.latex(line, breakable=True)


def _latex_spans(paragraph: Paragraph) -> str:
    def one(span: str | Code) -> str:
        if isinstance(span, Code):
            return rf"\texttt{{{escape.latex(span.text, breakable=True)}}}"
        edges = (" " if span[:1].isspace() else "", " " if span[-1:].isspace() else "")
        return f"{edges[0]}{escape.latex(span, breakable=True)}{edges[1] if span.strip() else ''}"

    return "".join(one(span) for span in paragraph.spans)


def _markdown_block(block: Block, numbers: Mapping[int, int]) -> list[str]:
    match block:
        case Paragraph(notice=True):
            return [f"> {_markdown_spans(block)}"]
        case Paragraph():
            return [_markdown_spans(block)]
        case Table(rows=()):
            return [escape.markdown(block.empty)]
        case Table():
            caption = f"**Table {numbers[id(block)]}.** {escape.markdown(block.caption)}"
            return [caption, "", tables.to_markdown(block).rstrip()]
        case Figure():
            picture = f"![{escape.markdown(block.alt)}](figures/{block.label}.svg)"
            return [picture, "", f"**Figure {numbers[id(block)]}.** {escape.markdown(block.caption)}"]
        case Listing():
            return [f"**{escape.markdown(block.title)}.** {escape.markdown(block.text)}"]


def _markdown_spans(paragraph: Paragraph) -> str:
    return "".join(
        escape.markdown_code(span.text) if isinstance(span, Code) else escape.markdown_span(span)
        for span in paragraph.spans
    )


def to_html(document: Document, *, drawings: Mapping[str, str]) -> str:
    """report.html. `drawings`: figure label -> the `<svg>` that the page contains."""
    numbers = _numbers(document)
    top_level = [section for section in document.sections if not section.sub]
    section_numbers = {id(section): index for index, section in enumerate(top_level, start=1)}

    def number(block: Table | Figure) -> int:
        return numbers[id(block)]

    def section_number(section: Section) -> int:
        return section_numbers[id(section)]

    def svg(figure: Figure) -> Markup:
        name = f"figure{number(figure)}"
        return Markup(_in_page(drawings[figure.label], name=name, alt=figure.alt))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: (
            escape.cut(value) if type(value) is str else value
        ),  # Markup is the report's own, not a user's
        keep_trailing_newline=True,
    )
    environment.globals |= {"number": number, "section_number": section_number, "svg": svg}
    environment.globals |= {"kind": lambda block: type(block).__name__, "breakable": _breakable}
    environment.globals |= {"dense": tables.DENSE, "sentence": tables.SENTENCE}
    page = environment.get_template("page.html.j2")
    return page.render(document=document)


def _breakable(name: str) -> Markup:
    """A column's head that may break after a dot or an underscore."""
    return Markup(re.sub(r"([._])(?=\w)", r"\1<wbr>", str(markup_escape(name))))


def _in_page(svg: str, *, name: str, alt: str) -> str:
    """An `<svg>` for a page that has several: its ids get a prefix of its own, and screen readers get `alt`."""
    own = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    own = re.sub(r'((?:xlink:)?href)="#([^"]+)"', rf'\1="#{name}-\2"', own)
    own = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", own)
    return own.replace("<svg", f'<svg role="img" aria-label="{markup_escape(escape.one_line(alt, limit=1_000))}"', 1)


def _numbers(document: Document) -> dict[int, int]:
    """id() of a table or figure -> its number. Tables and figures are numbered separately, tables with rows only."""
    filled = [table for table in document.tables if table.rows]
    counted = (enumerate(kind, start=1) for kind in (filled, document.figures))
    return {id(block): number for kind in counted for number, block in kind}
