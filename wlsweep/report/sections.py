"""The order of the page: a reader's questions, one section each."""

from __future__ import annotations

from wlsweep.report.blocks import Section
from wlsweep.report.findings import answer, cost, forecast_section, gamma_section
from wlsweep.report.report_input import ReportInput
from wlsweep.report.tables import curves, provenance, tables, warnings, years


def sections(report_input: ReportInput) -> list[Section]:
    """The whole page, in order."""
    parts = (answer, gamma_section, forecast_section, cost, tables, years, curves, warnings, provenance)
    return [part(report_input) for part in parts]
