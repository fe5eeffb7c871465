"""What the world feeds a command line: numbers that cannot be meant, files that are no files, streams that are closed.
Every command says what is wrong in one error, does not wait for ever, and leaves nothing half-written."""

import gzip
import json
import os
import re
import subprocess
import sys

import pytest
from pydantic import BaseModel

from tests.damage import SECONDS, in_time, odd_files, wlsweep
from tests.made_run import THE_19, make_run
from wlsweep.slurm.site import Site, load_site
from wlsweep.spec.config import GridBlock, Sweep, load_sweep


def one_error(*arguments):
    """Standard error of a command that must refuse."""
    with in_time(arguments):
        code, _, err = wlsweep(*arguments)
    assert code == 2 and err.startswith("error: ") and "Traceback" not in err, (arguments, code, err[:500])
    assert len(err) < 6500, arguments
    return err


# Numbers

SITE = {"cpus_per_node": "8", "memory_gb": "64.0", "time": '"10:00:00"', "shared": '"/project"'}
NEVER = ["inf", "-inf", "nan", "-1", "1e400", "1e308", "99999999999999999999999", "true", '"12"', "[]", "{}", "1979-05-27",
         "1" * 5000, "[" * 5000]  # fmt: skip
"""What no number of a site or a search space can be, in TOML."""


def numbers(model: type[BaseModel], at=()):
    """Dotted keys of all numbers of a model and its sections."""
    for key, field in model.model_fields.items():
        found = str(field.annotation)
        if re.search(r"\b(int|float)\b", found) and not re.search(r"dict|list|tuple|Literal", found):
            yield ".".join((*at, key))
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel) and part is not GridBlock:
                yield from numbers(part, (*at, key))


@pytest.mark.parametrize("key", numbers(Site))
def test_a_number_of_a_site_that_cannot_be_meant_is_refused(key, tmp_path):
    from wlsweep.errors import WlsweepError

    path = tmp_path / "site.toml"
    for value in NEVER:
        path.write_text("".join(f"{k} = {v}\n" for k, v in {**SITE, key: value}.items()))
        with pytest.raises(WlsweepError) as refused:
            load_site(path)
        assert str(path) in str(refused.value), (key, value)
        assert key in str(refused.value) or "TOML" in str(refused.value), (key, value)


@pytest.mark.parametrize("key", numbers(Sweep))
def test_a_number_of_a_search_space_that_cannot_be_meant_is_refused(key, tmp_path):
    from wlsweep.errors import WlsweepError

    path = tmp_path / "space.toml"
    section, _, name = key.rpartition(".")
    may_be_true = key == "train.gradient_checkpointing"
    for value in [v for v in NEVER if not (may_be_true and v == "true")]:
        heading = f"[{section}]\n" if section else ""
        path.write_text(f'extends = "demo"\nname = "odd"\n{heading}{name} = {value}\n')
        with pytest.raises(WlsweepError) as refused:
            load_sweep(path)
        assert name in str(refused.value) or "TOML" in str(refused.value), (key, value)


def test_all_numbers_were_tried():
    assert {"train.lr", "model.tiny.width", "budget.mfu", "data.synthetic.words"} <= set(numbers(Sweep))
    assert {"memory_gb", "warning_s", "write_mb_s"} <= set(numbers(Site))


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("gamma", ["0.0", "-1.0", "inf", "nan", "1e300", "true", '"2.0"', "2.00000001"]),
        ("seed", ["-1", "1.5", "true", '"1"', "99999999999999999999999"]),
        ("focal", ["-1.0", "inf", "nan", "1e300", '"1"', "true"]),
        ("smoothing", ["-0.1", "0.5", "nan", "true"]),
        ("two_stage", ["1", '"true"', "[]"]),
        ("finetuning", ['"lora0"', '"lora99999999999"', "16", '"Full"']),
        ("proportion", ['"1/1"', '"1/0"', '"2/3"', '"1/99999"', "0.5", '"1:2"', '"1/3 "']),
        ("variant", ['"Accept"', "1", '""']),
    ],
)
def test_a_value_of_the_grid_that_cannot_be_meant_is_refused(axis, values, tmp_path):
    from wlsweep.errors import WlsweepError

    path = tmp_path / "space.toml"
    for value in values:
        block = {"proportion": '["1/2"]', "variant": '["accept"]', "gamma": "[2.0]", axis: f"[{value}]"}
        lora = "[train.lora]\n" if axis == "finetuning" else ""
        body = "".join(f"{k} = {v}\n" for k, v in block.items())
        path.write_text(f'extends = "demo"\nname = "odd"\n{lora}[[grid]]\n{body}')
        with pytest.raises(WlsweepError):
            load_sweep(path)


def test_a_python_of_a_site_is_a_program(tmp_path):
    from wlsweep.errors import WlsweepError

    path = tmp_path / "site.toml"
    for value in ('""', '" "', '"--version"', '"a\\nb"', '"\\u0000"'):
        path.write_text("".join(f"{k} = {v}\n" for k, v in {**SITE, "python": value}.items()))
        with pytest.raises(WlsweepError, match="python"):
            load_site(path)


