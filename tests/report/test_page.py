import json
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.made_run import THE_19, add_validation, make_run, write_predictions
from tests.report.browser import browser, tab
from wlsweep.analysis.evaluate import evaluate
from wlsweep.estimate import PERCENT
from wlsweep.report import tables as report_tables
from wlsweep.report.blocks import Answer, Listing
from wlsweep.report.page import page, report_input_of, write_report
from wlsweep.report.sections import FIRM, answer, lead
from wlsweep.report.tables import curves, tables
from wlsweep.report.theory import forecast_section
from wlsweep.run.layout import read_json, write_json

NAMED = {
    "acceptance_rate_vs_gamma",
    "accuracy_vs_gamma",
    "heatmap_accuracy",
    "heatmap_predicted_accept_rate",
    "heatmap_f1",
    "heatmap_precision",
    "heatmap_recall",
    "precision_recall",
    "reliability",
    "forecast_vs_observed",
    "per_year",
    "coverage",
    "training_loss",
}
DRAWS = 300
FULL36 = [f"baseline_gamma1.0_prop1_{k}" for k in (2, 3, 4, 8)] + [
    f"{v}_gamma{g}_prop1_{k}" for k in (2, 3, 4, 8) for v in ("accept", "reject") for g in ("2.0", "3.0", "4.0", "8.0")
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("page"), n=400, failed=[THE_19[6]], leave_out=[THE_19[16]])
    external = made.prediction(THE_19[7]) / "part-0.parquet"
    write_report(made, evaluate(made, externals=[("<tf-idf> & co", external)], draws=DRAWS))
    return made


def figures_of(html):
    return json.loads(re.search(r'id="figures">(.*?)</script>', html, re.S)[1])


class Text(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.words, self.skip = [], 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.skip += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.skip -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.skip:
            self.words.append(data)

    def __str__(self):
        return " ".join(" ".join(self.words).split())


def test_the_page_is_one_file_that_loads_nothing(run):
    html = run.report.read_text()
    own = re.sub(r"<script[^>]*>.*?</script>", "", html, flags=re.S)
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', own)
    assert "@import" not in own and "url(" not in own
    assert html.count("plotly.js v") == 1
    assert '<script type="text/plain" id="plotly">' in html


def test_every_figure_of_the_plan_is_there_valid_and_captioned(run):
    html = run.report.read_text()
    figures = figures_of(html)
    assert set(figures) >= NAMED
    for slug, f in figures.items():
        for layout in (f["wide"], f["wide"] | f["narrow"]):
            go.Figure(data=f["data"], layout=layout)  # raises on any property that Plotly does not know
        assert f["data"], slug
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.S)
    assert len(captions) == len(figures) and all(len(c) > 40 for c in captions)


def test_the_page_follows_the_order_of_a_readers_questions(run):
    order = re.findall(r'<section id="(\w+)">', run.report.read_text())
    assert order == [
        "answer",
        "warnings",
        "forecast",
        "cost",
        "tables",
        "years",
        "training",
        "usage",
        "provenance",
    ]


def test_failed_and_missing_conditions_stay_in_with_their_cause(run):
    text = str(Text(run.report.read_text()))
    assert "reject_gamma8.0_prop1_2: failed (train: RuntimeError: loss is not finite at step 7)" in text
    assert f"{THE_19[16]}: missing (not yet trained)" in text
    words = [a["text"] for a in figures_of(run.report.read_text())["heatmap_accuracy"]["wide"]["annotations"]]
    assert {"not run", "failed", "missing"} <= set(words)


