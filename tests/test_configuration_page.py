"""docs/configuration.md is what the models say today."""

import runpy
from pathlib import Path

from wlsweep.spec.axes import AXES

MADE = runpy.run_path("docs/make_configuration.py")


def test_the_reference_of_the_configuration_is_current():
    assert Path("docs/configuration.md").read_text() == MADE["page"](), "run: make configuration"


def test_every_key_has_a_meaning_and_every_axis_is_there():
    rows = [line.split(" | ") for line in MADE["page"]().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row[0] for row in rows if len(row[3].strip(" |")) < 10] == []
    keys = {row[0].strip("| `") for row in rows}
    assert {axis.key for axis in AXES} <= keys and "settings" not in keys
