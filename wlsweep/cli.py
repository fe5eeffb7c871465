"""The command line. Each subcommand imports what it needs when it runs, so that `plan` and `status` answer at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from wlsweep import __version__
from wlsweep.cli_options import (
    SPACE_HELP,
    AsJson,
    DataPath,
    External,
    Limit,
    ModelPath,
    Only,
    OutFolder,
    RunFolder,
    Settings,
    SweepFile,
    Track,
    complete,
    externals_of,
    load_with_options,
)
from wlsweep.command_line import end_at_once, open_page
from wlsweep.errors import WlsweepError
from wlsweep.run.layout import RunDir, atomic_file, existing_run

# Help and errors stand in boxes on a terminal; in a file or pipe these would be wrapped at 80 columns.
_BOXED = all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich" if _BOXED else None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    pretty_exceptions_enable=False,
    help="Sweeps of weighted losses and class mixes over one fine-tuned LLM. Start with: wlsweep run demo",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"wlsweep {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="show the version and exit", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def init(
    name: Annotated[
        str | None, typer.Argument(help="a shipped search space or site, such as iclr19 or gpu-4", metavar="NAME")
    ] = None,
) -> None:
    """Copy a shipped search space or site file into this folder, to be edited; without a name, list them."""
    from wlsweep.shipped import SEARCH_SPACES, SITES, copy_here, first_line

    if name is None:
        for kind in (SEARCH_SPACES, SITES):
            typer.echo(f"{kind.what}s:")
            for each in kind.names:
                typer.echo(f"  {each:<14} {first_line(kind, each)}")
        return
    copy = copy_here(name)
    use = (
        f"wlsweep plan {copy}" if copy.stem in SEARCH_SPACES.names else f"wlsweep submit SWEEP --site {copy} --dry-run"
    )
    typer.echo(f"copied:  {copy}\nnext:    edit it, then {use}")


@app.command()
def plan(
    sweep: SweepFile,
    only: Only = None,
    data: DataPath = None,
    model: ModelPath = None,
    set_: Settings = None,
    limit: Limit = None,
    json_: AsJson = False,
) -> None:
    """Say what a sweep would do: conditions, rows, steps, storage, and what it needs to run. Starts nothing."""
    from wlsweep.spec.plan import make_plan, plan_text

    found = make_plan(load_with_options(sweep, data, limit, model, set_), only)
    if json_:
        typer.echo(json.dumps(found, indent=1))
    else:
        plan_text(found)


@app.command()
def run(
    sweep: SweepFile,
    only: Only = None,
    data: DataPath = None,
    model: ModelPath = None,
    set_: Settings = None,
    track: Track = None,
    out: OutFolder = None,
    stage: Annotated[
        str, typer.Option(help="stop after this stage: data, train, predict, evaluate or report", metavar="STAGE")
    ] = "report",
    limit: Limit = None,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="test the theory, then run only what its forecast leaves in doubt")
    ] = False,
) -> None:
    """Run a sweep, or go on with it: everything that is done is skipped."""
    from wlsweep.orchestrate.driver import STAGES, run_sweep
    from wlsweep.spec.condition import select
    from wlsweep.spec.power import seed_warning
    from wlsweep.spec.processor import cpu_advice
    from wlsweep.track.process import tracking

    if stage not in STAGES:
        raise WlsweepError(f"--stage {stage}: expected one of {', '.join(STAGES)}")
    loaded = load_with_options(sweep, data, limit, model, set_, track)
    if stage != "data" and (warning := seed_warning(loaded, select(loaded.conditions, only))):
        typer.echo(f"warning: {warning}", err=True)
    for warning in cpu_advice(loaded) if stage != "data" else []:
        typer.echo(f"warning: {warning}", err=True)
    folder = out or Path("runs") / loaded.name
    try:
        with tracking(loaded, RunDir(folder), typer.echo):
            code = run_sweep(loaded, folder, only, stage, sys.argv[1:], until_decided)
    except KeyboardInterrupt:  # the second signal
        code = 130
    except WlsweepError as e:
        typer.echo(f"error: {e}", err=True)
        code = 2
    end_at_once(code)


@app.command()
def submit(
    sweep: Annotated[
        Path | None, typer.Argument(help=SPACE_HELP, metavar="SWEEP", autocompletion=complete("SEARCH_SPACES"))
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(
            help="site: a TOML file, or the name of a shipped one", metavar="SITE", autocompletion=complete("SITES")
        ),
    ] = None,
    only: Only = None,
    nodes: Annotated[int, typer.Option(help="nodes of a job", metavar="N")] = 1,
    array: Annotated[bool, typer.Option("--array", help="a job array, one small cluster a condition")] = False,
    data: DataPath = None,
    model: ModelPath = None,
    set_: Settings = None,
    track: Track = None,
    out: OutFolder = None,
    limit: Limit = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="write the script, show the sbatch line, stop")
    ] = False,
    address: Annotated[
        Path | None, typer.Option(help="print the address of a run's cluster, for `ray job submit`", metavar="DIR")
    ] = None,
    tunnel: Annotated[
        Path | None, typer.Option(help="print the ssh line for the dashboard of a run's cluster", metavar="DIR")
    ] = None,
) -> None:
    """Run a sweep as a SLURM job, or find the cluster of one that runs."""
    if address or tunnel:
        from wlsweep.slurm.attach import environment_line, find_cluster, tunnel_line

        found = find_cluster(address or tunnel or Path())
        then = f"then open http://127.0.0.1:8265; the token is in {found['token_path']}"
        typer.echo(found["dashboard"] if address else tunnel_line(found))
        typer.echo(environment_line(found) if address else then, err=True)
        return
    if sweep is None or site is None:
        raise WlsweepError("submit needs SWEEP and --site SITE (or --address DIR, or --tunnel DIR)")
    from wlsweep.slurm.site import load_site
    from wlsweep.slurm.submit import SubmitOptions
    from wlsweep.slurm.submit import submit as submit_job

    loaded = load_with_options(sweep, data, limit, model, set_, track)
    wish = SubmitOptions(out or Path("runs") / loaded.name, only, nodes, array)
    submit_job(loaded, load_site(site), wish, dry_run, typer.echo)


@app.command()
def status(
    folder: RunFolder,
    json_: AsJson = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", "-w", help="show it again every two seconds (40 with 1,000 conditions), until all is done"
        ),
    ] = False,
) -> None:
    """Say where each condition of a run stands: done, running, failed (and why) or missing."""
    from wlsweep.console import watch as watch_until
    from wlsweep.run.status import ConditionStatus, RunStatus
    from wlsweep.run.status_table import status_table

    run = existing_run(folder)
    if json_ and watch:
        raise WlsweepError("--json and --watch: give one of them")
    if json_:
        typer.echo(json.dumps(RunStatus(run).as_json(), indent=1))
    elif watch:
        found: list[ConditionStatus] = []

        def over() -> bool:
            found[:] = RunStatus(run).all()
            return all(s.predict == "done" for s in found)

        watch_until(lambda: status_table(RunStatus(run), found), over, conditions=len(RunStatus(run).conditions))
    else:
        status_table(RunStatus(run))


@app.command()
def logs(
    folder: RunFolder,
    condition: Annotated[
        str | None, typer.Argument(help="condition by name, index or pattern (default: all that failed)", metavar="SEL")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="last lines of each file", min=1)] = 20,
) -> None:
    """Show why conditions failed and the last lines of their logs; of the driver's log where none failed."""
    from wlsweep.run.logs import cause_of_failure, parts
    from wlsweep.run.status import RunStatus
    from wlsweep.spec.condition import select

    run = existing_run(folder)
    declared = RunStatus(run).conditions
    chosen = select(declared, condition) if condition else [c for c in declared if run.failed(c.name).is_file()]
    names: list[str | None] = [c.name for c in chosen]
    for name in names or [None]:
        if name:
            typer.echo("\n".join(filter(None, [f"== {name}", cause_of_failure(run, name)])))
        for path, last in parts(run, name, lines):
            typer.echo("\n".join(["", f"-- {path}", *last]))


