"""`argosy pull`, `list`, `show` and `rm`: the models on this machine."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from argosy_api.memory import size
from argosy_api.model_uri import ModelUri
from argosy_cli import serve
from argosy_cli.cluster.explain import age
from argosy_cli.embedded import run
from argosy_cli.errors import CommandError
from argosy_cli.source import find, names
from argosy_cli.source.catalog import CATALOG
from argosy_cli.source.names import Source
from argosy_worker.fetch import cached
from argosy_worker.fetch.quants import quant_of

Moved = Callable[[int, int], None]
"""Called with (bytes that are there, bytes of all); 0: not known."""


# --- pull


def pull(models: Sequence[str], console: Console) -> None:
    """Download models, or find that they are here.

    Raises:
        ArgosyError: what cannot be had, and why.

    """
    for model in models:
        source, cache = serve.source_of(model), run.cache(os.environ)
        say = _teller(console)
        if source.place.scheme != "hf":
            path = find.here(source.place, cache)
            if path is None and source.place.scheme != "sim":
                raise CommandError(f"{model}: there is no {source.place} on this machine")
            say(f"{source.place} is on this machine: nothing to download")
            continue
        from argosy_worker.fetch import hub  # noqa: PLC0415 - an HTTP client

        began, told = time.monotonic(), [0, 0, -1]
        with _meter(console, source) as shown:

            def moved(done: int, total: int, shown: Moved = shown, told: list[int] = told) -> None:
                told[2] = done if told[2] < 0 else told[2]
                told[:2] = done, total
                shown(done, total)

            path = hub.download(source.place, cache_dir=cache, progress=lambda *_: None, moved=moved)
        seconds = max(time.monotonic() - began, 1e-3)
        came = told[0] - max(told[2], 0)
        how = f"{size(came)} in {seconds:.1f} s ({size(round(came / seconds))}/s)" if came else "nothing to download"
        say(f"{source.uri}: {size(told[0] or _size_of(path))}, checksums are right; {how}")


@contextmanager
def _meter(console: Console, source: Source) -> Iterator[Moved]:
    """A bar with size, speed and the time that is left; on no terminal a line for each tenth."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
            task = progress.add_task(source.name, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total or None)
        return
    tenths, say = [-1], _teller(console)

    def line(done: int, total: int) -> None:
        if total and 10 * done // total > tenths[0]:
            tenths[0] = 10 * done // total
            say(f"{source.name}: {size(done)} of {size(total)}")

    yield line


def _teller(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)


# --- list


def listing() -> list[dict[str, Any]]:
    """The catalog's models, and those that were downloaded: as `argosy list -o json` has them."""
    cache = run.cache(os.environ)
    items: list[dict[str, Any]] = []
    for name, entry in CATALOG.items():
        uri = ModelUri.parse(entry.uri)
        path = find.here(uri, cache)
        items.append(
            {
                "name": name,
                "uri": entry.uri,
                "here": path is not None or uri.scheme == "sim",
                "bytes": 0 if path is None else _size_of(path),
                "changed": None if path is None else path.stat().st_mtime,
                "what": entry.what,
            }
        )
    for item in cached.stored(cache):
        kind = "an adapter" if item.adapter else quant_of(item.path.name) or "safetensors"
        items.append(
            {"name": item.uri, "uri": item.uri, "here": True, "bytes": item.size, "changed": item.at, "what": kind}
        )
    return items


def list_models(console: Console, *, as_json: bool) -> None:
    """Print them."""
    items = listing()
    if as_json:
        print(json.dumps({"items": items}, indent=1))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("NAME", "SIZE", "AGE", "WHAT"):
        table.add_column(column, overflow="fold")
    for item in items:
        here = size(item["bytes"]) if item["bytes"] else "-"
        since = age(time.time() - item["changed"]) if item["changed"] else "-"
        table.add_row(*map(Text, (item["name"], here if item["here"] else "not here", since, item["what"])))
    console.print(table)


def _size_of(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


# --- show


def show(model: str, console: Console, *, as_json: bool) -> None:
    """What a model's files say of it, and what it takes.

    Raises:
        ArgosyError: it is not here, or no model that can be served.

    """
    source = serve.source_of(model)
    if source.place.scheme == "sim":
        raise CommandError(f"{model}: a simulated model has no files")
    path = find.here(source.place, run.cache(os.environ))
    if path is None:
        raise CommandError(f"{source.place} is not on this machine; `argosy pull {model}` downloads it")
    from argosy_cli.source.facts import facts_of  # noqa: PLC0415 - reads models

    facts = facts_of(path)
    if as_json:
        print(json.dumps({"uri": source.uri, "path": str(path), **asdict(facts)}, indent=1))
        return
    rows = {
        "uri": source.uri,
        "file": str(path),
        "architecture": f"{facts.architecture}, {facts.layers} layers of {facts.hidden}, vocabulary {facts.vocabulary}",
        "parameters": f"{facts.parameters / 1e6:.0f} million" if facts.parameters else "not told by its header",
        "quantization": facts.quantization,
        "context": f"{facts.context} tokens",
        "memory": f"{size(facts.size)} of files, and {size(facts.kv_token * 1024)} of KV cache (fp16) for 1024 tokens; "
        "`argosy plan` says how that fits",
        "licence": facts.licence.splitlines()[0][:200],
        "template": "none" if not facts.template else "\n" + facts.template,
    }
    for name, value in rows.items():
        console.print(Text.assemble((f"{name:<13} ", "bold"), value), soft_wrap=True)


# --- rm


def remove(models: Sequence[str], console: Console) -> None:
    """Delete downloaded models.

    Raises:
        CommandError: one is not there, was not downloaded, or is served.

    """
    cache = run.cache(os.environ)
    for model in models:
        gone = _stored(model, cache)
        serving = [r.name for s in run.live(run.home(os.environ)) for r in s.resources if gone.uri.startswith(r.uri)]
        if serving:
            raise CommandError(f"{model}: is served as {serving[0]}; `argosy down {serving[0]}` first")
        free = cached.remove(gone, cache)
        _teller(console)(f"removed {gone.uri}: {size(free)} are free")


def _stored(model: str, cache: Path) -> "cached.Stored":
    there = {item.uri: item for item in cached.stored(cache)}
    if model in there:
        return there[model]
    source = names.understand(model)
    if source.place.scheme != "hf":
        raise CommandError(f"{model}: was not downloaded by this command; delete it where it is")
    fitting = [
        item
        for uri, item in there.items()
        if (place := ModelUri.parse(uri)).place == source.place.place
        and (not source.place.path or place.path == source.place.path)
        and (not source.place.revision or place.revision == source.place.revision)
        and (not source.quant or quant_of(place.path) == source.quant.upper())
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(item.uri for item in fitting) or ", ".join(there) or "none"
    raise CommandError(f"{model}: {'several fit' if fitting else 'is not here'}; downloaded are: {known}")
