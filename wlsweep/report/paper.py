"""`wlsweep export --latex --csv --figures svg,pdf`: tables, figures and a paragraph on methods for a paper.

LaTeX tables need `booktabs` and `graphicx`, and hold the columns that the page shows; CSV files hold all of them, each
interval in two columns of its own.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wlsweep import __version__
from wlsweep.analysis.evaluate import Evaluation
from wlsweep.errors import WlsweepError
from wlsweep.report.blocks import Cell, Row, Table, text
from wlsweep.report.page import page, report_input_of
from wlsweep.report.png import Format, Renderer, RendererError
from wlsweep.report.report_input import ReportInput, classes
from wlsweep.report.sections import chosen_by_test_set, sections
from wlsweep.run.layout import RunDir, atomic_file

FORMATS: tuple[Format, ...] = ("svg", "pdf", "png")
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # at the beginning of a row it would be an argument of the line break before it, like a star
    "]": "{]}",
    "*": "{*}",
}
MOST_ROWS = 40
"""A table with more is divided into tabulars that a page can hold."""
_PACKAGES = r"\usepackage[T1]{fontenc} \usepackage{booktabs,graphicx}"


def export_tables(run: RunDir, evaluation: Evaluation, latex: bool, as_csv: bool) -> list[Path]:
    """Write `export/paper/TABLE.tex` and `.csv`, and the paragraph on methods.

    Returns:
        The files.
    """
    report = report_input_of(run, evaluation)
    blocks = [block for section in sections(report) for block in section.blocks if isinstance(block, Table)]
    written = []
    for table in [_verdicts(report), *blocks]:
        if latex:
            written.append(_write(_folder(run) / f"{table.slug}.tex", latex_table(table)))
        if as_csv:
            written.append(_write(_folder(run) / f"{table.slug}.csv", csv_table(table)))
    written.append(_write(_folder(run) / "methods.txt", methods(report) + "\n"))
    return written


def export_figures(run: RunDir, evaluation: Evaluation, formats: Sequence[str]) -> list[Path]:
    """Write every figure of the page as `export/paper/SLUG.FORMAT`.

    Raises:
        WlsweepError: if a format is unknown, or a figure could not be drawn.
    """
    if unknown := sorted({*formats} - {*FORMATS}):
        raise WlsweepError(f"--figures {','.join(unknown)}: expected some of {', '.join(FORMATS)}, with commas between")
    written = []
    _, figures = page(report_input_of(run, evaluation))
    with Renderer() as renderer:
        for figure in figures:
            for known in (f for f in FORMATS if f in formats):
                try:
                    image = renderer.image(figure, known)
                except RendererError as e:
                    raise WlsweepError(f"{figure.slug}.{known} could not be drawn: {e}") from None
                path = _folder(run) / f"{figure.slug}.{known}"
                with atomic_file(path) as temporary:
                    temporary.write_bytes(image)
                written.append(path)
    return written


def latex_table(table: Table) -> str:
    """`tabular`s with `booktabs` rules: the columns that the page shows, intervals in brackets.

    Each is scaled down where it is wider than the line. A table of more than `MOST_ROWS` rows becomes several tabulars below
    each other, each with the headings.
    """
    shown = [i for i, heading in enumerate(table.headings) if heading not in table.more]
    parts = [table.rows[at : at + MOST_ROWS] for at in range(0, len(table.rows), MOST_ROWS)] or [[]]
    lines = [
        f"% {table.title}: written by wlsweep {__version__}; needs {_PACKAGES}",
        *(f"% {line}" for line in table.note.replace("In grey:", "In brackets:").split(". ") if "Click" not in line),
    ]
    if len(parts) > 1:
        lines.append(f"% {len(parts)} tabulars below each other: too long for a float.")
    return "\n".join(lines) + "\n" + "\n\\par\\bigskip\n".join(_tabular(table, shown, rows) for rows in parts)


def _tabular(table: Table, shown: Sequence[int], rows: Sequence[Row]) -> str:
    """One tabular, no wider than the line."""
    numbers = [any(row.cells[i].number for row in table.rows) for i in shown]
    lines = [
        r"\noindent\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('r' if n else 'l' for n in numbers)}}}",
        r"\toprule",
        " & ".join(escaped(table.headings[i]) for i in shown) + r" \\",
        r"\midrule",
        *(" & ".join(_latex_cell(row.cells[i]) for i in shown) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}%",
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell) -> str:
    """A number has a minus sign and no hyphen; its interval follows in brackets."""
    if not cell.number:
        return escaped(cell.text)
    return _signed(cell.text) + (f" [{_signed(cell.range.replace(' to ', ', '))}]" if cell.range else "")


def _signed(numbers: str) -> str:
    return re.sub(r"-(?=[\d.])", lambda _: "$-$", escaped(numbers))


def escaped(words: str) -> str:
    """Text in which LaTeX reads every character as itself; it knows those of Western languages (T1), and XeLaTeX or LuaLaTeX
    all that their font has."""
    return "".join(_LATEX.get(c, c) for c in words).replace("--", "-{}-")


def csv_table(table: Table) -> str:
    """All columns as numbers; a column with intervals is followed by its low and high ends, as on the page."""
    wide = [any(row.cells[i].low is not None for row in table.rows) for i in range(len(table.headings))]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        name
        for heading, ends in zip(table.headings, wide, strict=True)
        for name in ((heading, f"{heading} low", f"{heading} high") if ends else (heading,))
    )
    for row in table.rows:
        writer.writerow(
            value
            for cell, ends in zip(row.cells, wide, strict=True)
            for value in ((_value(cell), cell.low, cell.high) if ends else (_value(cell),))
        )
    return out.getvalue()


def _value(cell: Cell) -> float | str:
    return cell.text if cell.value is None else cell.value


def _verdicts(report: ReportInput) -> Table:
    numbered = any(v.plan for v in report.analysis.verdicts)
    rows = [
        Row(
            [
                text(v.key),
                *([text(v.plan)] if numbered else []),
                text(v.title),
                text(v.verdict),
                Cell("" if v.support is None else f"{v.support:.3f}", v.support, number=True),
            ]
        )
        for v in report.analysis.verdicts
    ]
    headings = ["key", *(["number in the study"] if numbered else []), "claim", "verdict", "support"]
    note = "Support: share of draws with the same verdict. " + report.analysis.trainings.sentence
    return Table("verdicts", "Verdicts", headings, rows, note)


def methods(report: ReportInput) -> str:
    """A paragraph that states what was trained and tested, how, and with which versions."""
    analysis = report.analysis
    conditions, words = [c.condition for c in report.conditions if c.condition], report.words
    plain = {replace(c, seed=0).name for c in conditions}
    versions = report.sweep.provenance.versions
    engines = ", ".join(
        f"{name} {versions[name]}"
        for name in ("torch", "transformers", "deepspeed", "vllm", "ray")
        if versions.get(name)
    )
    parts = [
        f"We fine-tuned one base model under {len(plain)} conditions ({len(report.done)} of {len(conditions)} trainings"
        f" are done; {len({c.seed for c in conditions})} seed(s)): a weight gamma on one class of the loss and"
        f" training mixes with {', '.join(f'1/{k}' for k in sorted({c.k for c in conditions}))} {words.positives}.",
        f"Training rows come from {report.data.source.rows:,} {words.items}.",
        f"All models predict the same {analysis.rows:,} test {words.items}{classes(report.data.test, words)}, "
        f"{chosen_by_test_set(report)}.",
        f"A decision is the sign of the difference of the log-probabilities of the labels {' and '.join(words.labels)}.",
        "Intervals are at 95%; of one model, Wilson (1927) for shares and DeLong et al. (1988) for AUC.",
        *_of_comparisons(report),
        f"Software: wlsweep {__version__}" + (f" with {engines}." if engines else "."),
    ]
    return " ".join(part for part in parts if part)


def _of_comparisons(report: ReportInput) -> list[str]:
    """How differences got their intervals and p values: it depends on whether the noise of trainings is known."""
    analysis = report.analysis
    known, several, items = analysis.trainings.source is not None, bool(analysis.seeds), report.words.items
    if known:
        differences = (
            f"Of differences between single trainings, the variances over {items} (paired bootstrap,"
            f" {analysis.draws:,} draws) and over trainings add, and quantile and p value are those of a parametric"
            f" bootstrap-t (Efron and Tibshirani 1993). {analysis.trainings.of_ranks}; ECE counts {items} alone."
        )
        single = "differences between single trainings with that bootstrap-t"
    else:
        differences = f"Intervals of differences are a paired bootstrap over {items} with {analysis.draws:,} draws."
        single = f"two models of single trainings on the same {items} with the exact McNemar test"
    if several:
        single = f"means over seeds with Satterthwaite's t over seeds and {items}, {single}"
    outside = " Of models from outside of the sweep, their own trainings are not counted."
    return [
        differences,
        analysis.trainings.sentence + (outside if known and report.externals else ""),
        f"Differences in accuracy to the baseline are tested over {analysis.family} declared comparisons with Holm's"
        f" correction at 5%: {single}. The same differences to the baseline with its threshold moved are tested with "
        + ("that t over seeds, or " if several else "")
        + "the exact McNemar test; equality of rates with two one-sided tests (Schuirmann 1987).",
    ]


def _folder(run: RunDir) -> Path:
    return run.root / "export" / "paper"


def _write(path: Path, content: str) -> Path:
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="")
    return path
