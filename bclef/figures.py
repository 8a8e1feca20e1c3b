"""Numbers to drawable geometry: round axes, and places in percent of a frame.

What is drawn here knows nothing of the page; the template places it. All coordinates are percent of
the frame, the origin at its top left, so that the same figure fits a phone and a desktop.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_N_STEPS = 5
"""Steps between the ticks of an axis, about."""


@dataclass(frozen=True)
class Axis:
    """A range with round ticks."""

    low: float
    """Value at 0 %."""
    high: float
    """Value at 100 %."""
    ticks: tuple[float, ...]
    """Round values within the range."""
    n_decimals: int
    """Decimals that tell the ticks apart."""

    def percent(self, value: float) -> float:
        """Returns the place of `value` on the axis, 0 to 100; what lies beyond is at an end."""
        place = 100 * (value - self.low) / (self.high - self.low)
        return round(min(100.0, max(0.0, place)), 2)

    def labels(self) -> list[tuple[float, str]]:
        """Returns place and text of each tick."""
        return [(self.percent(tick), f"{tick:.{self.n_decimals}f}") for tick in self.ticks]


def axis(values: Sequence[float], *, whole: bool = False) -> Axis:
    """Returns an axis around `values` that ends on round numbers.

    Args:
        values: At least one.
        whole: Whether ticks are whole numbers, as epochs are.

    >>> axis([0.71, 0.93]).ticks
    (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    """
    low, high = min(values), max(values)
    spread = high - low or abs(high) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(spread / _N_STEPS))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude * _N_STEPS >= spread)
    if whole:
        step = math.ceil(step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    n_decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    n_decimals += round(step, n_decimals) != round(step, n_decimals + 1)
    ticks = tuple(round(k * step, n_decimals) for k in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, n_decimals)


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    """What the legend says."""
    x: Sequence[float]
    """Places."""
    y: Sequence[float]
    """Values; what is not finite is left out."""
    colour: int
    """Number of the line's colour in the page's palette."""
    dashed: bool = False
    """Whether it is a line of a second kind."""


@dataclass(frozen=True)
class Chart:
    """Lines in a common frame."""

    title: str
    """What the values are."""
    x_axis: Axis
    """Below the frame."""
    y_axis: Axis
    """Left of the frame."""
    lines: tuple[Line, ...]
    """From the lowest layer to the highest."""

    def points(self, line: Line) -> str:
        """Returns the SVG points of `line` in a frame of 100 x 100."""
        return " ".join(
            f"{self.x_axis.percent(x):g},{100 - self.y_axis.percent(y):g}" for x, y in _finite(line)
        )


def chart(title: str, lines: Sequence[Line]) -> Chart | None:
    """Returns `lines` over whole numbers in a frame that holds them; None when nothing is there."""
    drawn = tuple(line for line in lines if _finite(line))
    points = [point for line in drawn for point in _finite(line)]
    if not points:
        return None
    x_axis = axis([x for x, _ in points], whole=True)
    return Chart(title, x_axis, axis([y for _, y in points]), drawn)


def _finite(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