# Files


def rows(count=400, start=0):
    return "".join(
        json.dumps(
            {
                "conversations": [
                    {"from": "human", "value": f"Judge.\n\nPaper {i} of some length"},
                    {"from": "gpt", "value": f"\\boxed{{{('Accept', 'Reject')[i % 2]}}}"},
                ],
                "_metadata": {"submission_id": f"p{i}"},
            }
        )
        + "\n"
        for i in range(start, start + count)
    ).encode()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own to work in, with good rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(rows())
    return tmp_path


@pytest.mark.parametrize(
    "file",
    ["sweep.json", f"conditions/{THE_19[1]}/failed.json", f"conditions/{THE_19[0]}/trained.json", "data/test.parquet",
     f"conditions/{THE_19[0]}/metrics.jsonl", "logs/driver.log", f"predictions/condition={THE_19[0]}/part-0.parquet"],
)  # fmt: skip
def test_logs_comparisons_and_trackers_of_a_run_with_an_odd_file_end_well_or_with_one_error(here, file):
    run = make_run(here / "run", THE_19[:3], n=20, steps=2, failed=[THE_19[1]])
    make_run(here / "other", THE_19[:3], n=20, steps=2)
    run.logs.mkdir()
    (run.logs / "driver.log").write_text("words\n")
    path = run.root / file
    for way in odd_files(path, path.read_bytes()):
        slow = [["compare", "run", "other"]] if way in ("named pipe", "nested lists") else []
        for command in (["logs", "run"], ["logs", "run", "0"], ["track", "run"], ["status", "run"], *slow):
            with in_time((file, way, command)):
                code, _, err = wlsweep(*command)
            assert code in (0, 2) and "Traceback" not in err, (way, command, code, err)
            assert code == 0 or err.startswith("error: "), (way, command, err)


def names_it(path, err):
    return path.name in err or path.stem in err


def test_an_odd_search_space_is_one_error_for_plan_and_submit(here):
    for suffix in ("toml", "json"):
        space, base = here / f"space.{suffix}", here / f"base.{suffix}"
        for way in odd_files(space, b'name = "x"\n'):
            if (suffix, way) == ("toml", "empty"):
                continue
            for command in (["plan"], ["submit", "--site", "cpu", "--dry-run"], ["doctor"], ["run", "--stage", "data"]):
                assert names_it(space, one_error(*command, space)), (command, way)
        (here / "mine.toml").write_text(f'extends = "{base.name}"\nname = "mine"\n')
        for way in odd_files(base, b'name = "x"\n'):
            err = one_error("plan", "mine.toml")
            assert names_it(base, err) or way in ("empty", "white space"), (way, err)


def test_an_odd_site_is_one_error(here):
    site = here / "site.toml"
    good = "".join(f"{k} = {v}\n" for k, v in SITE.items()).encode()
    for way in odd_files(site, good):
        err = one_error("submit", "demo", "--site", site, "--dry-run", "--out", here / "out")
        assert "site.toml" in err, (way, err)
        assert not (here / "out").exists(), way


def test_odd_rows_are_one_error_for_every_command_that_reads_them(here):
    site = here / "site.toml"
    site.write_text("".join(f"{k} = {v}\n" for k, v in {**SITE, "shared": f'"{here}"'}.items()))
    for name in ("odd.jsonl", "folder/train.jsonl"):
        path = here / name
        path.parent.mkdir(exist_ok=True)
        given = path if name == "odd.jsonl" else path.parent
        for way in odd_files(path, rows()):
            for command in (
                ["plan", "demo", "--data", given],
                ["plan", "demo", "--data", "rows.jsonl", "--set", f"data.test={given}"],
                ["submit", "demo", "--site", site, "--dry-run", "--data", given, "--out", here / "out"],
            ):
                if name != "odd.jsonl" and "--set" in command:
                    continue
                err = one_error(*command)
                assert path.name in err or path.parent.name in err, (way, command, err)


def test_an_odd_file_of_a_base_model_is_one_error_and_none_is_waited_for(here):
    model = here / "model"
    model.mkdir()
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        for way in odd_files(model / file, b"{}"):
            for other in ("config.json", "tokenizer.json", "model.safetensors"):
                if other != file:
                    (model / other).write_text('{"model_type": "qwen2"}')
            err = one_error("plan", "demo", "--model", model, "--data", "rows.jsonl")
            assert "model" in err, (file, way)


def test_odd_predictions_of_others_are_one_error(here):
    make_run(here / "run", THE_19[:2], n=20, steps=2)
    path = here / "others.jsonl"
    good = b"".join(json.dumps({"row_id": f"paper-{i:05d}", "p_accept": 0.3}).encode() + b"\n" for i in range(20))
    for way in odd_files(path, good):
        assert path.name in one_error("evaluate", "run", "--external", f"others={path}"), way


