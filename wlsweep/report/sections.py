"""The order of the page: a reader's questions, one section each."""

from __future__ import annotations

from wlsweep.report.blocks import Section
from wlsweep.report.findings import answer, cost, forecast_section, gamma_section
from wlsweep.report.records import curves, provenance, tables, warnings, years
from wlsweep.report.story import Story


def sections(story: Story) -> list[Section]:
    """The whole page, in order."""
    parts = (answer, gamma_section, forecast_section, cost, tables, years, curves, warnings, provenance)
    return [part(story) for part in parts]
