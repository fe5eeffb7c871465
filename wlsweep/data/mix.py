"""How many rows of each class a proportion takes, and which: pure, so that `plan` and the data stage cannot differ.

    >>> plan_counts("oversample", [2, 8], Stock(50, 50))[8]
    MixCount(accepts=13, rejects=87, short_accepts=0, short_rejects=37)

The source is too small for what the experiment asks of it (1/8 wants 14,966 rejects of 8,548). Taking
`min(wanted, available)` gives other proportions and sizes than the tables say, so every policy that falls short
says so, in counts.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from wlsweep.data.split import keyed_order, limited_counts
from wlsweep.errors import WlsweepError, refuse_all
from wlsweep.spec.task import ICLR, Words

MOST_USES_OF_TABLE = 2
"""A published table uses a row at most twice; more means that it was made for another source."""


class Stock(NamedTuple):
    """Rows there are to draw from."""

    accepts: int
    rejects: int
    pool_accepts: int = 0
    pool_rejects: int = 0

    @property
    def total(self) -> int:
        """Rows of the source, without the pool."""
        return self.accepts + self.rejects


class MixCount(NamedTuple):
    """Rows of one mix, repetitions counted."""

    accepts: int
    rejects: int
    short_accepts: int
    """Accepts that the source lacks for it: repeated, or taken from the pool."""
    short_rejects: int
    """The same for rejects."""

    @property
    def total(self) -> int:
        """Rows trained on per epoch."""
        return self.accepts + self.rejects


def exact_counts(total: int, k: int) -> tuple[int, int]:
    """(accepts, rejects) of `total` rows with a share 1/k of accepts, to the nearest row, half a row up."""
    accepts = (2 * total + k) // (2 * k)
    return accepts, total - accepts


def plan_counts(
    resampling: str,
    ks: Iterable[int],
    stock: Stock,
    table: Mapping[str, tuple[int, int]] | None = None,
    words: Words = ICLR.words,
) -> dict[int, MixCount]:
    """Counts of every proportion 1/k under a policy.

    Args:
        resampling: `table` (the literal counts), `oversample` (as many rows as the source, exact fractions, rows of
            the short class repeated), `common_total` (nothing repeated: the largest total that all `ks` reach),
            `pool` (as `oversample`, but missing rows come from the pool) or `error` (the source must suffice).
        ks: proportions 1/k.
        stock: rows there are.
        table: (accepts, rejects) by "1/k", for `table`.
        words: of the task, for messages.

    Returns:
        Counts by k, in ascending order of k.

    Raises:
        WlsweepError: for every proportion that cannot be had: by how much it falls short, and what would fix it.
    """
    ks = sorted(set(ks))
    empty = [name for name, n in ((words.positives, stock.accepts), (words.negatives, stock.rejects)) if not n]
    if empty:
        raise WlsweepError(f"the source holds no {' and no '.join(empty)}; no mix can be drawn from it")
    wanted = {k: _wanted(resampling, k, ks, stock, table) for k in ks}
    counts = {k: MixCount(a, r, max(0, a - stock.accepts), max(0, r - stock.rejects)) for k, (a, r) in wanted.items()}
    problems = [p for k, c in counts.items() for p in _problems(resampling, k, c, stock, words)]
    if problems and resampling in ("error", "pool"):
        problems.append(
            'to fix it: resampling = "oversample" (repeats rows), "pool" (needs a file with the missing rows) or '
            f'"common_total" (repeats nothing; {_common_total(ks, stock):,} rows in every set)'
        )
    have = f"{stock.accepts:,} {words.positives} and {stock.rejects:,} {words.negatives}"
    refuse_all(f'the source ({have}) is too small for resampling = "{resampling}":', problems)
    return counts


def shortfalls(resampling: str, counts: Mapping[int, MixCount], stock: Stock, words: Words = ICLR.words) -> list[str]:
    """What a policy that works had to do without, a line each, for the log and the report; empty if nothing."""
    lines = []
    for k, c in counts.items():
        for name, n, short, there in (
            (words.positives, c.accepts, c.short_accepts, stock.accepts),
            (words.negatives, c.rejects, c.short_rejects, stock.rejects),
        ):
            if short and resampling == "pool":
                lines.append(f"1/{k}: {n:,} {name} wanted, {there:,} there; {short:,} come from the pool")
            elif short:
                lines.append(
                    f"1/{k}: {n:,} {name} wanted, {there:,} there; {short:,} are repetitions (a row is used up to "
                    f"{-(-n // there)} times); a pool with {short:,} more {name} would avoid them"
                )
    unused = stock.total - min((c.total for c in counts.values()), default=stock.total)
    if resampling == "common_total" and unused:
        lines.append(
            f"every set has {stock.total - unused:,} rows, {unused:,} fewer than the source: what the rarest class of "
            'every proportion allows without repetition; resampling = "oversample" would keep all rows'
        )
    return lines


def scale_table(
    table: Mapping[str, tuple[int, int]] | None, limit: int | None, held_out: float = 0.0
) -> Mapping[str, tuple[int, int]] | None:
    """The table without the share that validation holds out, and for a trial run with at most `limit` rows in every set; in
    the same proportions."""
    if table is None or (limit is None and not held_out):
        return table

    def rows(total: int) -> int:
        left = int(total * (1 - held_out)) if held_out else total
        return left if limit is None else min(left, limit)

    return {name: limited_counts(a, r, rows(a + r)) for name, (a, r) in table.items()}


def draw(
    accept_ids: Sequence[str],
    reject_ids: Sequence[str],
    count: MixCount,
    seed: int,
    pool_accept_ids: Sequence[str] = (),
    pool_reject_ids: Sequence[str] = (),
) -> dict[str, int]:
    """Draw the rows of one mix: how often each is trained on per epoch (1 or more), by row id, sorted.

    Each class is put in an order that depends on (seed, row id) alone, pool rows after those of the source, and used
    from its start, going round if it is too short. So a smaller count is a sub-multiset of a larger one (the mixes
    are nested, class by class), and a repeated row is used floor or ceil of wanted / available times.

    Args:
        accept_ids: unique ids of the source's accepts, in any order.
        reject_ids: the same of rejects.
        count: rows wanted.
        seed: of the data.
        pool_accept_ids: of the pool, used when the source's are used up.
        pool_reject_ids: the same.

    Raises:
        WlsweepError: if rows of a class are wanted and there is none.
    """
    uses: dict[str, int] = {}
    for name, ids, pool, n in (
        ("accepts", accept_ids, pool_accept_ids, count.accepts),
        ("rejects", reject_ids, pool_reject_ids, count.rejects),
    ):
        order = [ids[i] for i in keyed_order(ids, seed, "mix")] + [pool[i] for i in keyed_order(pool, seed, "mix")]
        if n and not order:
            raise WlsweepError(f"{n:,} {name} wanted and none there")
        times, extra = divmod(n, len(order)) if n else (0, 0)
        uses |= {row_id: times + (place < extra) for place, row_id in enumerate(order) if times or place < extra}
    return dict(sorted(uses.items()))


def _wanted(
    resampling: str, k: int, ks: Sequence[int], stock: Stock, table: Mapping[str, tuple[int, int]] | None
) -> tuple[int, int]:
    if resampling == "table":
        if table is None or f"1/{k}" not in table:
            raise WlsweepError(f'resampling = "table" without counts for 1/{k}; add them to [data.table]')
        return table[f"1/{k}"]
    return exact_counts(_common_total(ks, stock) if resampling == "common_total" else stock.total, k)


def _common_total(ks: Sequence[int], stock: Stock) -> int:
    """The largest total that every 1/k reaches without repetition; both counts grow with it."""

    def falls_short(total: int) -> bool:
        counts = [exact_counts(total, k) for k in ks]
        return any(a > stock.accepts or r > stock.rejects for a, r in counts)

    return bisect(range(1, stock.total + 1), False, key=falls_short)


def _problems(resampling: str, k: int, c: MixCount, stock: Stock, words: Words) -> list[str]:
    found = []
    for name, n, there, pool in (
        (words.positives, c.accepts, stock.accepts, stock.pool_accepts),
        (words.negatives, c.rejects, stock.rejects, stock.pool_rejects),
    ):
        if n < 1:
            found.append(f"1/{k}: {c.total:,} rows leave no {name}; more rows are needed")
        elif resampling == "error" and n > there:
            found.append(f"1/{k}: {n:,} {name} wanted, {there:,} there: short by {n - there:,}")
        elif resampling == "pool" and n > there + pool:
            found.append(
                f"1/{k}: {n:,} {name} wanted, {there:,} there and {pool:,} in the pool: short by {n - there - pool:,}"
            )
        elif resampling == "table" and n > MOST_USES_OF_TABLE * there:
            found.append(
                f"1/{k}: the table wants {n:,} {name}, {there:,} are there: each would be used up to {-(-n // there)} "
                f'times; at least {-(-n // MOST_USES_OF_TABLE):,} are needed, or use resampling = "oversample"'
            )
    return found
