"""What the run used, beside what the plan had said: one sentence and a table, on request."""

from __future__ import annotations

from wlsweep.estimate import NONE, clock, count, hours_text, size_text
from wlsweep.report.blocks import Block, Cell, Listing, Row, Section, Table, text
from wlsweep.report.report_input import ReportInput
from wlsweep.run.usage import Held, Usage

TITLE = "What it took"


def used(report: ReportInput) -> Section:
    """Hours, energy, dollars and bytes, by condition and in all."""
    usage = report.usage
    if usage is None or not usage.recorded:
        return Section("usage", TITLE, ["Not recorded: this run has no accounts of its processes."])
    paragraph = usage.sentence().removeprefix("used: ")
    blocks: list[Block] = [_table(usage), Listing(_details(usage), "What is counted, and the plan of then")]
    return Section("usage", TITLE, [f"Until this page was written: {paragraph}."], blocks)


def _details(usage: Usage) -> list[str]:
    stages = ", ".join(f"{name} {clock(seconds)}" for name, seconds in usage.stages.items())
    lines = [
        "Every attempt counts, also those that failed, were stopped or killed. Hours are those in which a process of a"
        " worker group or an engine held GPUs or cores, busy or not; Ray's own start of processes, the driver and trackers"
        " are not counted, nor what a SLURM job holds beyond groups and engines.",
        "An engine's time counts for the condition that it predicts; adapters that are predicted together share it evenly,"
        " as each has the same test rows.",
        f"Wall time of the stages, over all launches: {stages}." if stages else "",
        "On disk now: " + ", ".join(f"{part} {size_text(size)}" for part, size in usage.storage.items()) + ".",
        f"Written into resume checkpoints: {size_text(usage.checkpoint_bytes)}.",
        f"The most on disk at one time was at least {size_text(usage.largest_bytes)} (looks ten seconds apart or more)"
        + (
            f"; the plan said at most {size_text(usage.plan.peak_bytes)}."
            if usage.plan and usage.plan.peak_bytes
            else "."
        )
        if usage.largest_bytes
        else "",
        f"The plan is that of {usage.plan.made_at}, when the run began; its hours are training alone."
        if usage.plan
        else "No plan was recorded when the run began.",
        f"No account of their training: {', '.join(usage.unrecorded)}." if usage.unrecorded else "",
        f"{count(len(usage.unreadable), 'account')} cannot be read, so that more was used than is said here: "
        f"{', '.join(usage.unreadable)}."
        if usage.unreadable
        else "",
    ]
    return [line for line in lines if line]


def _table(usage: Usage) -> Table:
    gpus, price = usage.on_gpus, usage.price is not None and usage.on_gpus
    headings = ["condition", "attempts", "training, wall time", "prediction, wall time", usage.unit]
    headings += ["of these in attempts that left no model"]
    headings += [*(["planned GPU-hours of training", "energy kWh"] if gpus else []), *(["dollars"] if price else [])]
    headings += ["checkpoints written", "model kept"]

    def row(name: str, attempts: object, parts: tuple[Held, Held, Held], more: tuple[float | None, ...]) -> Row:
        training, prediction, unfinished = parts
        planned, dollars, checkpoints, model = more
        both = training + prediction
        cells = [text(name), text(attempts), _time(training.seconds), _time(prediction.seconds)]
        cells += [_hours(usage.hours(both)), _hours(usage.hours(unfinished))]
        if gpus:
            cells += [_hours(planned), _hours(both.energy_kwh if both.measured_gpu_hours else None)]
        if price:
            cells.append(Cell(NONE if dollars is None else f"{dollars:,.2f}", dollars, number=True))
        return Row([*cells, _size(checkpoints), _size(model)])

    rows = []
    for c in usage.conditions:
        more = c.planned_gpu_hours, c.dollars, float(c.checkpoint_bytes), float(c.model_bytes)
        rows.append(row(c.name, c.attempts, (c.training, c.prediction, c.unfinished), more))
    none, free = Held(), (None, None, None, None)
    rows.append(row("getting ready", "", (usage.starting, none, none), free))
    rows.append(row("idle", "", (usage.waiting, none, none), free))
    every = usage.conditions
    lost = sum((c.unfinished for c in every), none)
    planned = usage.plan.gpu_hours if usage.plan else None
    sizes = (float(usage.checkpoint_bytes), float(usage.storage["models"]))
    sums = tuple(sum(part, none) for part in ((c.training for c in every), (c.prediction for c in every)))
    shared = usage.starting + usage.waiting
    total = (sums[0] + shared, sums[1], lost)
    rows.append(row("all", sum(c.attempts for c in every), total, (planned, usage.dollars, *sizes)))
    note = (
        "Wall times of conditions that ran at the same time overlap. Groups and engines that got ready or were idle stand by"
        " themselves."
    )
    return Table("usage", "Used, by condition", headings, rows, note, folded=True)


def _time(seconds: float) -> Cell:
    return Cell(clock(seconds) if seconds else NONE, round(seconds, 1), number=True)


def _hours(hours: float | None) -> Cell:
    return Cell(NONE, "", number=True) if hours is None else Cell(hours_text(hours), hours, number=True)


def _size(size: float | None) -> Cell:
    return Cell(NONE, "", number=True) if not size else Cell(size_text(size), size, number=True)