def test_the_page_says_how_wide_the_intervals_are_that_the_forecast_hit(run, tmp_path):
    theory = [t for t in read_json(run.analysis_json)["theory"] if t["inside"] is not None]
    rates = [t["forecast"]["predicted_accept_rate"] for t in theory]
    widths = sorted(100 * (r["high"] - r["low"]) for r in rates)
    middle = (widths[(len(widths) - 1) // 2] + widths[len(widths) // 2]) / 2
    hits = sum(t["inside"] for t in theory)
    assert f"{hits} of {len(theory)} conditions within its 95% interval, which is {middle:.0f} points wide" in str(
        Text(run.report.read_text())
    )
    few = make_run(tmp_path / "few", n=24)
    write_report(few, evaluate(few, draws=DRAWS))
    assert "too wide to be told wrong by much" in str(Text(few.report.read_text()))


def test_numbers_on_the_page_are_those_of_all_metrics_json(run):
    html = run.report.read_text().replace("<wbr>", "")
    for e in json.loads(run.metrics_json.read_text()):
        row = re.search(
            rf"<tr[^>]*><td[^>]*>{re.escape(e['name'])}</td>(.*?)</tr>", html[html.index('id="tables"') :], re.S
        )
        assert row, e["name"]
        if e["state"] == "done":
            for key in ("accuracy", "predicted_accept_rate", "auc", "brier"):
                expected = f'data-v="{e[key]}" data-low="{e[f"{key}_low"]}" data-high="{e[f"{key}_high"]}"'
                assert expected in row[1], (e["name"], key)


def test_every_point_of_the_gamma_plots_has_its_interval_and_the_baseline_is_in_both_panels(run):
    entries = {e["name"]: e for e in json.loads(run.metrics_json.read_text())}
    for slug, metric in (("acceptance_rate_vs_gamma", "predicted_accept_rate"), ("accuracy_vs_gamma", "accuracy")):
        f = figures_of(run.report.read_text())[slug]
        assert f["wide"]["xaxis"]["type"] == f["wide"]["xaxis2"]["type"] == "log"
        drawn = [t for t in f["data"] if t.get("mode") == "lines+markers"]
        seen = {"x": set(), "x2": set()}
        for t in drawn:
            for y, up, down, (name, *_) in zip(
                t["y"], t["error_y"]["array"], t["error_y"]["arrayminus"], t["customdata"], strict=True
            ):
                e = entries[name]
                assert (y, y + up, y - down) == pytest.approx((e[metric], e[f"{metric}_high"], e[f"{metric}_low"]))
                seen[t["xaxis"]].add(name)
        assert THE_19[0] in seen["x"] & seen["x2"]
        assert seen["x"] | seen["x2"] == {n for n, e in entries.items() if e["state"] == "done"}


def test_a_proportion_has_one_colour_in_every_figure(run):
    colours = {}
    for f in figures_of(run.report.read_text()).values():
        for t in f["data"]:
            m = re.match(r"(?:\S+ \S+ at )?(1/\d)( |$)", t.get("name", ""))
            colour = t.get("line", {}).get("color") or t.get("marker", {}).get("color")
            if m and isinstance(colour, str) and "baseline" not in t["name"]:
                colours.setdefault(m[1], set()).add(colour)
    assert set(colours) == {"1/2", "1/3", "1/4", "1/8"}
    assert all(len(c) == 1 for c in colours.values())
    assert len(set.union(*colours.values())) == 4


def test_a_page_of_a_selection_says_so_and_calls_nothing_done_or_not_run_that_it_leaves_out(tmp_path):
    made = make_run(tmp_path, THE_19[:10], n=80)
    html, figures = page(report_input_of(made, evaluate(made, only="0-2,7", draws=DRAWS)))
    assert "This page shows 4 of the sweep&#39;s 10 conditions (--only 0-2,7)." in html and "not selected" in html
    words = {a["text"] for f in figures if f.slug == "heatmap_accuracy" for a in f.wide["annotations"]}
    assert "not shown" in words and "not run" not in words


def test_a_table_downloads_in_the_unit_of_its_headings(run):
    report_input = report_input_of(run, evaluate(run, draws=DRAWS))
    compared = report_input.analysis.comparisons[0].difference["accuracy"]
    (differences,) = [b for b in tables(report_input).blocks if b.slug == "differences"]
    cell = differences.rows[0].cells[differences.headings.index("accuracy (points)")]
    assert cell.value == pytest.approx(100 * compared.value) and cell.low == pytest.approx(100 * compared.low)
    (forecast,) = [b for b in forecast_section(report_input).blocks if getattr(b, "slug", "") == "forecast"]
    cell = forecast.rows[0].cells[forecast.headings.index("measured accuracy %")]
    result = next(r for r in report_input.done if r.name == forecast.rows[0].cells[0].text)
    assert cell.value == pytest.approx(100 * result["accuracy"].value) and cell.text == f"{cell.value:.1f}"


def test_the_page_names_the_model_every_launch_and_what_the_forecast_chose(tmp_path):
    made = make_run(tmp_path, THE_19[:3], n=80, leave_out=THE_19[2:3])
    sweep = read_json(made.sweep_json)
    sweep["sweep"]["model"] = {"path": "models/some-llm", "tiny": None}
    launches = ["wlsweep run a.toml --only 0", "wlsweep run a.toml --until-decided"]
    write_json(made.sweep_json, sweep | {"launches": [sweep["provenance"] | {"command": c} for c in launches]})
    write_json(made.skipped_json, {THE_19[2]: "no open hypothesis hangs on it"})
    html, _ = page(report_input_of(made, evaluate(made, draws=DRAWS)))
    assert "fine-tunings of models/some-llm:" in html and "chose which conditions to run" in html
    assert all(c in html for c in launches)
    assert "left out by --until-decided: no open hypothesis hangs on it" in html


def test_the_first_lines_count_declared_seeds_and_say_whose_trainings_are_not_counted(tmp_path):
    names = [*THE_19[:9], *(f"{name}_seed1" for name in THE_19[:2])]
    made = make_run(
        tmp_path, names, n=80, leave_out=[f"{THE_19[1]}_seed1"]
    )  # declared with two seeds, one of them done
    external = made.prediction(THE_19[3]) / "part-0.parquet"
    said = lead(report_input_of(made, evaluate(made, externals=[("other", external)], draws=DRAWS)))
    assert "2 seeds in all, but only one seed each for 7 conditions." in said
    assert "Of models from outside of the sweep, their own trainings are not counted." in said
    assert "outside" not in lead(report_input_of(made, evaluate(made, externals=[], draws=DRAWS)))


def test_the_shares_of_the_logistic_model_say_beyond_what_they_are_counted(run, tmp_path):
    def listing(made):
        report_input = report_input_of(made, evaluate(made, draws=DRAWS))
        return next(b for b in forecast_section(report_input).blocks if isinstance(b, Listing))

    found = listing(run)
    (first, *_), title = found.entries, found.title
    assert re.search(
        r"Gamma and the proportion, each beyond the other of the two: ln gamma [\d.]+%, logit proportion [\d.]+%; "
        r"the rest, each added last: .*gamma x proportion",
        first,
    )
    assert title == "The logistic model of the predicted accept rate"
    kinds = make_run(tmp_path, [*THE_19, f"{THE_19[0]}_lora16", f"{THE_19[1]}_lora16"], n=80)
    assert listing(kinds).title == "The logistic model of the predicted accept rate of full fine-tuning"


def test_an_external_model_worse_than_all_is_inside_the_fitted_axis(tmp_path):
    made = make_run(tmp_path, THE_19[:4], n=300)
    truth = pq.read_table(made.test_parquet)
    wrong = [0.1 if label == "Accept" else 0.9 for label in truth["label"].to_pylist()]
    pq.write_table(pa.table({"row_id": truth["row_id"], "p_accept": wrong}), tmp_path / "worst.parquet")
    found = evaluate(made, externals=[("worst", tmp_path / "worst.parquet")], draws=DRAWS)
    (figure,) = [f for f in page(report_input_of(made, found))[1] if f.slug == "accuracy_vs_gamma"]
    assert figure.wide["yaxis"]["range"][0] == 0
    html, figures = page(report_input_of(made, found))
    assert f"worst from {tmp_path / 'worst.parquet'}" in html
    (grid,) = [f for f in figures if f.slug == "heatmap_accuracy"]
    assert f"Outside of the grid: worst {PERCENT.full(found.externals[0]['accuracy'])}." in grid.caption


def test_the_first_lines_say_whether_the_baseline_beats_models_from_outside(tmp_path):
    made = make_run(tmp_path / "run", THE_19[:3], n=200)
    truth = pq.read_table(made.test_parquet)
    right = [0.9 if label == "Accept" else 0.1 for label in truth["label"].to_pylist()]
    externals = [("same", made.prediction(THE_19[0]) / "part-0.parquet")]
    for name, p_accept in (("right", right), ("wrong", [1 - p for p in right])):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"row_id": truth["row_id"], "p_accept": p_accept}), path)
        externals.append((name, path))
    said = answer(report_input_of(made, evaluate(made, externals=externals, draws=DRAWS))).paragraphs[0]
    base = f"the baseline {THE_19[0]}: accuracy"
    alike = "0.0 (0.0 to 0.0) points, AUC 0.000 (0.000 to 0.000)."
    assert f"same, from outside of the sweep, is not shown to differ from {base} {alike}" in said
    assert f"right, from outside of the sweep, is better than {base} +" in said
    assert f"wrong, from outside of the sweep, is worse than {base} -" in said


