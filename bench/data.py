"""The data stage against a straightforward script, on a source of full-length papers.

    python -m bench.data [--rows 17101] [--tokenise 1000] [--work DIR] [--json OUT.json]

The script is what one writes first: load the JSON, draw, write one copy of the text a proportion. Both draw the
published counts (scaled to the rows there are). Each side runs in a process of its own, so that peak memory is its own.
Tokenising is measured apart, on `--tokenise` rows: the script leaves that to every training run.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.papers import papers, paragraphs, write_array

KS = (2, 3, 4, 8)
PUBLISHED = {"1/2": (8553, 8548), "1/3": (5702, 11399), "1/4": (4276, 12825), "1/8": (2135, 14966)}


def straightforward(source: Path, out: Path) -> None:
    """Load everything, write everything."""
    rows = json.loads(source.read_text(encoding="utf-8"))
    accepts = [r for r in rows if r["conversations"][-1]["value"].endswith("\\boxed{Accept}")]
    rejects = [r for r in rows if not r["conversations"][-1]["value"].endswith("\\boxed{Accept}")]
    for k in KS:
        wanted = _table(len(rows))[f"1/{k}"]
        rng = random.Random(k)
        chosen = [_take(rng, of_class, n) for of_class, n in zip((accepts, rejects), wanted, strict=True)]
        with (out / f"data_1_{k}.json").open("w", encoding="utf-8") as f:
            json.dump([*chosen[0], *chosen[1]], f, indent=1)


def wlsweep_mixes(source: Path, out: Path) -> None:
    """The same with the data stage's own parts: one pass, four manifests."""
    from wlsweep.data.mix import Stock
    from wlsweep.data.rows import read_rows

    ids: dict[str, list[str]] = {"Accept": [], "Reject": []}
    for row in read_rows(source):
        ids[row.label].append(row.row_id)
    _draw_and_write(ids, Stock(len(ids["Accept"]), len(ids["Reject"])), out)


def _draw_and_write(ids: dict[str, list[str]], stock, out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from wlsweep.data.mix import draw, plan_counts
    from wlsweep.run.columns import MANIFEST

    for k, count in plan_counts("table", KS, stock, _table(stock.total)).items():
        uses = draw(ids["Accept"], ids["Reject"], count, seed=0)
        table = pa.table([list(uses), list(uses.values())], schema=MANIFEST)
        pq.write_table(table, out / f"manifest_prop1_{k}.parquet")


def resampling_alone(source: Path, out: Path) -> None:
    """What comes on top of reading for the four mixes; reported apart. Writes its seconds."""
    rows = json.loads(source.read_text(encoding="utf-8"))
    ids = {"Accept": [], "Reject": []}
    for r in rows:
        accept = r["conversations"][-1]["value"].endswith("\\boxed{Accept}")
        ids["Accept" if accept else "Reject"].append(r["_metadata"]["submission_id"])
    import pyarrow.parquet  # noqa: F401  # not a part of the job

    from wlsweep.data.mix import Stock

    stock = Stock(len(ids["Accept"]), len(ids["Reject"]))
    start = time.perf_counter()
    _draw_and_write(ids, stock, out)
    (out / "seconds").write_text(str(time.perf_counter() - start))


def read_only(source: Path, out: Path) -> None:
    """What the script needs before it can draw."""
    (out / "rows").write_text(str(len(json.loads(source.read_text(encoding="utf-8")))))


def tokenise(source: Path, out: Path) -> None:
    """The token table of a source, at a cutoff of 4096."""
    from bench.qwen_like import build
    from wlsweep.data.token_table import TableKey, ensure_table

    build(paragraphs(2_000, seed=1), vocab=16_000).save_pretrained(out / "model")
    table = ensure_table(TableKey("bench", "bench", 4096), source, out / "model", out, lambda _: None)
    record = json.loads((table.folder / "table.json").read_text())
    record["truncated"] = float(table.truncated.mean())
    (out / "record.json").write_text(json.dumps(record))


def _table(rows: int) -> dict[str, tuple[int, int]]:
    return {name: (a * rows // 17_101, rows - a * rows // 17_101) for name, (a, _) in PUBLISHED.items()}


def _take(rng: random.Random, rows: list[dict], n: int) -> list[dict]:
    times, extra = divmod(n, len(rows))
    return rows * times + rng.sample(rows, extra)


def _measure(job: str, source: Path, out: Path) -> dict[str, float]:
    """Seconds, peak memory (MB) and bytes written of a job in a process of its own."""
    from bench.results import measured  # in this process alone: the jobs' own peak is measured

    out.mkdir()
    call = f"from bench.data import {job}; {job}(Path({str(source)!r}), Path({str(out)!r}))"
    seconds, _, peak = measured(f"from pathlib import Path; {call}")
    written = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    return {"seconds": seconds, "peak_mb": peak, "written": written}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=17_101)
    parser.add_argument("--tokenise", type=int, default=1_000)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = Path(folder)
        source, part = work / "source.json", work / "part.json"
        write_array(source, papers(args.rows, args.rows * 8553 // 17_101))
        write_array(part, papers(args.tokenise, args.tokenise // 2, seed=1))
        with source.open("rb") as f:  # into the page cache, for both sides; whole it would count as a child's peak
            while f.read(1 << 20):
                pass
        results = {
            job: _measure(job, source, work / job)
            for job in ("wlsweep_mixes", "straightforward", "read_only", "resampling_alone")
        }
        alone = float((work / "resampling_alone" / "seconds").read_text())
        results["tokenise"] = _measure("tokenise", part, work / "tokenise")
        record = json.loads((work / "tokenise" / "record.json").read_text())
        ours, theirs = results["wlsweep_mixes"], results["straightforward"]
        summary = {
            "rows": args.rows,
            "source_bytes": source.stat().st_size,
            "jobs": results,
            "whole_job_ratio": theirs["seconds"] / ours["seconds"],
            "resampling_seconds": alone,
            "resampling_ratio": (theirs["seconds"] - results["read_only"]["seconds"]) / alone,
            "token_table_bytes_at_full_size": record["bytes"] * args.rows / args.tokenise,
            "written_share": (record["bytes"] * args.rows / args.tokenise + ours["written"]) / theirs["written"],
            "tokenised_rows_per_s": record["rows"] / record["seconds"],
            "kept_tokens_per_s": record["tokens"] / record["seconds"],
            "truncated_share": record["truncated"],
        }
    console = Console()
    table = Table(
        "job", "seconds", "peak MB", "MB written", title=f"{args.rows:,} rows, {summary['source_bytes'] / 1e6:,.0f} MB"
    )
    for job, r in results.items():
        table.add_row(job, f"{r['seconds']:.1f}", f"{r['peak_mb']:,.0f}", f"{r['written'] / 1e6:,.1f}")
    console.print(table)
    console.print_json(json.dumps(summary))
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
