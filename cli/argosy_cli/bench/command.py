"""`argosy bench`."""

# ruff: noqa: PLC0415, PLR0917 - as in main.py: imports when it runs, and typer wants plain parameters

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from argosy_cli.errors import CommandError

if TYPE_CHECKING:
    from argosy_cli.bench.server import Server
    from argosy_cli.bench.sweep import Found, Plan
    from argosy_cli.progress import Told

FILES = ("bench.md", "bench.json", "bench.svg")
KEY, PEER_KEY = "ARGOSY_API_KEY", "ARGOSY_PEER_API_KEY"
_MOST = 1024


def bench(
    url: Annotated[str, typer.Argument(metavar="URL", help="Any OpenAI-compatible server, as http://127.0.0.1:8000.")],
    peer: Annotated[str | None, typer.Option(metavar="URL", help="Another one, measured in turn with it.")] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="Default: the only one that is served.")] = "",
    peer_model: Annotated[str, typer.Option(metavar="NAME", help="The peer's. Default: likewise.")] = "",
    concurrency: Annotated[str, typer.Option(metavar="N,N,…", help="Requests at once, level by level.")] = "1,2,4,8",
    requests: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of each level and round. Default: two a connection.")
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="Of each level, servers in turn.")] = 3,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", min=8, help="About so many.")] = 128,
    output_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Of each answer.")] = 64,
    shared_prefix: Annotated[
        float, typer.Option(metavar="PART", min=0, max=1, help="Of the prompts, common to all: 0.5 is half.")
    ] = 0.0,
    completions: Annotated[
        bool, typer.Option("--completions", help="Ask /v1/completions, without a chat template.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Same seed, same prompts.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help=f"Writes {', '.join(FILES)} there.")] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="json, for programs.")] = None,
) -> None:
    """Measure a server as clients feel it: time to first token, time between tokens, tokens a second."""
    import os

    from rich.console import Console

    from argosy_cli.bench import report
    from argosy_cli.bench.server import Server, Wanted
    from argosy_cli.bench.sweep import Plan
    from argosy_cli.progress import bar

    if output not in (None, "json"):
        raise CommandError(f"-o {output} is not known; it can: json")
    plan = Plan(
        levels=levels(concurrency), requests=requests, rounds=rounds, prompt_tokens=prompt_tokens,
        shared=shared_prefix, seed=seed, wanted=Wanted(output_tokens=output_tokens, chat=not completions),
    )  # fmt: skip
    servers = [Server(url, model, os.environ.get(KEY, ""))]
    if peer is not None:
        servers.append(Server(peer, peer_model, os.environ.get(PEER_KEY, "")))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with bar(Console(stderr=True)) as told:
        found = asyncio.run(_measured(servers, plan, told))
    if out is not None:
        _write(found, out)
    print(report.document(found) if output == "json" else report.markdown(found), end="")
    if out is not None:
        print(f"{', '.join(FILES)} are in {out}", file=sys.stderr)


def levels(text: str) -> tuple[int, ...]:
    """1,4,16 as numbers.

    Raises:
        CommandError: no such list.

    """
    try:
        found = tuple(int(one) for one in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1 or max(found) > _MOST or len(set(found)) < len(found):
        raise CommandError(f"--concurrency {text}: give numbers of 1 to {_MOST}, each once, as 1,4,16")
    return tuple(sorted(found))


async def _measured(servers: "list[Server]", plan: "Plan", told: "Told") -> "Found":
    from contextlib import AsyncExitStack

    from argosy_cli.bench.sweep import sweep

    async with AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(server)
        return await sweep(servers, plan, told)


def _write(found: "Found", folder: Path) -> None:
    from argosy_cli.bench import picture, report

    points = [
        (
            server.label,
            [(level, one) for level, which, one in report.rows(found) if which == number],
        )
        for number, server in enumerate(found.servers)
    ]
    title = f"about {found.plan.prompt_tokens} prompt tokens, {found.plan.wanted.output_tokens} generated"
    made = (report.markdown(found), report.document(found), picture.draw(title, points))
    for name, text in zip(FILES, made, strict=True):
        (folder / name).write_text(text)
