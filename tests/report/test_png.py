"""The figures as image files: on a machine without a browser, and where the renderer fails."""

import struct
import time
from pathlib import Path

import pytest

from tests.made_run import THE_19, make_run
from wlsweep.analysis.evaluate import evaluate
from wlsweep.report import png
from wlsweep.report.figures.style import Figure
from wlsweep.report.page import write_report

SOUND = Figure("sound", "Sound", "", [{"type": "scatter", "y": [1, 2]}], {"height": 300, "margin": {"t": 9}})


@pytest.fixture
def without_a_browser(tmp_path, monkeypatch):
    """No program can be found, and there is no home directory."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.delenv("BROWSER_PATH", raising=False)


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Makes the renderer a shell script; gives the function that does it."""

    def replace(script):
        program = tmp_path / "renderer"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(png, "_command", lambda: ([str(program)], {}, tmp_path))

    return replace


def report(run):
    with png.Renderer() as renderer:
        return write_report(run, evaluate(run, draws=100), renderer)


def test_pngs_are_drawn_without_a_browser_on_the_machine(without_a_browser, tmp_path):
    files = report(make_run(tmp_path / "run", THE_19[:8], n=100))
    assert files.note == "" and {"accuracy_vs_gamma", "heatmap_f1", "reliability"} <= {p.stem for p in files.pngs}
    for path in files.pngs:
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", head[16:24])
        assert width == 1650 and height >= 300, path.name
        assert path.stat().st_size > 8_000, path.name  # an empty picture of this size is smaller


def test_an_ended_renderer_leaves_no_temporary_file():
    before = set(Path("/tmp").glob("file*.html"))
    with png.Renderer() as renderer:
        assert renderer.image(SOUND)
        own = set(Path("/tmp").glob("file*.html")) - before
    deadline = time.monotonic() + 20  # where others draw meanwhile, their files are here, too, for a while
    while any(path.exists() for path in own) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert own and not any(path.exists() for path in own)


def test_vector_images_hold_the_title_and_come_from_the_same_renderer(without_a_browser):
    with png.Renderer() as renderer:
        svg = renderer.image(SOUND, "svg")
        pdf = renderer.image(SOUND, "pdf")
    assert svg.startswith(b"<svg") and b"Sound" in svg and pdf.startswith(b"%PDF-")


def test_a_figure_that_cannot_be_drawn_is_named_and_the_others_are_drawn(tmp_path):
    wrong = Figure("wrong", "Wrong", "", [None], SOUND.wide)
    large = Figure("large", "Large", "", SOUND.data, SOUND.wide | {"height": 1e9})
    (tmp_path / "old.png").write_bytes(b"of an earlier report")
    with png.Renderer() as renderer:
        files, note = png.write_pngs(renderer, [wrong, SOUND, large], tmp_path)
    assert [f.name for f in files] == ["sound.png"] == [f.name for f in tmp_path.iterdir()]
    assert note.startswith("not drawn as PNG: wrong: ") and "large: the image is empty" in note
    assert "sound" not in note


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo libnss3.so: cannot open >&2; exit 1", "the renderer of images ended: libnss3.so: cannot open"),
        ('echo \'{"code": 1, "message": "no Plotly"}\'; cat >/dev/null', "no Plotly"),
        ("exec sleep 30", "no answer in 0.2 s"),
    ],
)
def test_a_renderer_that_fails_is_named_and_the_page_is_whole(broken, monkeypatch, tmp_path, script, why):
    monkeypatch.setattr(png, "PATIENCE_S", 0.2 if "sleep" in script else 20.0)
    broken(script)
    files = report(make_run(tmp_path / "run", THE_19[:2], n=20))
    assert files.page.exists() and files.pngs == []
    assert files.note.startswith("not drawn as PNG: acceptance_rate_vs_gamma") and why in files.note


def test_a_renderer_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(png, "_command", lambda: ([str(tmp_path / "missing")], {}, tmp_path))
    with png.Renderer() as renderer, pytest.raises(png.RendererError, match="does not start"):
        renderer.image(SOUND)
