import csv
import io
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tests.made_run import THE_19, make_run
from wlsweep.analysis.evaluate import evaluate
from wlsweep.cli import app
from wlsweep.errors import WlsweepError
from wlsweep.report.blocks import Cell, Row, Table
from wlsweep.report.page import report_input_of
from wlsweep.report.paper import csv_table, escaped, export_figures, export_tables, latex_table, methods
from wlsweep.run.records import Launch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("paper"), THE_19[:8], n=120, leave_out=THE_19[7:8])
    evaluate(made, draws=200)
    return made


def test_tables_are_written_for_latex_and_as_csv_with_a_paragraph_on_methods(run):
    found = CliRunner().invoke(app, ["export", str(run.root), "--latex", "--csv"])
    assert found.exit_code == 0, found.output
    folder = run.root / "export" / "paper"
    names = {p.name for p in folder.iterdir()}
    assert {
        "conditions.tex",
        "conditions.csv",
        "differences.tex",
        "forecast.csv",
        "verdicts.tex",
        "methods.txt",
    } <= names
    conditions = (folder / "conditions.tex").read_text()
    assert "% In brackets: 95% intervals" in conditions and "Click" not in conditions and "grey" not in conditions
    said = (folder / "methods.txt").read_text()
    assert "8 conditions (7 of 8 trainings are done; 1 seed(s))" in said and "120 test papers (60 accepts" in said
    assert "Holm" in said and "torch 2.13.0" in said


def test_the_paragraph_on_methods_names_the_tests_that_were_made(run, tmp_path):
    papers_alone = report_input_of(run, evaluate(run, draws=200))
    assert papers_alone.analysis.trainings.source is None
    said = methods(papers_alone)
    assert "paired bootstrap over papers with 200 draws" in said and "5%: two models of single trainings" in said
    assert "bootstrap-t" not in said

    names = [*THE_19, *(f"{name}_seed1" for name in THE_19[:2])]
    made = make_run(tmp_path, names, n=120)
    both = report_input_of(
        made, evaluate(made, externals=[("other", made.prediction(THE_19[3]) / "part-0.parquet")], draws=200)
    )
    assert both.analysis.trainings.source is not None
    said = methods(both)
    assert "parametric bootstrap-t" in said and "Satterthwaite's t over seeds and papers" in said
    assert both.analysis.trainings.of_ranks in said and "exact McNemar" in said.split("threshold moved")[1]
    assert "two models of single trainings" not in said and "their own trainings are not counted" in said


def test_the_paragraph_on_methods_says_what_the_test_papers_chose(run):
    report = report_input_of(run, evaluate(run, draws=200))
    assert ", which chose no model. A decision" in methods(report)
    launch = Launch.model_construct(command="wlsweep run a --until-decided")
    forecast = replace(report, sweep=report.sweep.model_copy(update={"launches": (launch,)}))
    assert "which chose no model; forecasts on them chose which conditions to run. A decision" in methods(forecast)


def test_every_line_of_a_latex_table_has_the_columns_of_its_tabular(run):
    for path in export_tables(run, evaluate(run, draws=200), latex=True, as_csv=False):
        if path.suffix != ".tex":
            continue
        text = path.read_text()
        columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1])
        body = text.split("\\toprule\n")[1].split("\\bottomrule")[0].replace("\\midrule\n", "")
        for line in body.splitlines():
            assert line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == columns - 1, line
        assert not re.findall(r"(?<!\\)[%_#]", re.sub(r"^%.*\n|%$", "", text, flags=re.M)), path.name


def test_a_latex_table_has_the_numbers_and_their_intervals():
    cells = [Cell("a_b & c"), Cell("-1.5", -1.5, -2.0, -1.0, "-2.0 to -1.0", number=True), Cell("x")]
    text = latex_table(Table("t", "T", ["name", "change %", "hidden"], [Row(cells)], more=frozenset({"hidden"})))
    assert r"\begin{tabular}{lr}" in text and r"name & change \% \\" in text
    assert r"a\_b \& c & $-$1.5 [$-$2.0, $-$1.0] \\" in text
    assert escaped("{~^}") == r"\{\textasciitilde{}\textasciicircum{}\}"


def test_csv_has_all_columns_and_each_interval_in_two_of_its_own():
    cells = [Cell("a,b"), Cell("50.0%", 0.5, 0.4, 0.6, "40.0 to 60.0", number=True), Cell("x")]
    table = Table("t", "T", ["name", "rate", "hidden"], [Row(cells)], more=frozenset({"hidden"}))
    rows = list(csv.reader(io.StringIO(csv_table(table))))
    assert rows == [["name", "rate", "rate low", "rate high", "hidden"], ["a,b", "0.5", "0.4", "0.6", "x"]]


def test_figures_are_written_as_vectors(run):
    files = export_figures(run, evaluate(run, draws=200), ["svg", "pdf"])
    assert {"accuracy_vs_gamma.svg", "accuracy_vs_gamma.pdf", "reliability.pdf"} <= {f.name for f in files}
    for f in files:
        assert f.read_bytes().startswith({".svg": b"<svg", ".pdf": b"%PDF-"}[f.suffix])


def test_an_unknown_figure_format_is_named_before_anything_is_drawn(run):
    with pytest.raises(WlsweepError, match="--figures eps: expected some of svg, pdf, png"):
        export_figures(run, evaluate(run, draws=200), ["svg", "eps"])