def test_every_verdict_is_one_line_with_its_sentence_and_numbers_on_demand(run):
    html = run.report.read_text()
    block = html[html.index('<div class="verdicts">') : html.index('id="plot-acceptance_rate_vs_gamma"')]
    lines = re.findall(r"<details class=[^>]*><summary>(.*?)</summary>(.*?)</details>", block, re.S)
    verdicts = read_json(run.analysis_json)["verdicts"]
    assert [Text(line).words[1] for line, _ in lines] == [v["key"] for v in verdicts]
    for (_, body), v in zip(lines, verdicts, strict=True):
        assert v["sentence"] in str(Text(body)) and all(n in str(Text(body)) for n in v["numbers"])
        assert not v["plan"] or f"{v['plan'].capitalize()} of the study." in str(Text(body))


def test_the_first_lines_say_that_papers_are_synthetic_and_which_verdicts_another_draw_would_change(tmp_path):
    for synthetic in (True, False):
        made = make_run(tmp_path / str(synthetic), n=100, synthetic=synthetic)
        report = report_input_of(made, evaluate(made, draws=DRAWS))
        kind = "synthetic " if synthetic else ""
        assert f"judged on the same 100 {kind}test papers (" in lead(report)
        doubtful = [v for v in report.analysis.verdicts if v.support is not None and v.support < FIRM]
        assert 0 < len(doubtful) < len(report.analysis.verdicts)
        said = answer(report).paragraphs[0]
        listed = said.partition("fewer than 95% of draws say the same: ")[2]
        assert listed == ", ".join(f"{v.key} ({v.verdict}, {100 * v.support:.0f}%)" for v in doubtful) + "."


