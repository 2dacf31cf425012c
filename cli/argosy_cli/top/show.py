"""Rows as a table that fits the width there is, and as JSON. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic.alias_generators import to_camel
from rich.console import Console, ConsoleOptions
from rich.text import Text

from argosy_cli.top.figures import Row

UNKNOWN = "-"
_GAP = 2
_LEAST_NAME = 12


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table."""

    title: str
    cell: Callable[[Row], str]
    rank: int
    """Those with the largest ranks are left out first where the terminal is narrow."""
    left: bool = False


def _number(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{1000 * value:.0f}ms" if value < 1 else f"{_number(value)}s"


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


NAMESPACE = Column("NAMESPACE", lambda row: row.namespace, 5, left=True)
NAME = Column("NAME", lambda row: row.name, 0, left=True)
COLUMNS = (
    NAME,
    Column("READY", lambda row: f"{row.ready}/{row.desired}", 0),
    Column("QUEUE", lambda row: UNKNOWN if row.queue_s is None else f"{_number(row.queue_s)}s", 0),
    Column("RUN", lambda row: _count(row.running), 2),
    Column("WAIT", lambda row: _count(row.waiting), 1),
    Column("HELD", lambda row: _count(row.held), 8),
    Column("HIT", lambda row: _percent(row.hit_rate), 3),
    Column("TOK/S", lambda row: _number(row.generated_rate), 1),
    Column("PROMPT/S", lambda row: _number(row.prompt_rate), 7),
    Column("KV", lambda row: _percent(row.kv_used), 4),
    Column("TTFT", lambda row: _seconds(row.ttft_s), 6),
    Column("ITL", lambda row: _seconds(row.itl_s), 6),
    Column("REASON", lambda row: "" if row.reason == "Ready" else row.reason, 9, left=True),
)


def table(rows: Sequence[Row], *, width: int | None = None, namespaces: bool | None = None) -> list[str]:
    """A head and a line for each row, no wider than `width`.

    In a narrow terminal columns that matter less are left out, and names are cut. `namespaces`: whether to tell them;
    None: where there are several.
    """
    several = len({row.namespace for row in rows}) > 1 if namespaces is None else namespaces
    columns = list((NAMESPACE, *COLUMNS) if several else COLUMNS)
    widths = {column: max(len(column.title), *(len(column.cell(row)) for row in rows), 0) for column in columns}
    if width is not None:
        longest = widths[NAME]
        widths[NAME] = min(longest, max(_LEAST_NAME, width // 3))
        while _whole(columns, widths) > width and (last := max(column.rank for column in columns)):
            columns = [column for column in columns if column.rank < last]
        widths[NAME] = min(longest, max(_LEAST_NAME, widths[NAME] + width - _whole(columns, widths)))
    cells = [[column.title for column in columns], *([column.cell(row) for column in columns] for row in rows)]
    return [_line(columns, line, [widths[column] for column in columns])[:width] for line in cells]


def _whole(columns: Sequence[Column], widths: Mapping[Column, int]) -> int:
    return sum(widths[column] for column in columns) + _GAP * (len(columns) - 1)


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    cut = (cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(cells, widths, strict=True))
    padded = (
        cell.ljust(width) if column.left else cell.rjust(width)
        for column, cell, width in zip(columns, cut, widths, strict=True)
    )
    return (" " * _GAP).join(padded).rstrip()


def document(rows: Iterable[Row], notes: Sequence[str]) -> dict[str, Any]:
    """For programs: all figures, null where nobody tells. Parts are of 1."""
    items = [{_FIELDS.get(name, to_camel(name)): value for name, value in asdict(row).items()} for row in rows]
    return {"items": items, "notes": list(notes)}


_FIELDS = {
    "queue_s": "queueSeconds",
    "ttft_s": "ttftSeconds",
    "itl_s": "itlSeconds",
    "generated_rate": "generatedTokensPerSecond",
    "prompt_rate": "promptTokensPerSecond",
}


@dataclass(frozen=True, slots=True)
class Screen:
    """What a terminal shows: as wide and as high as it is when it is drawn."""

    rows: Sequence[Row]
    notes: Sequence[str]
    namespaces: bool | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """The table, and below it what is missing."""
        height = options.height or console.height
        fits = max(1, height - 2 - len(self.notes))
        shown, left = self.rows[:fits], len(self.rows) - fits
        head, *lines = table(shown, width=options.max_width, namespaces=self.namespaces)
        yield Text(head, "bold", no_wrap=True)
        for row, line in zip(shown, lines, strict=True):
            yield Text(line, "yellow" if row.ready < row.desired else "", no_wrap=True)
        if left > 0:
            yield Text(f"and {left} more", "dim")
        for note in self.notes:
            yield Text(note, "dim", overflow="ellipsis", no_wrap=True)