@app.command()
def doctor(
    sweep: Annotated[
        Path | None, typer.Argument(help=f"{SPACE_HELP}; without it only the machine is examined", metavar="SWEEP")
    ] = None,
    data: DataPath = None,
    model: ModelPath = None,
    set_: Settings = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Also import the engines, run attention kernels and train a small model: a minute."
        ),
    ] = False,
    json_: AsJson = False,
) -> None:
    """Examine this machine: versions, GPUs, memory, scratch, hub, SLURM, and what would stop a sweep. Starts no sweep."""
    from wlsweep.doctor import examine, examine_deeply, exit_code, summary

    found = examine(load_with_options(sweep, data, None, model, set_) if sweep else None)
    if deep:
        found += examine_deeply()
    if json_:
        typer.echo(json.dumps([f._asdict() for f in found], indent=1))
    else:
        width = max(len(f.what) for f in found)
        for level, what, detail in found:
            typer.echo(f"{level:<4}  {what:<{width}}  {detail}")
        typer.echo(summary(found))
    raise typer.Exit(exit_code(found))


@app.command()
def evaluate(folder: RunFolder, only: Only = None, external: External = None) -> None:
    """Compute all metrics from the predictions alone."""
    from rich.console import Console

    from wlsweep.analysis.evaluate import evaluate as evaluate_run
    from wlsweep.analysis.summary_table import summary_table

    run = existing_run(folder)
    Console(markup=False).print(summary_table(evaluate_run(run, only, externals_of(external))))
    typer.echo(f"metrics: {run.metrics_json}\nnext:    wlsweep report {folder}")