def test_of_very_many_numbers_and_years_the_page_says_where_they_lie(run, monkeypatch):
    monkeypatch.setattr(Answer, "most", 1)
    monkeypatch.setattr(report_tables, "MOST_YEARLY", 5)
    found = evaluate(run, draws=DRAWS)
    html, _ = page(report_input_of(run, found))
    block = html[html.index('<div class="verdicts">') : html.index('id="plot-acceptance_rate_vs_gamma"')]
    many = [v["numbers"] for v in read_json(run.analysis_json)["verdicts"] if len(v["numbers"]) > 1]
    said = str(Text(block))
    assert many and all(f"{len(n) - 1} more in metrics/analysis.json" in said and n[0] in said for n in many)
    assert not any(n[-1] in said for n in many)
    assert "values are in metrics/by_year.parquet" in html and "Metrics by condition and year" not in html


def test_what_the_generated_text_says_is_listed_only_where_it_differs(tmp_path):
    made = make_run(tmp_path, THE_19[:3], n=80, unknown_share=0.0)
    assert "Where the generated text differs" not in page(report_input_of(made, evaluate(made, draws=DRAWS)))[0]
    scores = pq.read_table(made.prediction(THE_19[1]))
    odds = (scores["logprob_accept"].to_numpy() - scores["logprob_reject"].to_numpy()) * 1.0
    write_predictions(made, THE_19[1], odds, [None, *(["Accept"] * 79)])
    (block,) = [b for b in tables(report_input_of(made, evaluate(made, draws=DRAWS))).blocks if b.slug == "readings"]
    assert [row.cells[0].text for row in block.rows] == [THE_19[1]]


