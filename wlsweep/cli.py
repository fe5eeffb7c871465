"""The command line. Each subcommand imports what it needs when it runs, so that `plan` and `status` answer at once."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from wlsweep import __version__
from wlsweep.errors import WlsweepError, is_of_files, os_error_text
from wlsweep.interrupts import remove_unfinished
from wlsweep.supervise import ends_in_order

# Help and errors stand in boxes on a terminal; in a file or pipe these would be wrapped at 80 columns.
_BOXED = all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich" if _BOXED else None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    pretty_exceptions_enable=False,
    help="Sweeps of weighted losses and class mixes over one fine-tuned LLM. Start with: wlsweep run demo",
)


def _complete(kind: str) -> Callable[[str], list[str]]:
    """Shell completion of a shipped file's name or of a TOML file here."""

    def complete(incomplete: str) -> list[str]:
        from wlsweep import shipped

        here = [str(p) + "/" * p.is_dir() for p in Path().glob(f"{incomplete}*") if p.is_dir() or p.suffix == ".toml"]
        return [name for name in getattr(shipped, kind).names if name.startswith(incomplete)] + sorted(here)

    return complete


SPACE_HELP = "search space: a TOML file, or the name of a shipped one"
SweepFile = Annotated[Path, typer.Argument(help=SPACE_HELP, metavar="SWEEP", autocompletion=_complete("SEARCH_SPACES"))]
RunFolder = Annotated[Path, typer.Argument(help="run directory, such as runs/demo", metavar="DIR")]
Only = Annotated[
    str | None, typer.Option("--only", "-c", help="conditions by index and name: 0  0-6,9  'accept_*'", metavar="SEL")
]
DataPath = Annotated[
    str | None,
    typer.Option("--data", "-d", help="ShareGPT rows: a file, or a folder with train.* and test.*", metavar="PATH"),
]
ModelPath = Annotated[
    str | None,
    typer.Option("--model", "-m", help="base model: a folder, or a name on the Hugging Face hub", metavar="PATH"),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", help="change a key of the search space, such as train.lr=2e-5; may be repeated", metavar="K=V"
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", "-t", help="send runs to wandb, mlflow or tensorboard; may be repeated", metavar="NAME"),
]
AsJson = Annotated[bool, typer.Option("--json", "-j", help="for machines")]
External = Annotated[
    list[str] | None, typer.Option(help="predictions made elsewhere, to compare with", metavar="NAME=FILE")
]
Limit = Annotated[
    int | None, typer.Option("--limit", "-l", help="trial run on N rows of every set, in a run directory of its own")
]


def _load(
    path: Path,
    data: str | None,
    limit: int | None,
    model: str | None = None,
    settings: list[str] | None = None,
    track: list[str] | None = None,
) -> Any:
    from wlsweep.spec.config import load_sweep

    tracked = [f"track={json.dumps(track)}"] if track else []
    sweep = load_sweep(path, data, model, [*(settings or ()), *tracked])
    if limit is None:
        return sweep
    if limit < 8:
        raise WlsweepError(f"--limit {limit}: a trial run needs at least 8 rows of every set")
    return sweep.model_copy(
        update={
            "name": f"{sweep.name}-limit{limit}",
            "data": sweep.data.model_copy(update={"limit": limit}),
        }
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

    found = make_plan(_load(sweep, data, limit, model, set_), only)
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
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="run directory (default: runs/NAME)", metavar="DIR")
    ] = None,
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
    from wlsweep.run.layout import RunDir
    from wlsweep.spec.condition import select
    from wlsweep.spec.power import seed_warning
    from wlsweep.track.process import tracking

    if stage not in STAGES:
        raise WlsweepError(f"--stage {stage}: expected one of {', '.join(STAGES)}")
    loaded = _load(sweep, data, limit, model, set_, track)
    if stage != "data" and (warning := seed_warning(loaded, select(loaded.conditions, only))):
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
    # Ray's and torch's threads need no orderly end, which would cost seconds: everything is on disk.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    if "ray" in sys.modules:
        from wlsweep.orchestrate.ray_cluster import leave

        leave()
    remove_unfinished()  # of a thread that was left
    ends_in_order()
    os._exit(code)


@app.command()
def submit(
    sweep: Annotated[
        Path | None, typer.Argument(help=SPACE_HELP, metavar="SWEEP", autocompletion=_complete("SEARCH_SPACES"))
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(
            help="site: a TOML file, or the name of a shipped one", metavar="SITE", autocompletion=_complete("SITES")
        ),
    ] = None,
    only: Only = None,
    nodes: Annotated[int, typer.Option(help="nodes of a job", metavar="N")] = 1,
    array: Annotated[bool, typer.Option("--array", help="a job array, one small cluster a condition")] = False,
    data: DataPath = None,
    model: ModelPath = None,
    set_: Settings = None,
    track: Track = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="run directory (default: runs/NAME)", metavar="DIR")
    ] = None,
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

    loaded = _load(sweep, data, limit, model, set_, track)
    wish = SubmitOptions(out or Path("runs") / loaded.name, only, nodes, array)
    submit_job(loaded, load_site(site), wish, dry_run, typer.echo)


