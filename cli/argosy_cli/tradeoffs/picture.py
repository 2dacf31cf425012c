"""The table as a picture: one line of bars for each setup, as SVG text (no library draws a few rectangles shorter)."""

from collections.abc import Callable, Sequence
from html import escape

from argosy_cli.tradeoffs.measure import STREAMS, Figures

_ROW, _BAR, _LEFT, _PANEL, _GAP, _TOP = 26, 14, 150, 170, 70, 44
_INK, _BARS = "#1f2933", ("#2b6cb0", "#2f855a", "#6b46c1", "#b7791f", "#c53030")

Panel = tuple[str, Callable[[Figures], float], Callable[[float], str]]
PANELS: tuple[Panel, ...] = (
    ("1 stream, tokens/s", lambda f: f.one_stream, "{:.0f}".format),
    (f"{STREAMS} streams, tokens/s", lambda f: f.many_streams, "{:.0f}".format),
    ("prefill, tokens/s", lambda f: f.prefill, "{:.0f}".format),
    ("resident, MiB", lambda f: f.resident_bytes / 2**20, "{:.0f}".format),
    ("perplexity over fp32", lambda f: f.change, "{:+.2%}".format),
)


def draw(title: str, rows: Sequence[tuple[str, Figures]]) -> str:
    """SVG with a panel for each figure; bars of a panel share its scale."""
    width = _LEFT + len(PANELS) * (_PANEL + _GAP)
    height = _TOP + len(rows) * _ROW + 16
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12" fill="{_INK}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    parts += [_text(8, _line(i), name) for i, (name, _) in enumerate(rows)]
    for number, (label, value, words) in enumerate(PANELS):
        left = _LEFT + number * (_PANEL + _GAP)
        parts.append(_text(left, _TOP - 10, label))
        found = [value(figures) for _, figures in rows]
        longest = max((abs(one) for one in found), default=0) or 1
        for i, one in enumerate(found):
            length = max(1.0, _PANEL * abs(one) / longest)
            parts.append(
                f'<rect x="{left}" y="{_TOP + i * _ROW + 2}" width="{length:.1f}" height="{_BAR}" '
                f'fill="{_BARS[number % len(_BARS)]}"/>'
            )
            parts.append(_text(left + length + 4, _line(i), words(one)))
    return "\n".join([*parts, "</svg>", ""])


def _line(i: int) -> int:
    return _TOP + i * _ROW + _BAR


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y}">{escape(text)}</text>'