def test_columns_that_are_shown_on_request_are_in_the_page_and_its_csv(run):
    table = next(b for b in tables(report_input_of(run, evaluate(run, draws=DRAWS))).blocks if b.slug == "conditions")
    assert {"log loss", "precision of rejects"} <= table.more <= set(table.headings)
    assert not {"condition", "accuracy", "predicted accept rate", "state", "cause"} & table.more  # one condition failed


def test_no_number_on_the_page_is_a_signed_zero(run):
    assert not re.findall(r"(?<![\d.])[+-]0(?:\.0+)?(?:%|\s|\)|$)", str(Text(run.report.read_text())))


def test_names_from_outside_are_escaped(run):
    html = run.report.read_text()
    assert "<tf-idf>" not in html and "&lt;tf-idf&gt; &amp; co" in html


def test_duplicates_truncation_and_unknown_answers_are_named(run):
    text = str(Text(run.report.read_text()))
    assert "The mix 1/8 uses 750 rows more than once" in text
    assert "papers were cut to 256 tokens" in text
    assert "Answers that could not be read" in text
    assert "wlsweep run search_spaces/demo.toml --out runs/made" in text and "f" * 40 in text


@pytest.mark.parametrize(
    ("names", "left_out"), [(THE_19[:3], []), (THE_19[:3], THE_19[:3]), (FULL36, []), (THE_19[1:3], [])]
)
def test_small_empty_and_larger_sweeps_make_a_page(tmp_path, names, left_out):
    made = make_run(tmp_path, names, n=60, leave_out=left_out)
    html, figures = page(report_input_of(made, evaluate(made, draws=DRAWS)))
    for f in figures:
        go.Figure(data=f.data, layout=f.wide | f.narrow)
    assert all(name in html.replace("<wbr>", "") for name in names)


def test_other_seeds_losses_and_gammas_below_one_make_a_page(tmp_path):
    names = [
        *THE_19[:4],
        "accept_gamma0.5_prop1_2",
        "accept_gamma2.0_prop1_2_focal2.0",
        "reject_gamma2.0_prop1_3_twostage",
    ]
    names += [f"{n}_seed1" for n in THE_19[:4]]
    made = make_run(tmp_path, names, n=80)
    html, figures = page(report_input_of(made, evaluate(made, draws=DRAWS)))
    assert "Over seeds" in html and "circles are single seeds" in html and "Of several seeds, seed 0." in html
    (rates,) = [f for f in figures if f.slug == "acceptance_rate_vs_gamma"]
    theory = [y for t in rates.data if t["name"].startswith("theory") for y in t["y"]]
    foreseen = {t.name: t.forecast for t in evaluate(made, draws=DRAWS).analysis.theory if t.forecast}
    both = [foreseen[n]["predicted_accept_rate"].value for n in (THE_19[1], f"{THE_19[1]}_seed1")]
    assert any(y == pytest.approx(sum(both) / 2) for y in theory)
    for f in figures:
        go.Figure(data=f.data, layout=f.wide | f.narrow)


