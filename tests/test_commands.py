"""Commands of daily use: logs, status --watch, report --open, short flags, and output that a pipe does not wrap."""

import json
import os
import subprocess
import sys

import pytest
import typer

from tests.made_run import THE_19, make_run
from wlsweep import cli
from wlsweep.console import watch
from wlsweep.run.layout import RunDir
from wlsweep.run.logs import last_lines, log_files

BAD, GOOD = THE_19[1], THE_19[0]


def wlsweep(*arguments, **environment):
    command = [sys.executable, "-m", "wlsweep", *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two conditions, one of which failed, with the logs of their processes."""
    made = make_run(tmp_path_factory.mktemp("run"), [GOOD, BAD], n=20, failed=[BAD])
    logs = made.logs / "conditions"
    logs.mkdir(parents=True)
    (made.logs / "driver.log").write_text("the driver's words\n")
    (logs / f"{BAD}_train_attempt1_rank0.log").write_text("".join(f"line {i}\n" for i in range(50)) + "the cause\n")
    (logs / f"{BAD}_train_attempt1_rank1.log").write_text("")
    (logs / f"{BAD}_seed1_train_attempt1_rank0.log").write_text("of another condition\n")
    (logs / f"{GOOD}_train_attempt1_rank0.log").write_text("all is well\n")
    return made


def test_logs_of_a_run_show_what_failed_and_the_last_lines_of_its_processes(run):
    said = wlsweep("logs", run.root, "--lines", "3").stdout
    assert "RuntimeError: loss is not finite at step 7" in said and "attempt 3" in said
    assert "line 48\nline 49\nthe cause" in said and "line 47" not in said
    assert "all is well" not in said and "another condition" not in said


def test_logs_of_one_condition_are_its_own_files_and_its_metric_log(run):
    said = wlsweep("logs", run.root, "0").stdout
    assert "all is well" in said and '"step": 240' in said and "the cause" not in said
    wrong = wlsweep("logs", run.root, "19")
    assert wrong.returncode == 2 and "indices run from 0 to 1" in wrong.stderr


def test_the_drivers_log_is_shown_where_nothing_failed(tmp_path):
    made = make_run(tmp_path, [GOOD], n=20)
    made.logs.mkdir()
    (made.logs / "driver.log").write_text("the driver's words\n")
    assert "the driver's words" in wlsweep("logs", made.root).stdout


def test_a_condition_without_logs_of_its_own_has_those_of_the_processes_that_it_shared(tmp_path):
    run = RunDir(tmp_path)
    run.logs.mkdir()
    for name in ("driver.log", "train_1_rank0.log", "predict_7.log"):
        (run.logs / name).write_text("x\n")
    assert {p.name for p in log_files(run, GOOD)} == {"train_1_rank0.log", "predict_7.log"}


def test_the_end_of_a_long_log_is_read_without_its_beginning_and_of_a_bar_its_last_state(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("first\n" + "x" * 100_000 + "\n\n1%\r50%\r100%\r\nlast\n")
    assert last_lines(log, 2) == ["100%", "last"]
    assert "first" not in last_lines(log, 10)


def test_watching_ends_with_the_run_and_shows_its_end():
    shown, paused = [], []
    states = iter([False, False, True])
    watch(lambda: shown.append(1), lambda: next(states), paused.append)
    assert (len(shown), len(paused)) == (3, 2)


def test_many_conditions_are_looked_at_less_often_than_few():
    paused = []
    for conditions in (19, 1_000):
        states = iter([False, True])
        watch(lambda: None, lambda: next(states), paused.append, conditions)  # noqa: B023 - called at once
    assert paused == [2, 40]


def test_ctrl_c_ends_watching_without_an_error():
    def stop(seconds):
        raise KeyboardInterrupt

    watch(lambda: None, lambda: False, stop)


def test_status_watch_of_a_finished_run_shows_it_once(tmp_path):
    made = make_run(tmp_path, [GOOD], n=20)
    assert wlsweep("status", made.root, "--watch").stdout.count("1 of 1 done") == 1
    assert wlsweep("status", made.root, "-w", "-j").returncode == 2


def test_report_open_shows_the_page_or_says_how_to_see_it(tmp_path):
    made = make_run(tmp_path / "run", THE_19[:2], n=20)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/opened\n')
    browser.chmod(0o755)
    assert wlsweep("report", made.root, "--open", BROWSER=f"{browser} %s").returncode == 0
    assert (tmp_path / "opened").read_text().strip() == made.report.resolve().as_uri()
    bare = {"BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    assert f":{made.report.resolve()}" in wlsweep("report", made.root, "--open", **bare).stdout


def test_short_flags_are_the_long_ones(tmp_path):
    short = wlsweep("plan", "demo", "-c", "7-10", "-s", "train.epochs=2", "-l", "64", "-j")
    long = wlsweep("plan", "demo", "--only", "7-10", "--set", "train.epochs=2", "--limit", "64", "--json")
    assert short.returncode == 0 and short.stdout == long.stdout
    assert json.loads(short.stdout)["sweep"] == "demo-limit64"
    assert wlsweep("-V").stdout == wlsweep("--version").stdout and wlsweep("plan", "-h").returncode == 0


def test_no_command_has_a_flag_twice():
    for name, command in typer.main.get_command(cli.app).commands.items():
        flags = [flag for parameter in command.params for flag in parameter.opts]
        assert len(flags) == len(set(flags)), name


def test_what_goes_into_a_pipe_is_not_wrapped(tmp_path):
    made = make_run(tmp_path, [GOOD, BAD], n=20, failed=[BAD])
    row = next(line for line in wlsweep("status", made.root, COLUMNS="80").stdout.splitlines() if BAD in line)
    assert row.endswith("RuntimeError: loss is not finite at step 7")
    long = "x" * 200
    wrong = wlsweep("plan", "demo", f"--{long}")
    assert wrong.returncode == 2 and f"--{long}" in wrong.stderr and "│" not in wrong.stderr
    assert f"{long}.json: no such" in wlsweep("plan", f"{long}.json").stderr


def test_job_scripts_of_older_versions_find_the_command_line_where_it_was():
    command = [sys.executable, "-m", "wlsweep.cli", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout == wlsweep("--version").stdout != ""
    )
