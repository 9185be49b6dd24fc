"""A picture of estimates with their intervals, one a row, on one axis: inline SVG for the report pages."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 760, 260, 740, 30, 12
_LABEL_CHARS = 34


@dataclass(frozen=True, slots=True)
class Interval:
    """One row.

    Attributes:
        label: Plain text.
        middle: The estimate; None: nothing is known, and `text` says so.
        low: Lower end, at most the estimate.
        high: Upper end.
        text: The numbers in words, for the tooltip and for readers who do not see the picture.
        kind: "champion" or "challenger": its colour.
    """

    label: str
    middle: float | None
    low: float | None
    high: float | None
    text: str
    kind: str = "challenger"

    @property
    def known(self) -> bool:
        """Whether it can be drawn."""
        ends = (self.low, self.middle, self.high)
        return all(end is not None and math.isfinite(end) for end in ends)


def intervals(
    rows: Sequence[Interval],
    show: Callable[[float], str],
    reference: float | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> str:
    """The picture.

    Args:
        rows: Top to bottom.
        show: The text of a number at the axis.
        reference: Where to draw a line to compare with; it is on the axis always.
        bounds: The axis goes no further: what is beyond is cut off.
    """
    ends = [end for row in rows if row.known for end in (row.low, row.high) if end is not None]
    ends += [] if reference is None else [reference]
    low, high = (max(min(ends), bounds[0]), min(max(ends), bounds[1])) if ends else (0.0, 1.0)
    slack = (high - low) * 0.05 or max(abs(high) * 0.05, 1e-9)
    low, high = max(low - slack, bounds[0]), min(high + slack, bounds[1])
    if not low < high:
        low, high = low - slack, high + slack

    def x(value: float) -> float:
        return _LEFT + (min(max(value, low), high) - low) / (high - low) * (_RIGHT - _LEFT)

    axis = _TOP + len(rows) * _ROW
    parts = [
        f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{axis}" y2="{axis}"/>',
        f'<text class="dim" x="{_LEFT}" y="{axis + 18}">{escape(show(low))}</text>',
        f'<text class="dim" x="{_RIGHT}" y="{axis + 18}" text-anchor="end">{escape(show(high))}</text>',
    ]
    if reference is not None:
        at = x(reference)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{axis}" stroke-dasharray="4 3"/>')
        if _LEFT + 90 < at < _RIGHT - 90:  # or it would lie over an end's text
            parts.append(
                f'<text class="dim" x="{at:.1f}" y="{axis + 18}" text-anchor="middle">{escape(show(reference))}</text>'
            )
    for position, row in enumerate(rows):
        parts.append(_row(row, _TOP + position * _ROW + _ROW // 2, x))
    label = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {axis + 26}" width="{_WIDTH}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _row(row: Interval, y: int, x: Callable[[float], float]) -> str:
    cut = row.label if len(row.label) <= _LABEL_CHARS else f"{row.label[: _LABEL_CHARS - 1]}…"
    label = f'<text x="0" y="{y + 5}">{escape(cut)}<title>{escape(row.label)}</title></text>'
    if not row.known or row.middle is None or row.low is None or row.high is None:
        return f'{label}<text class="dim" x="{_LEFT + 8}" y="{y + 5}">{escape(row.text)}</text>'
    return (
        f'{label}<g class="{escape(row.kind)}"><title>{escape(row.text)}</title>'
        f'<line x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y}" y2="{y}" stroke-width="3"/>'
        f'<circle cx="{x(row.middle):.1f}" cy="{y}" r="5"/></g>'
    )