needs_browser = pytest.mark.skipif(browser() is None, reason="no Chromium or Chrome on PATH")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_real_browser_every_figure_draws_nothing_is_fetched_and_tables_sort(run, width):
    figures = figures_of(run.report.read_text())
    with tab(browser()) as t:
        t.open(run.report, width=width)
        assert t.complaints() == []
        assert t.requests() == []
        assert t.eval("document.documentElement.scrollWidth") <= width
        drawn = t.eval(
            "Object.fromEntries([...document.querySelectorAll('.plot')].map(d => [d.dataset.slug,"
            " d.querySelectorAll('.scatterlayer .trace, .heatmaplayer .hm').length]))"
        )
        assert drawn == {slug: len(f["data"]) for slug, f in figures.items()}
        column = "Array.from(document.querySelector('#table-conditions tbody').rows, r => r.cells[%d].dataset.v)"
        heads = t.eval("Array.from(document.querySelectorAll('#table-conditions th'), h => h.textContent)")
        at = heads.index("accuracy")
        click = f"document.querySelectorAll('#table-conditions th button')[{at}].click()"
        for descending in (False, True):
            t.eval(click)
            values = t.eval(column % at)
            numbers = [float(v) for v in values if v]
            assert numbers == sorted(numbers, reverse=descending) and len(numbers) == 18
            assert values[len(numbers) :] == [""] * 2  # failed and missing stay last
        t.eval(
            "URL.createObjectURL = (blob) => { window.saved = blob; return '#'; };"
            "document.querySelector('button.csv[data-file=\"conditions.csv\"]').click()"
        )
        lines = t.eval("window.saved.text()").splitlines()
        assert len(lines) == 21 and "accuracy,accuracy low,accuracy high" in lines[0]


@pytest.mark.slow
@needs_browser
def test_the_page_is_there_to_read_before_plotly_starts(run):
    early = (
        "addEventListener('load', () => { window.early = [typeof Plotly, document.querySelectorAll('tr').length]; })"
    )
    with tab(browser()) as t:
        t.open(run.report, before=early)
        kind, rows = t.eval("window.early")
        assert kind == "undefined" and rows == t.eval("document.querySelectorAll('tr').length") > 40


@pytest.mark.slow
@needs_browser
def test_printing_draws_the_figures_that_nobody_has_scrolled_to(run):
    early = """addEventListener('load', () => {
        dispatchEvent(new Event('beforeprint'));
        window.printed = document.querySelectorAll('.plot .main-svg:first-of-type').length;
    })"""
    with tab(browser()) as t:
        t.open(run.report, before=early)
        assert t.eval("window.printed") == len(figures_of(run.report.read_text()))
        assert t.complaints() == []


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_room_is_kept_for_figures_so_that_drawing_them_moves_nothing(run, width):
    early = "addEventListener('load', () => { window.early = document.body.scrollHeight; })"
    with tab(browser()) as t:
        t.open(run.report, width=width, before=early)
        assert t.eval("document.body.scrollHeight") == t.eval("window.early")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("finished"), n=400, unknown_share=0.0)
    write_report(made, evaluate(made, draws=DRAWS))
    return made.report


def boxes(t, selector):
    """top, bottom, left, right of what matches, in CSS pixels."""
    return t.eval(
        f"[...document.querySelectorAll({selector!r})].map(e => {{ const r = e.getBoundingClientRect();"
        " return [r.top, r.bottom, r.left, r.right].map(Math.round); })"
    )


@pytest.mark.slow
@needs_browser
def test_the_first_screen_is_the_answer_and_the_page_is_short(finished):
    with tab(browser()) as t:
        t.open(finished, width=1280, height=900)
        lines = boxes(t, ".verdicts summary")
        assert len(lines) == 14 and max(bottom for _, bottom, _, _ in lines) < 900
        assert max(bottom - top for top, bottom, _, _ in lines) < 40  # one line of text each
        rate, accuracy = boxes(t, ".answer .plot")
        assert rate[1] < 900 and accuracy[1] < 920 and rate[2] > max(right for *_, right in lines)
        # 17,027 pixels and 10,845 words before
        assert t.eval("document.body.scrollHeight") < 8_500
        assert t.eval("document.querySelector('main').innerText.split(/\\s+/).length") < 5_400


@pytest.mark.slow
@needs_browser
def test_at_1280_pixels_every_table_fits_and_all_columns_scroll(finished):
    with tab(browser()) as t:
        t.open(finished, width=1280, height=900)
        t.eval("document.querySelectorAll('details').forEach(d => d.open = true)")
        width = "[...document.querySelectorAll('.scroll')].map(s => s.scrollWidth - s.clientWidth)"
        assert len(t.eval(width)) >= 4 and t.eval(width) == [0] * len(t.eval(width))
        t.eval("document.querySelectorAll('button.all').forEach(b => b.click())")
        assert max(t.eval(width)) > 300 and t.eval("document.documentElement.scrollWidth") <= 1280


