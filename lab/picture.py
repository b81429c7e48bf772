"""Draw a timeline: time runs from left to right, every machine has a lane, faults are bands. SVG, readable in any browser. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from lab.timeline import LAB_LANE, Moment

WIDTH: Final = 1200
LEFT: Final = 110
RIGHT: Final = 20
LANE: Final = 34
TOP: Final = 50
LABEL_WIDTH: Final = 6.2
COLOURS: Final = {"fault": "#c62828", "gossip": "#6a1b9a", "log": "#1565c0", "frame": "#2e7d32", "client": "#ef6c00"}
LABELS: Final = 400
"""More moments than this are dots without words; pointing at a dot shows them all the same."""


def svg(moments: Sequence[Moment], *, zero: float, title: str) -> str:
    """The picture of moments in order; `zero` is where the milliseconds begin. There must be a moment."""
    first, last = moments[0].at, moments[-1].at
    scale = (WIDTH - LEFT - RIGHT) / ((last - first) or 1.0)
    lanes = sorted({moment.where for moment in moments}, key=lambda name: (name != LAB_LANE, name == "client", _natural(name)))

    def x(at: float) -> float:
        return LEFT + (at - first) * scale

    body: list[str] = []
    top = float(TOP)
    for name in lanes:
        here = [moment for moment in moments if moment.where == name]
        dots, rows = _lane(here, [x(moment.at) for moment in here], zero, with_words=len(moments) <= LABELS)
        height = LANE + (rows - 1) * 13
        body.append(f'<text x="{LEFT - 10}" y="{top + 18:.0f}" text-anchor="end" font-weight="bold">{escape(name)}</text>')
        body.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top + 14:.0f}" y2="{top + 14:.0f}" stroke="#ccc"/>')
        body.append(f'<g transform="translate(0 {top:.0f})">{"".join(dots)}</g>')
        top += height
    ticks = [_tick(first + (last - first) * part / 8, zero, x, top) for part in range(9)]
    legend = "".join(
        f'<circle cx="{LEFT + 6 + 90 * at}" cy="38" r="4" fill="{colour}"/><text x="{LEFT + 14 + 90 * at}" y="42">{kind}</text>'
        for at, (kind, colour) in enumerate(COLOURS.items())
    )
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + 30:.0f}" font-family="sans-serif" font-size="11">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
            legend,
            *ticks,
            *body,
            "</svg>",
            "",
        )
    )


def _natural(name: str) -> tuple[str, int]:
    """n10 comes after n9."""
    digits = name.lstrip("abcdefghijklmnopqrstuvwxyz-")
    return name[: len(name) - len(digits)], int(digits) if digits.isdigit() else 0


def _lane(here: Sequence[Moment], places: Sequence[float], zero: float, *, with_words: bool) -> tuple[list[str], int]:
    """The dots of one lane, words on as many rows below as they need; and how many rows."""
    ends: list[float] = []
    dots = []
    for moment, x in zip(here, places, strict=True):
        colour = COLOURS.get(moment.kind, "#555")
        hint = escape(f"{(moment.at - zero) * 1000:+.1f} ms {moment}")
        dots.append(f'<circle cx="{x:.1f}" cy="14" r="4" fill="{colour}"><title>{hint}</title></circle>')
        if not with_words:
            continue
        words = moment.what if len(moment.what) <= 40 else f"{moment.what[:39]}…"
        width = len(words) * LABEL_WIDTH + 8
        start = min(x, WIDTH - RIGHT - width)
        row = next((at for at, end in enumerate(ends) if end <= start), len(ends))
        ends[row : row + 1] = [start + width]
        y = 28 + row * 13
        dots.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="14" y2="{y}" stroke="{colour}" stroke-opacity="0.3"/>')
        dots.append(f'<text x="{start + 2:.1f}" y="{y}" fill="{colour}" font-size="10">{escape(words)}</text>')
    return dots, max(1, len(ends) + 1)


def _tick(at: float, zero: float, x: Callable[[float], float], bottom: float) -> str:
    place = x(at)
    return (
        f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{bottom:.0f}" stroke="#eee"/>'
        f'<text x="{place:.1f}" y="{bottom + 18:.0f}" text-anchor="middle">{(at - zero) * 1000:+.0f} ms</text>'
    )
