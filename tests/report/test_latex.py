"""The exported tables go through a real LaTeX: no error, nothing wider than its line, every character as it is."""

import re
import shutil
import subprocess

import pytest

from tests.made_run import THE_19, make_run
from wlsweep.analysis.evaluate import evaluate
from wlsweep.estimate import PERCENT
from wlsweep.report.blocks import Cell, Row, Table
from wlsweep.report.paper import MOST_ROWS, export_tables, latex_table

pytestmark = pytest.mark.skipif(
    shutil.which("pdflatex") is None or shutil.which("pdftotext") is None,
    reason="needs pdflatex and pdftotext: apt-get install texlive-latex-base texlive-latex-recommended poppler-utils, or"
    " TeX Live's scheme-small and Poppler",
)
ODD = r"""a_b & 50% #1 $x$ {~^} \ <|> "q" 'p' `g` *s --f é"""


def compiled(folder, *tables):
    """Text of the PDF of a minimal document with these files, and LaTeX's log."""
    inputs = "\n\n".join(rf"\input{{{path}}}" for path in tables)
    document = rf"""\documentclass{{article}}
\usepackage[T1]{{fontenc}}
\usepackage{{booktabs,graphicx}}
\pagestyle{{empty}}
\begin{{document}}
{inputs}
\end{{document}}
"""
    (folder / "paper.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    text = subprocess.run(["pdftotext", "-layout", "paper.pdf", "-"], cwd=folder, capture_output=True, text=True)
    return text.stdout, done.stdout


def test_every_exported_table_compiles_fits_its_line_and_shows_its_numbers(tmp_path):
    run = make_run(tmp_path / "run", THE_19, n=120, failed=THE_19[7:8])
    outside = ("50% & under_score #2", run.prediction(THE_19[3]) / "part-0.parquet")
    evaluation = evaluate(run, externals=[outside], draws=100)
    tables = [p for p in export_tables(run, evaluation, latex=True, as_csv=False) if p.suffix == ".tex"]
    assert len(tables) >= 5
    text, log = compiled(tmp_path, *tables)
    assert "Overfull" not in log and "Missing character" not in log and not re.findall(r"^!", log, re.M)
    for r in evaluation.conditions:
        if r.done:
            assert r.name in text
            assert PERCENT.value(r["accuracy"].value) in text
    accuracy = evaluation.conditions[0]["accuracy"]
    assert f"{PERCENT.value(accuracy.value)} [{PERCENT.range(accuracy).replace(' to ', ', ')}]" in text
    assert "50% & under_score #2" in text


def test_every_character_is_set_as_itself_in_names_headings_and_cells(tmp_path):
    rows = [
        Row([Cell(ODD), Cell("-1.5", -1.5, -2.0, -1.0, "-2.0 to -1.0", number=True)]),
        Row([Cell("[x] begins"), Cell("2.0", 2.0, number=True)]),
        Row([Cell("*x begins"), Cell("3.0", 3.0, number=True)]),
    ]
    (tmp_path / "odd.tex").write_text(
        latex_table(Table("odd", f"Title {ODD}", [f"head {ODD}", "n"], rows, f"On {ODD}"))
    )
    text, log = compiled(tmp_path, tmp_path / "odd.tex")
    assert "Overfull" not in log
    assert f"head {ODD}" in text and text.count(ODD) == 2
    assert "[x] begins" in text and "*x begins" in text
    assert "−1.5 [−2.0, −1.0]" in text, "numbers have minus signs"


def test_a_table_longer_than_a_page_is_divided_and_loses_no_row(tmp_path):
    count = 2 * MOST_ROWS + 3
    rows = [Row([Cell(f"row-{i:03d}")]) for i in range(count)]
    (tmp_path / "long.tex").write_text(latex_table(Table("long", "Long", ["name"], rows)))
    text, log = compiled(tmp_path, tmp_path / "long.tex")
    assert "Overfull" not in log
    assert re.findall(r"row-\d+", text) == [f"row-{i:03d}" for i in range(count)]