@pytest.mark.slow
@needs_browser
def test_on_a_dark_screen_page_and_figures_are_dark_and_on_paper_they_are_light(finished):
    colours = (
        "({page: getComputedStyle(document.body).backgroundColor, figures: [...new Set([...document.querySelectorAll("
        "'.plot .main-svg:first-of-type')].map(s => s.style.background))], ink: [...new Set([...document.querySelectorAll("
        "'.plot .xtick text')].map(s => s.style.fill))]})"
    )
    with tab(browser()) as t:
        t.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        t.open(finished, width=1280)
        assert t.eval(colours) == {
            "page": "rgb(21, 24, 28)",
            "figures": ["rgb(21, 24, 28)"],
            "ink": ["rgb(230, 230, 230)"],
        }
        t.eval("dispatchEvent(new Event('beforeprint'))")
        assert t.eval(colours)["figures"] == ["rgb(255, 255, 254)"]
        assert t.eval(colours)["ink"] == ["rgb(34, 34, 34)"]
        assert t.complaints() == []


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("name", "width", "height"), [("A4", 8.27, 11.69), ("Letter", 8.5, 11.0)])
def test_on_paper_nothing_is_cut_and_no_figure_is_broken_over_pages(finished, name, width, height):
    inside = round((width - 1) * 96)
    with tab(browser()) as t:
        t.open(finished, width=inside, height=900)
        t.eval("document.querySelectorAll('details').forEach(d => d.open = true)")
        t.call("Emulation.setEmulatedMedia", media="print")
        t.eval("dispatchEvent(new Event('beforeprint'))")
        assert t.eval("document.documentElement.scrollWidth") <= inside
        for selector in ("table", ".plot .main-svg", "pre", "figcaption"):
            assert all(right <= inside + 1 for *_, right in boxes(t, selector)), (name, selector)
        tallest = max(bottom - top for top, bottom, *_ in boxes(t, "figure"))
        assert (
            tallest < (height - 1) * 96
            and t.eval("getComputedStyle(document.querySelector('figure')).breakInside") == "avoid"
        )


def test_validation_has_curves_and_a_table_of_last_values_and_nothing_where_there_was_none(run, tmp_path):
    assert "validation" not in "".join(figures_of(run.report.read_text()))
    assert "Validation at the end" not in run.report.read_text()
    made = make_run(tmp_path / "validated", THE_19[:3], n=60)
    written = add_validation(made, THE_19[:2])
    write_report(made, evaluate(made, draws=20))
    figures = figures_of(made.report.read_text())
    for slug, key in (("validation_cross_entropy", "bce"), ("validation_auc", "auc"), ("validation_loss", "loss")):
        drawn = {tuple(zip(line["x"], line["y"], strict=True)) for line in figures[slug]["data"]}
        assert drawn == {
            tuple((line["step"], line[f"validation_{key}"]) for line in lines) for lines in written.values()
        }
    (table,) = [b for b in curves(report_input_of(made, evaluate(made, draws=20))).blocks if b.kind == "table"]
    assert [[c.value if c.number else c.text for c in row.cells] for row in table.rows] == [
        [name, 240, *(pytest.approx(lines[-1][f"validation_{key}"] * scale) for key, scale in ROW)]
        for name, lines in written.items()
    ]
    assert "40 papers (18 accepts, 22 rejects)" in table.note and "about 15 points either way" in table.note


ROW = (("bce", 1), ("auc", 1), ("accuracy", 1), ("accept_rate", 1), ("loss", 1))


def test_trainings_that_were_validated_at_their_end_alone_have_a_table_and_no_curves(tmp_path):
    made = make_run(tmp_path / "validated", THE_19[:2], n=60)
    add_validation(made, THE_19[:2], every=1000)
    kinds = [block.kind for block in curves(report_input_of(made, evaluate(made, draws=20))).blocks]
    assert kinds == ["pair", "table"]
