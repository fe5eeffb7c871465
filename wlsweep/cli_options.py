"""Arguments and options that several commands share, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wlsweep.errors import WlsweepError

if TYPE_CHECKING:
    from wlsweep.spec.config import Sweep


def complete(kind: str) -> Callable[[str], list[str]]:
    """Shell completion of a shipped file's name or of a TOML file here."""

    def complete(incomplete: str) -> list[str]:
        from wlsweep import shipped

        here = [str(p) + "/" * p.is_dir() for p in Path().glob(f"{incomplete}*") if p.is_dir() or p.suffix == ".toml"]
        return [name for name in getattr(shipped, kind).names if name.startswith(incomplete)] + sorted(here)

    return complete


SPACE_HELP = "search space: a TOML file, or the name of a shipped one"
SweepFile = Annotated[Path, typer.Argument(help=SPACE_HELP, metavar="SWEEP", autocompletion=complete("SEARCH_SPACES"))]
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
OutFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="run directory (default: runs/NAME)", metavar="DIR")
]


def load_with_options(
    path: Path,
    data: str | None,
    limit: int | None,
    model: str | None = None,
    settings: list[str] | None = None,
    track: list[str] | None = None,
) -> Sweep:
    """The search space that a command names, with its options as the last layer.

    Raises:
        WlsweepError: naming the file or the option.
    """
    from wlsweep.spec.config import load_sweep

    tracked = [f"track={json.dumps(track)}"] if track else []
    sweep = load_sweep(path, data, model, [*(settings or ()), *tracked])
    if limit is None:
        return sweep
    if limit < 8:
        raise WlsweepError(f"--limit {limit}: a trial run needs at least 8 rows of every set")
    data_section = sweep.data.model_copy(update={"limit": limit})
    return sweep.model_copy(update={"name": f"{sweep.name}-limit{limit}", "data": data_section})


def externals_of(given: list[str] | None) -> list[tuple[str, Path]]:
    """Name and file of each `--external`."""
    pairs = [text.partition("=") for text in given or ()]
    for name, equals, file in pairs:
        if not (name and equals and file):
            raise WlsweepError(f"--external {(name + equals + file)[:200]}: expected NAME=FILE of predictions")
    return [(name, Path(file)) for name, _, file in pairs]
