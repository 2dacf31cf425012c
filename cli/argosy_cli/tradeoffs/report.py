"""The table, for a terminal, for a page, and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from argosy_cli.tradeoffs.measure import STREAMS, Figures

HEADERS = (
    "", "resident MiB", "KV bytes/token", "1 stream", f"{STREAMS} streams", "prefill", "perplexity", "change",
    "same best token",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A setup, and what was measured or why nothing could be."""

    name: str
    figures: Figures | None
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """All that one run found."""

    model: str
    machine: dict[str, Any]
    text: str
    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """For programs; ends with a line break."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Found":
        """What `to_json` wrote."""
        document = json.loads(text)
        return cls(**{**document, "rows": tuple(map(row_of, document["rows"]))})


def row_of(document: dict[str, Any]) -> Row:
    """A row as JSON has it."""
    figures = document["figures"]
    return Row(document["name"], None if figures is None else Figures(**figures), document["refused"])


def cells(figures: Figures) -> tuple[str, ...]:
    """A row's figures as they are shown."""
    return (
        f"{figures.resident_bytes / 2**20:.0f}",
        f"{figures.kv_bytes_per_token}",
        f"{figures.one_stream:.1f}",
        f"{figures.many_streams:.1f}",
        f"{figures.prefill:.0f}",
        f"{figures.perplexity:.3f}",
        f"{figures.change:+.2%}",
        f"{figures.agreement:.1%}",
    )


def table(rows: Sequence[Row]) -> Table:
    """For a terminal. What was refused is told below it."""
    found = Table(*HEADERS)
    for row in rows:
        found.add_row(row.name, *(cells(row.figures) if row.figures is not None else ("-",) * (len(HEADERS) - 1)))
    return found


def refusals(rows: Sequence[Row]) -> list[str]:
    """A line for each setup that this machine cannot run."""
    return [f"{row.name}: {row.refused}" for row in rows if row.figures is None]


def markdown(found: Found) -> str:
    """For a page."""
    lines = [f"| {' | '.join(HEADERS)} |", f"|{'---|' * len(HEADERS)}"]
    lines += [f"| {row.name} | {' | '.join(cells(row.figures))} |" for row in found.rows if row.figures is not None]
    lines += ["", *(f"- {line}" for line in refusals(found.rows))]
    machine = ", ".join(f"{name} {value}" for name, value in found.machine.items())
    return "\n".join([f"Model: `{found.model}`. Machine: {machine}. Text: {found.text}.", "", *lines]).rstrip() + "\n"
