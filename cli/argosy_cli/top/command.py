"""`argosy top`: looks again and again, and shows what came."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live

from argosy_cli.cluster.command import Where
from argosy_cli.cluster.explain import age
from argosy_cli.embedded import run
from argosy_cli.errors import CommandError
from argosy_cli.top.figures import Key, Row, Watch
from argosy_cli.top.show import Screen, document, table
from argosy_cli.top.sources import Here, Look, Source, There
from argosy_kube import access


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to show, and how."""

    name: str | None = None
    """One resource alone."""
    interval_s: float = 2.0
    once: bool = False
    as_json: bool = False


def top(console: Console, where: Where, wish: Wish, *, cluster: bool) -> None:
    """Show the table until Ctrl-C; once where nobody watches.

    Raises:
        CommandError: there is nothing to show, or nobody answers at the first look.

    """
    try:
        asyncio.run(_top(console, where, wish, cluster=cluster))
    except KeyboardInterrupt:
        return


async def _top(console: Console, where: Where, wish: Wish, *, cluster: bool) -> None:
    namespaces = where.everywhere or None
    if not cluster:
        await _show(Here(run.home(os.environ)), console, wish, namespaces)
        return
    environment: Mapping[str, str] = dict(os.environ) | ({"KUBECONFIG": where.kubeconfig} if where.kubeconfig else {})
    async with There(access.find(environment, context=where.context), where) as there:
        await _show(there, console, wish, namespaces)


async def _show(source: Source, console: Console, wish: Wish, namespaces: bool | None) -> None:
    table_of = Watched(source, wish.name)
    await table_of.look()
    if wish.once or wish.as_json or not console.is_terminal:
        # what goes on in a second is known from the second look on
        await asyncio.sleep(wish.interval_s)
        rows, notes = await table_of.look()
        if wish.as_json:
            print(json.dumps(document(rows, notes), indent=1))
            return
        for line in table(rows, width=console.width if console.is_terminal else None, namespaces=namespaces):
            print(line)
        for note in notes:
            print(note, file=sys.stderr)
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            rows, notes = await table_of.look_again()
            live.update(Screen(rows, notes, namespaces), refresh=True)
            await asyncio.sleep(wish.interval_s)


@dataclass(slots=True)
class Watched:
    """A source that is looked at from time to time, with what the rates need to be known from before."""

    source: Source
    name: str | None = None
    _watches: dict[Key, Watch] = field(default_factory=dict)
    _last: tuple[Sequence[Row], Sequence[str]] = ((), ())
    _seen_at: float = 0.0

    async def look(self) -> tuple[Sequence[Row], Sequence[str]]:
        """Rows by name, and what is missing.

        Raises:
            CommandError: there is nothing to show, or nobody answers.

        """
        found = await self.source.look()
        now = time.monotonic()
        deployments = [d for d in found.deployments if self.name in (None, d.name)]
        if not deployments:
            raise CommandError(f"there is no InferenceDeployment {self.name} there; {_others(found)}")
        self._watches = {d.key: self._watches.get(d.key) or Watch() for d in deployments}
        rows = [self._watches[d.key].row(d, found.told.get(d.key), now) for d in deployments]
        self._last, self._seen_at = (sorted(rows, key=lambda row: (row.namespace, row.name)), found.notes), now
        return self._last

    async def look_again(self) -> tuple[Sequence[Row], Sequence[str]]:
        """The same; where nobody answers any more the last table, and that it is an old one."""
        try:
            return await self.look()
        except CommandError as error:
            rows, _ = self._last
            return rows, [f"as it was {age(time.monotonic() - self._seen_at)} ago: {error.message}"]


def _others(found: Look) -> str:
    return f"there are: {', '.join(sorted(d.name for d in found.deployments))}"
