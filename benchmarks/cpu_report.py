"""What `cpu.py` measured, as a page in Markdown and a picture in SVG."""

import datetime as dt
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cpu_ceilings import Ceiling, Work

_INK = "#1f2933"
_COLOURS = {"argosy": "#2b6cb0", "llama.cpp": "#b7791f", "OpenVINO GenAI": "#6b46c1", "transformers": "#718096"}


@dataclass(frozen=True, slots=True)
class Row:
    """A figure: values of all rounds, for each side that has it."""

    name: str
    unit: str
    less_is_better: bool
    values: dict[str, list[float]]

    def median(self, side: str) -> float | None:
        """None where the side was not measured."""
        return statistics.median(self.values[side]) if self.values.get(side) else None

    def ratio(self, ours: str, peer: str) -> float | None:
        """Median of the rounds' ratios."""
        both = zip(self.values.get(ours, ()), self.values.get(peer, ()), strict=False)
        found = [a / b for a, b in both if b]
        return statistics.median(found) if found else None

    def line(self) -> str:
        """All medians."""
        return f"{self.name}, {self.unit}: " + ", ".join(f"{side} {number(self.median(side))}" for side in self.values)


def number(value: float | None) -> str:
    """Three digits or more."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def shares(rows: Sequence[Row], ours: str, work: Work, ceiling: Ceiling, context: float) -> dict[tuple[str, str], str]:
    """What our rows of prefill and decode make of the machine: (name, unit) -> words."""
    found = {}
    for row in rows:
        kind, _, count = row.name.removeprefix("busy: ").partition(" ")
        rate = row.median(ours)
        if rate is None or kind not in ("prefill", "decode"):
            continue
        if kind == "decode":
            read = rate * work.decode_bytes(int(count), context)
            products, floats = rate * (work.weights + work.head), rate * work.attention * context
            words = [f"{read / 1e9:.1f} GB/s ({read / ceiling.read:.0%})"]
        else:
            products, floats = rate * work.weights, rate * work.attention * int(count) / 2
            words = []
        if ceiling.bytes:
            words.append(f"bytes {products / 1e9:.0f} G/s ({products / ceiling.bytes:.0%})")
        if ceiling.floats and kind == "prefill":
            words.append(f"fp32 {floats / 1e9:.0f} G/s ({floats / ceiling.floats:.0%})")
        found[row.name, row.unit] = ", ".join(words)
    return found


def page(
    command: str, ceilings: Sequence[Ceiling], rows: Sequence[Row], ours: str, shared: dict[tuple[str, str], str]
) -> str:
    """A table of all rows; peers' columns as they have figures."""
    sides = list(dict.fromkeys(side for row in rows for side in row.values))
    peers = [side for side in sides if side != ours]
    heads = ["", "", *sides, *(f"of {peer}" for peer in peers), "of the machine"]
    lines = [
        "# The CPU engine beside its peers",
        "",
        f"Written by `{command}` on {dt.datetime.now(dt.UTC):%Y-%m-%d}; its docstring says what each row is.",
        "SmolLM2-135M-Instruct Q4_1, the same file and as many threads for all; medians of the rounds, and of the",
        "rounds' ratios. The machine's ceilings were measured in the same run:",
        "",
        *(f"- {ceiling}" for ceiling in ceilings),
        "",
        "`of the machine`: bytes that steps read, multiply-adds of bytes (linears) and of fp32 (attention), and their",
        "share of the ceiling of all threads.",
        "",
        "![bars](pictures/cpu.svg)",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for row in rows:
        ratios = [row.ratio(ours, peer) for peer in peers]
        cells = [row.name, row.unit, *(number(row.median(side)) for side in sides)]
        cells += ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        lines.append("| " + " | ".join([*cells, shared.get((row.name, row.unit), "")]) + " |")
    return "\n".join([*lines, ""])


def picture(rows: Sequence[Row]) -> str:
    """Bars of tokens a second, one group for each case; each group has its own scale."""
    shown = [row for row in rows if row.unit == "tokens/s"]
    line, left, most = 15, 120, 420
    height = 40 + sum(line * len(row.values) + 10 for row in shown)
    width = left + most + 90
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="{_INK}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    at = left
    for side in dict.fromkeys(side for row in shown for side in row.values):
        out.append(f'<rect x="{at}" y="8" width="10" height="10" fill="{_COLOURS[side]}"/>')
        out.append(f'<text x="{at + 14}" y="17">{escape(side)}</text>')
        at += 120
    y = 32
    for row in shown:
        out.append(f'<text x="8" y="{y + 11}">{escape(row.name)}</text>')
        longest = max(row.median(side) or 0 for side in row.values) or 1
        for side in row.values:
            value = row.median(side) or 0
            length = max(1.0, most * value / longest)
            out.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{line - 3}" fill="{_COLOURS[side]}"/>')
            out.append(f'<text x="{left + length + 4:.1f}" y="{y + 10}">{number(value)}</text>')
            y += line
        y += 10
    return "\n".join([*out, "</svg>", ""])
