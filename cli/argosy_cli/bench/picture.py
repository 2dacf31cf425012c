"""The table as picture: a panel for each figure, a line for each server; SVG text, as a few lines need no library."""

from collections.abc import Callable, Sequence
from html import escape

from argosy_cli.bench.figures import Figures

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 240, 150, 56, 64, 64
_INK, _PALE, _LINES = "#1f2933", "#d5dae0", ("#2b6cb0", "#c05621")

Points = Sequence[tuple[int, Figures]]
"""Requests at once, in order, and what was found."""
PANELS: tuple[tuple[str, Callable[[Figures], float]], ...] = (
    ("time to first token, p50, ms", lambda f: f.ttft_p50),
    ("between two pieces, p50, ms", lambda f: f.itl_p50),
    ("generated tokens/s", lambda f: f.tokens_per_second),
)


def draw(title: str, servers: Sequence[tuple[str, Points]]) -> str:
    """SVG; all panels have the requests at once from left to right, one step for each level."""
    width = len(PANELS) * (_LEFT + _WIDTH) + _GAP
    height = _TOP + _HEIGHT + 48
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12" fill="{_INK}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, _) in enumerate(servers):
        x = 12 + number * 260
        parts.append(f'<circle cx="{x}" cy="34" r="4" fill="{_colour(number)}"/>')
        parts.append(_text(x + 10, 38, name))
    for number, (label, value) in enumerate(PANELS):
        parts += _panel(_LEFT + number * (_LEFT + _WIDTH), label, value, servers)
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    left: float, label: str, value: Callable[[Figures], float], servers: Sequence[tuple[str, Points]]
) -> list[str]:
    bottom = _TOP + _HEIGHT
    levels = [level for level, _ in servers[0][1]]
    most = max((value(one) for _, points in servers for _, one in points), default=0.0) or 1.0
    step = _WIDTH / max(1, len(levels) - 1)
    parts = [_text(left - 40, _TOP - 8, label)]
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * _HEIGHT
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + _WIDTH}" y2="{y:.1f}" stroke="{_PALE}"/>')
        parts.append(_text(left - 6, y + 4, _short(share * most), anchor="end"))
    parts += [_text(left + i * step, bottom + 18, str(level), anchor="middle") for i, level in enumerate(levels)]
    parts.append(_text(left + _WIDTH / 2, bottom + 36, "requests at once", anchor="middle"))
    for number, (_, points) in enumerate(servers):
        places = [(left + i * step, bottom - value(one) / most * _HEIGHT) for i, (_, one) in enumerate(points)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{_colour(number)}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_colour(number)}"/>' for x, y in places]
    return parts


def _colour(number: int) -> str:
    return _LINES[number % len(_LINES)]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or not value else f"{value:.1f}"


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