@pytest.mark.parametrize(
    "path", ["with space", "with\nline break", "-x", "--out", "'quoted\"", "$(touch x)", "ümläut", "a" * 200]
)
def test_any_path_that_the_system_takes_is_a_path(here, path):
    make_run(here / path, THE_19[:2], n=20, steps=2)
    for command in (["status", "--json"], ["evaluate"], ["forecast", "--json"], ["export", "--jsonl"], ["logs"]):
        code, _, err = wlsweep(command[0], *command[1:], "--", path)
        assert code == 0, (command, path, err)
    (here / "data" / path).mkdir(parents=True)
    (here / "data" / path / "train.jsonl").write_bytes(rows())
    code, _, err = wlsweep("plan", "demo", f"--data={here / 'data' / path}")
    assert code == 0, err
    assert not (here / "x").exists()


def test_paths_that_no_system_takes_are_one_error(here):
    make_run(here / "run", THE_19[:2], n=20, steps=2)
    for bad in ("x" * 5000, "a/" * 3000, "\udcff"):
        for command in (
            ["status", bad], ["plan", bad], ["plan", "demo", "--data", bad], ["plan", "demo", "--model", bad],
            ["submit", "demo", "--site", bad], ["evaluate", "run", "--external", f"x={bad}"], ["compare", "run", bad],
            ["export", "run", "--sharegpt", bad], ["doctor", bad], ["logs", bad], ["init", bad],
            ["plan", "demo", "--set", f"data.source={bad}"],
        ):  # fmt: skip
            one_error(*command)


def test_selections_and_numbers_of_the_command_line_that_cannot_be_meant_are_one_error(here):
    make_run(here / "run", THE_19[:2], n=20, steps=2)
    huge = "9" * 5000
    for only in (huge, f"0-{huge}", "-1", "5-2", "", ",", "*[", "0-", "1e3", "\n"):
        one_error("plan", "demo", f"--only={only}")
        one_error("evaluate", "run", f"--only={only}")
    for command in (["plan", "demo", "--limit", "0"], ["plan", "demo", "--limit", "-5"], ["plan", "demo", "--limit", huge],
                    ["logs", "run", "--lines", huge], ["submit", "demo", "--site", "cpu", "--nodes", huge],
                    ["submit", "demo", "--site", "cpu", "--nodes", "0", "--dry-run"]):  # fmt: skip
        with in_time(command):
            code, _, err = wlsweep(*command)
        assert code == 2 and "Traceback" not in err and len(err) < 7000, (command[:4], err[:300])
    for setting in ("x", "=1", "train.lr=", "train.lr.x=1", "train=1", "grid=1", f"train.epochs={huge}", "train.lr=[[[[",
                    "a.b.c=1", ".=1", "train..lr=1", f"data.table={'[' * 3000}"):  # fmt: skip
        one_error("plan", "demo", "--set", setting)


# Machines

PROGRAM = [sys.executable, "-m", "wlsweep"]


def run_shell(line, **environment):
    return subprocess.run(
        ["bash", "-c", line.replace("wlsweep", f"{sys.executable} -m wlsweep")],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip


@pytest.mark.parametrize("stream", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_no_error(tmp_path, stream):
    make_run(tmp_path / "run", THE_19[:2], n=20, steps=2)
    done = run_shell(f"cd {tmp_path}; wlsweep status run {stream}")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_an_output_that_is_full_is_an_error_and_one_that_nobody_reads_is_none(tmp_path):
    make_run(tmp_path / "run", THE_19[:2], n=20, steps=2)
    full = run_shell(f"cd {tmp_path}; wlsweep status run >/dev/full")
    assert full.returncode == 2 and full.stderr.startswith("error: ") and full.stderr.count("\n") == 1, full.stderr
    unread = run_shell(f"cd {tmp_path}; wlsweep status run | true")
    assert unread.stderr == "", unread.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "LC_ALL": "xx_YY"},
        {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/x", "XDG_CONFIG_HOME": "/proc/x", "COLUMNS": "x"},
        {"HOME": "/etc/passwd", "PATH": "", "PYTHONIOENCODING": "ascii"},
    ],
    ids=str,
)  # fmt: skip
def test_an_odd_environment_keeps_no_command_from_its_work(here, environment):
    make_run(here / "run", THE_19[:2], n=20, steps=2)
    for line in ("plan demo", "evaluate run", "doctor"):
        done = subprocess.run(
            [*PROGRAM, *line.split()],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr, (line, done.stderr)
        assert done.returncode == 0 or line == "doctor"


def test_gzip_under_a_plain_name_is_read_and_a_cut_one_is_refused(here):
    (here / "packed.jsonl").write_bytes(gzip.compress(rows()))
    assert wlsweep("plan", "demo", "--data", "packed.jsonl")[0] == 0
    (here / "cut.jsonl").write_bytes(gzip.compress(rows())[:-20])
    assert "no whole gzip" in one_error("plan", "demo", "--data", "cut.jsonl")
