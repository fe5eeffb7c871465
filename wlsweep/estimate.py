"""A number with its 95% interval, and the only code that writes numbers for people: terminal, page, captions, tables.

>>> PERCENT.full(Estimate(0.4831, 0.461, 0.505))
'48.3% (46.1 to 50.5)'
"""

from __future__ import annotations

from dataclasses import dataclass

NONE = "-"
"""How a number that does not exist is written."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval; None where it does not exist."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    """Rows that it rests on, where that differs from metric to metric."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or None where there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def scaled(self, by: float) -> Estimate:
        """The same in another unit, such as percent (100); `by` > 0."""
        value, low, high = (None if x is None else by * x for x in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.n)


@dataclass(frozen=True)
class Format:
    """How numbers of one kind are written."""

    digits: int
    """After the point."""
    scale: float = 1.0
    """What a number is multiplied by before it is written."""
    unit: str = ""
    signed: bool = False
    """Whether numbers above 0 carry a plus sign."""

    def value(self, number: float | None) -> str:
        """The number alone; 0 never has a sign."""
        return NONE if number is None else self._bare(number) + self.unit

    def range(self, e: Estimate) -> str:
        """`46.1 to 50.5`: the interval alone, without units; empty where there is none."""
        at = e.interval
        return "" if at is None else f"{self._bare(at[0])} to {self._bare(at[1])}"

    def full(self, e: Estimate) -> str:
        """`48.3% (46.1 to 50.5)`: the number and, where there is one, its interval."""
        at = self.range(e)
        return self.value(e.value) + (f" ({at})" if at and e.value is not None else "")

    def _bare(self, number: float) -> str:
        text = f"{self.scale * number:{'+' if self.signed else ''}.{self.digits}f}"
        return text.lstrip("+-") if float(text) == 0 else text


PERCENT = Format(1, 100, "%")
PERCENT_BARE = Format(1, 100)
"""Percent under a heading that names the unit."""
POINTS = Format(1, 100, signed=True)
"""Differences of shares, in percentage points."""
PLAIN = Format(3)
CHANGE = Format(3, signed=True)
"""Differences of what is no share."""
SLOPE = Format(2)
SHIFT = Format(2, signed=True)
"""Log-odds."""


def percent(e: Estimate) -> str:
    """`48.3 (46.1-50.5)`: a share and its interval in percent, as narrow as it goes, for columns of a terminal."""
    return PERCENT_BARE.full(e).replace(" to ", "-")


def p_value(p: float | None) -> str:
    """Two significant digits."""
    return NONE if p is None else f"{p:.2g}"


def count(n: int, one: str, many: str = "") -> str:
    """`1 condition`, `3 conditions`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def hours_text(hours: float) -> str:
    """To three digits, so that a demo's and a cluster's hours can both be read: `0.0123`, `3,648`."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def clock(seconds: float) -> str:
    """`2:03`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size_text(size: float) -> str:
    """Bytes with a unit, to three digits."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
