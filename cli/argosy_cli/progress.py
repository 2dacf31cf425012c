"""How far a long command is."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Told = Callable[[str, float], None]
"""Called with (what is done, fraction of it in 0 .. 1)."""


@contextlib.contextmanager
def bar(console: Console) -> Iterator[Told]:
    """A progress bar on a terminal; a line for each stage elsewhere."""
    if not console.is_terminal:
        told: set[str] = set()

        def line(stage: str, fraction: float) -> None:
            del fraction
            if stage not in told:
                told.add(stage)
                console.print(f"{stage} ...", highlight=False, markup=False, soft_wrap=True)

        yield line
        return
    columns = (TextColumn("{task.description:<34}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as shown:
        task = shown.add_task("open", total=1.0)

        def update(stage: str, fraction: float) -> None:
            shown.update(task, description=stage, completed=fraction)

        yield update