@app.command()
def report(
    folder: RunFolder,
    only: Only = None,
    external: External = None,
    open_: Annotated[bool, typer.Option("--open", help="show the page in a browser")] = False,
) -> None:
    """Write the HTML page and the figures from the predictions alone."""
    from wlsweep.report.page import write_report
    from wlsweep.report.png import Renderer

    run = existing_run(folder)
    with Renderer() as renderer:  # it starts while the run is evaluated
        from wlsweep.analysis.evaluate import evaluate as evaluate_run
        from wlsweep.analysis.evaluate import up_to_date

        found = evaluate_run(run, only, externals_of(external)) if external else up_to_date(run, only)
        files = write_report(run, found, renderer)
    plots = [str(run.plots)] if files.pngs else []
    typer.echo(f"report:  {files.page}\nplots:   {'; '.join([*plots, *([files.note] if files.note else [])])}")
    if open_:
        open_page(files.page)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="run directory", metavar="DIR")],
    second: Annotated[Path, typer.Argument(help="another, on the same test set", metavar="DIR")],
    only: Only = None,
    out: Annotated[Path, typer.Option("--out", help="the page", metavar="FILE.html")] = Path("comparison.html"),
) -> None:
    """Compare the conditions of two runs on the same test set, paired by row."""
    from rich.console import Console

    from wlsweep.analysis.compare_runs import compare_runs
    from wlsweep.report.comparison import comparison_page, comparison_table

    found = compare_runs(existing_run(first), existing_run(second), only)
    with atomic_file(out) as temporary:
        temporary.write_text(comparison_page(found, str(first), str(second)), encoding="utf-8")
    Console(markup=False).print(comparison_table(found))
    typer.echo(f"page:    {out}")


@app.command()
def forecast(folder: RunFolder, json_: AsJson = False) -> None:
    """Forecast the conditions that are not trained yet from those that are, and say which verdicts follow."""
    from wlsweep.analysis.forecast import forecast_run

    found = forecast_run(existing_run(folder))
    typer.echo(json.dumps(found.as_dict(), indent=1) if json_ else found.text())


@app.command(name="track")
def track_run(folder: RunFolder, track: Track = None) -> None:
    """Send a run to trackers: one that exists, or what a launch could not send. What was sent is not sent again."""
    from wlsweep.run.records import SweepRecord
    from wlsweep.track.clients import trackers_named
    from wlsweep.track.process import reproach, track_now

    run = existing_run(folder)
    record = SweepRecord.read(run.sweep_json)
    wanted = trackers_named(track or record.resolved(run.sweep_json).track)
    failed = track_now(run, wanted)
    typer.echo("\n".join([*reproach(run, failed), *(f"{name}: sent" for name in wanted if name not in failed)]))
    raise typer.Exit(int(bool(failed)))


@app.command()
def export(
    folder: RunFolder,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="predictions as {prompt, predict, label} lines")] = False,
    sharegpt: Annotated[
        Path | None, typer.Option(help="training mixes for LLaMA-Factory, into this folder", metavar="DIR")
    ] = None,
    merged: Annotated[
        Path | None, typer.Option(help="a whole model for each LoRA condition, into this folder", metavar="DIR")
    ] = None,
    only: Only = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="the report's tables for LaTeX (booktabs), and methods")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="the report's tables as CSV")] = False,
    figures: Annotated[
        str | None, typer.Option(help="the report's figures: svg, pdf, png", metavar="FORMAT,...")
    ] = None,
) -> None:
    """Write predictions and training mixes in the formats of LLaMA-Factory, adapters merged into whole models, or the
    report's tables and figures for a paper."""
    from wlsweep.run.records import SweepRecord

    run = existing_run(folder)
    written: list[Path] = []
    if latex or as_csv or figures is not None:
        from wlsweep.analysis.evaluate import up_to_date
        from wlsweep.report.paper import export_figures, export_tables

        found = up_to_date(run, only)
        if latex or as_csv:
            written += export_tables(run, found, latex, as_csv)
        if figures is not None:
            written += export_figures(run, found, figures.split(","))
    elif only is not None and not jsonl and merged is None:
        raise WlsweepError(
            "--only chooses conditions for --jsonl and --merged; training mixes belong to no single condition"
        )
    if jsonl:
        from wlsweep.data.export import export_jsonl

        written += export_jsonl(run, only)
    if sharegpt is not None:
        from wlsweep.data.export import export_sharegpt

        written += export_sharegpt(run, SweepRecord.read(run.sweep_json).resolved(run.sweep_json), sharegpt)
    if merged is not None:
        from wlsweep.train.merge import export_merged

        written += export_merged(run, only, merged)
    if not written:
        raise WlsweepError(
            "nothing to export: give --jsonl, --sharegpt DIR, --merged DIR, --latex, --csv or --figures svg,pdf"
        )
    typer.echo("\n".join(map(str, written)))


if __name__ == "__main__":  # job scripts of older versions call it so
    from wlsweep.__main__ import main as entry

    entry()