@app.command()
def status(
    folder: RunFolder,
    json_: AsJson = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="show it again every two seconds, until all is done (Ctrl-C ends)")
    ] = False,
) -> None:
    """Say where each condition of a run stands: done, running, failed (and why) or missing."""
    from wlsweep.console import watch as watch_until
    from wlsweep.run.layout import existing_run
    from wlsweep.run.status import RunStatus, status_table

    run = existing_run(folder)
    if json_ and watch:
        raise WlsweepError("--json and --watch: give one of them")
    if json_:
        typer.echo(json.dumps(RunStatus(run).as_json(), indent=1))
    elif watch:
        watch_until(
            lambda: status_table(RunStatus(run)), lambda: all(s.predict == "done" for s in RunStatus(run).all())
        )
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
    from wlsweep.run.condition_logs import cause_of_failure, parts
    from wlsweep.run.layout import existing_run
    from wlsweep.run.status import RunStatus
    from wlsweep.spec.condition import select

    run = existing_run(folder)
    declared = RunStatus(run).conditions
    chosen = select(declared, condition) if condition else [c for c in declared if run.failed(c.name).is_file()]
    names: list[str | None] = [c.name for c in chosen]
    for name in names or [None]:
        if name:
            typer.echo("\n".join(filter(None, [f"== {name}", cause_of_failure(run, name)])))
        for part in parts(run, name, lines):
            typer.echo("\n".join(["", f"-- {part.path}", *part.lines]))


@app.command()
def doctor(
    sweep: Annotated[
        Path | None, typer.Argument(help=f"{SPACE_HELP}; without it only the machine is examined", metavar="SWEEP")
    ] = None,
    data: DataPath = None,
    model: ModelPath = None,
    set_: Settings = None,
    json_: AsJson = False,
) -> None:
    """Examine this machine: versions, GPUs, memory, scratch, hub, SLURM, and what would stop a sweep. Starts nothing."""
    from wlsweep.doctor import examine, exit_code, summary

    found = examine(_load(sweep, data, None, model, set_) if sweep else None)
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
    from wlsweep.run.layout import existing_run

    run = existing_run(folder)
    Console(markup=False).print(summary_table(evaluate_run(run, only, _externals(external))))
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
    from wlsweep.run.layout import existing_run

    run = existing_run(folder)
    with Renderer() as renderer:  # it starts while the run is evaluated
        from wlsweep.analysis.evaluate import evaluate as evaluate_run
        from wlsweep.analysis.evaluate import up_to_date

        found = evaluate_run(run, only, _externals(external)) if external else up_to_date(run, only)
        files = write_report(run, found, renderer)
    plots = [str(run.plots)] if files.pngs else []
    typer.echo(f"report:  {files.page}\nplots:   {'; '.join([*plots, *([files.note] if files.note else [])])}")
    if open_:
        _open(files.page)


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
    from wlsweep.run.layout import atomic_file, existing_run

    found = compare_runs(existing_run(first), existing_run(second), only)
    with atomic_file(out) as temporary:
        temporary.write_text(comparison_page(found, str(first), str(second)), encoding="utf-8")
    Console(markup=False).print(comparison_table(found))
    typer.echo(f"page:    {out}")


@app.command()
def forecast(folder: RunFolder, json_: AsJson = False) -> None:
    """Forecast the conditions that are not trained yet from those that are, and say which verdicts follow."""
    from wlsweep.analysis.forecast import forecast_run
    from wlsweep.run.layout import existing_run

    found = forecast_run(existing_run(folder))
    typer.echo(json.dumps(found.as_dict(), indent=1) if json_ else found.text())


@app.command(name="track")
def track_run(folder: RunFolder, track: Track = None) -> None:
    """Send a run to trackers: one that exists, or what a launch could not send. What was sent is not sent again."""
    from wlsweep.run.layout import existing_run
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
    from wlsweep.run.layout import existing_run
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


def _open(page: Path) -> None:
    """Show a page in the user's browser; where there is none, say how to see it from elsewhere."""
    import webbrowser

    on_a_desktop = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not ((on_a_desktop or os.environ.get("BROWSER")) and webbrowser.open(page.resolve().as_uri())):
        host = platform.node()
        typer.echo(
            f"open:    no browser to open it in here; from your machine: scp {host}:{page.resolve()} . and open it"
        )


def _externals(given: list[str] | None) -> list[tuple[str, Path]]:
    pairs = [text.partition("=") for text in given or ()]
    for name, equals, file in pairs:
        if not (name and equals and file):
            raise WlsweepError(f"--external {(name + equals + file)[:200]}: expected NAME=FILE of predictions")
    return [(name, Path(file)) for name, _, file in pairs]


def main() -> None:
    """Entry point: errors that a user can fix are one message and exit code 2."""
    if not sys.stdout.isatty():
        os.environ["COLUMNS"] = "1000"  # rich would wrap tables and causes at 80 columns in files and pipes
    try:
        _refuse_what_is_no_text([*sys.argv[1:], str(_working_directory())])
        try:
            app(prog_name="wlsweep")
        finally:
            sys.stdout.flush()  # a full disk is an error here, and a complaint of the interpreter later
    except WlsweepError as e:
        typer.echo(f"error: {e}", err=True)
        sys.exit(2)
    except BrokenPipeError:  # wlsweep status | head
        _drop_output()
        sys.exit(141)
    except OSError as e:
        if not is_of_files(e):
            raise
        _drop_output()
        typer.echo(f"error: {os_error_text(e, doing='used')}", err=True)
        sys.exit(2)


def _drop_output() -> None:
    """What is still to be written to standard output goes nowhere: it cannot be written where it should."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_what_is_no_text(words: list[str]) -> None:
    """Refuse names with bytes that are no UTF-8: records, tables and pages name their files, and hold text."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = word.encode(errors="backslashreplace").decode()
            raise WlsweepError(f"{shown}: not UTF-8; rename the file or folder, or work in another one") from None


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise WlsweepError("the working directory was deleted; change to one that exists (cd)") from None


if __name__ == "__main__":  # job scripts of older versions call it so
    from wlsweep.__main__ import main as entry

    entry()
