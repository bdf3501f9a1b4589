"""The timeline of a replay as one SVG file: no script, no font, nothing to fetch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from fedclient.scheduler.replay import DAY_S, Replay

_LEFT, _TOP, _WIDTH = 70, 56, 720
_ROW, _BAR = 24, 16
_GATES: Final = 8  # those that were closed longest
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#333}.h{font-size:15px}.n{text-anchor:end}"
    ".m{text-anchor:middle;fill:#777}.c{fill:#e4e4e4}.t{fill:#2a7d4f}.g{fill:#b4543a}.l{stroke:#fff}"
)


def draw(found: Replay, title: str) -> str:
    """Return the picture: a bar per day, green where it trained; then how long each gate was closed."""
    title = "".join(sign if sign.isprintable() else "?" for sign in title)  # XML has no control characters
    days = sorted(found.by_day(found.covered))
    gates = list(found.closed.items())[:_GATES]
    below = _TOP + len(days) * _ROW + 40
    height = below + len(gates) * _ROW + 16
    width = _LEFT + _WIDTH + 30
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
            f' height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            f'<text class="h" x="{_LEFT}" y="22">{escape(title)}</text>',
            *_days(found, days),
            *_hours(len(days)),
            *_shares(gates, below),
            "</svg>\n",
        ]
    )


def _hours(rows: int) -> Iterator[str]:
    for hour in range(0, 25, 3):
        x = _LEFT + _WIDTH * hour // 24
        yield f'<text class="m" x="{x}" y="{_TOP - 8}">{hour}</text>'
        yield f'<path class="l" d="M{x} {_TOP}v{rows * _ROW}"/>'


def _days(found: Replay, days: list[int]) -> Iterator[str]:
    covered = found.by_day(found.covered)
    trained = found.by_day((one.begin_s, one.end_s) for one in found.intervals)
    for row, day in enumerate(days):
        y = _TOP + row * _ROW
        yield f'<text class="n" x="{_LEFT - 8}" y="{y + 12}">{found.day(day)}</text>'
        yield f'<path class="c" d="{_bars(covered[day], y)}"/>'
        if day in trained:
            yield f'<path class="t" d="{_bars(trained[day], y)}"/>'


def _bars(spans: list[tuple[float, float]], y: int) -> str:
    """Return boxes as one path; what is shorter than a pixel still shows, and neighbours are one box."""
    boxes: list[list[float]] = []
    for begin_s, end_s in spans:
        left = round(_LEFT + _WIDTH * begin_s / DAY_S, 1)
        right = round(max(left + 1, _LEFT + _WIDTH * end_s / DAY_S), 1)
        if boxes and left <= boxes[-1][1]:
            boxes[-1][1] = max(boxes[-1][1], right)
        else:
            boxes.append([left, right])
    return "".join(f"M{left:g} {y}h{right - left:.3g}v{_BAR}H{left:g}z" for left, right in boxes)


def _shares(gates: list[tuple[str, float]], top: int) -> Iterator[str]:
    yield f'<text x="{_LEFT}" y="{top - 10}">closed, of the time (green above: trained)</text>'
    for row, (name, share) in enumerate(gates):
        y = top + row * _ROW
        length = max(1.0, (_WIDTH - 180) * share)
        yield f'<text class="n" x="{_LEFT + 110}" y="{y + 12}">{escape(name)}</text>'
        yield f'<rect class="g" x="{_LEFT + 120}" y="{y}" width="{length:.1f}" height="{_BAR}"/>'
        yield f'<text x="{_LEFT + 126 + length:.1f}" y="{y + 12}">{share:.1%}</text>'
