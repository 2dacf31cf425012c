"""`argosy run`: from a model's name to an answer. Who serves it is asked; else it is served for as long as we run."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TextIO

from rich.console import Console
from rich.status import Status

from argosy_api.model_uri import ModelUri
from argosy_api.params import SamplingParams
from argosy_cli import ask, serve
from argosy_cli.client import Client
from argosy_cli.embedded import background, ports, run, states
from argosy_cli.embedded.assembly import Options
from argosy_cli.embedded.states import RunState
from argosy_cli.errors import NothingServesError
from argosy_cli.source import find
from argosy_cli.source.names import Source
from argosy_cli.source.sampling import advised
from argosy_cli.talk import Turn


def sampling_of(uri: str, wanted: Mapping[str, float | int | None], *, max_tokens: int) -> SamplingParams:
    """How answers are picked: as asked, else as the makers of the model at `uri` (empty: not known) advise."""
    path = find.here(ModelUri.parse(uri), run.cache(os.environ)) if uri else None
    told: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
    sampling = replace(advised(uri, path), max_tokens=max_tokens, **told)
    sampling.check()
    return sampling


def run_model(
    model: str, prompt: str | None, sampling: Mapping[str, float | int | None], *, system: str | None, max_tokens: int
) -> None:
    """Answer the prompt, or talk until the end of the input.

    Raises:
        ArgosyError: what is wrong and what to do; nothing is left running.

    """
    source = serve.source_of(model)
    chosen = sampling_of(source.uri, sampling, max_tokens=max_tokens)
    question = sys.stdin.read() if prompt == "-" or (prompt is None and not sys.stdin.isatty()) else prompt
    with _served(source) as (address, name), Client(address) as client:
        if question is None:
            ask.chat(client, name, chosen, system=system, source=sys.stdin)
            return
        turns = [Turn("system", system)] if system else []
        request = ask.chat_request(name, [*turns, Turn("user", question)], chosen)
        answer = ask.generate(client, request, out=sys.stdout)
        print(answer.summary(), file=sys.stderr)


@contextlib.contextmanager
def _served(source: Source) -> Iterator[tuple[str, str]]:
    """GRPC address of a router and the name under which it serves the model, while the block runs."""
    if found := running(run.live(run.home(os.environ)), source):
        yield found
        return
    text = serve.text_of([source], serve.Settings())
    loaded = serve.loaded_of(text)
    taken: set[int] = set()
    for _ in range(3):
        taken.add(ports.free_port(taken))
    http, grpc, metrics = taken
    options = Options(http_port=http, grpc_port=grpc, metrics_port=metrics)
    with background.attached(text, options, dict(os.environ)) as started:
        with _waiting(sys.stderr) as wait:
            wait.update(f"starting {source.name}")
            state = background.follow(started, lambda state: wait.update(progress(state)))
        if state.resources[0].ready == 0:
            raise NothingServesError(state.resources[0].replicas[0].message or f"{source.name} does not start")
        yield state.grpc, loaded[0].resource.served_name


def running(live: list[RunState], source: Source) -> tuple[str, str] | None:
    """The newest run that serves the model now: where to ask, and for what."""
    uri = str(source.place)
    if source.place.revision:  # runs do not tell which revision they serve
        return None
    for state in live:
        for item in state.resources:
            if item.ready and item.uri == uri:
                return state.grpc, item.served_name
    return None


def progress(state: RunState) -> str:
    """What a run waits for, in a line."""
    waiting = [(r, p) for r in state.resources for p in r.replicas if not p.ready]
    if not waiting:
        return "connecting"
    resource, replica = waiting[0]
    share = f" {replica.progress:.0%}" if replica.progress and replica.phase != states.READY else ""
    return f"{resource.name}: {replica.phase.lower()}{share}{f', {replica.message}' if replica.message else ''}"


@contextlib.contextmanager
def _waiting(out: TextIO) -> Iterator[Status]:
    """A line that says what goes on, on a terminal; nothing elsewhere."""
    console = Console(file=out)
    status = Status("", console=console)
    if console.is_terminal:
        with status:
            yield status
    else:
        yield status
