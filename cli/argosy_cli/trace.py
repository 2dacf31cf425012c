"""`argosy trace`: the step traces of workers, as a picture and in a few lines."""

import http.client
import json
import os
import statistics
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from argosy_api import limits, step_trace
from argosy_api.step_trace import TracedStep
from argosy_cli import trace_events
from argosy_cli.embedded import run
from argosy_cli.errors import CommandError

_TIMEOUT_S = 30.0


class TraceError(CommandError):
    """There is no trace to be had there, or it cannot be written."""


def trace(sources: Sequence[str], out: Path) -> Iterator[str]:
    """Write the picture of all sources to `out`; yields the lines of the summary.

    A source is host:port of a worker's metrics, or a file that a worker wrote. Without one: all workers of this
    folder's `argosy up`.

    Raises:
        TraceError: naming the source, and why it has none.

    """
    traces = {name: _steps(source) for name, source in (_named(sources) if sources else _running()).items()}
    try:
        out.write_text(json.dumps(trace_events.document(traces), separators=(",", ":")))
    except OSError as error:
        raise TraceError(f"{out}: cannot be written: {error.strerror}") from None
    for name, steps in traces.items():
        yield from summary(name, steps)
    yield f"picture in {out}: open it in https://ui.perfetto.dev or chrome://tracing"


def summary(name: str, steps: Sequence[TracedStep]) -> Iterator[str]:
    """A few lines about one worker's steps."""
    if not steps:
        yield f"{name}: no steps yet"
        return
    span = steps[-1].began + steps[-1].seconds - steps[0].began
    busy = sum(step.seconds for step in steps)
    pieces = [piece for step in steps for piece in step.slices]
    requests = {piece.request: piece for piece in pieces}
    prompt = sum(piece.prompt_rows for piece in pieces)
    times = sorted(step.seconds for step in steps)
    yield (
        f"{name}: {len(steps)} steps in {span:.2f} s, busy {busy / span if span else 1:.0%}; {len(requests)} requests, "
        f"{prompt} prompt tokens computed, {sum(piece.sampled for piece in pieces)} generated"
    )
    parts = {"schedule": 0.0, "launch": 0.0, "update": 0.0}
    for step in steps:
        parts = {part: sum_ + getattr(step, f"{part}_s") for part, sum_ in parts.items()}
    shares = ", ".join(f"{part} {seconds / busy if busy else 0:.1%}" for part, seconds in parts.items())
    yield f"  a step takes {1e3 * statistics.median(times):.2f} ms (longest {1e3 * times[-1]:.2f}): {shares}"
    drafted, right = sum(piece.draft for piece in pieces), sum(piece.accepted for piece in pieces)
    drafts = f"{right} of {drafted} drafted tokens right" if drafted else "no drafts"
    waits = sorted(piece.queued_s for piece in requests.values())
    yield (
        f"  waited {1e3 * statistics.median(waits):.0f} ms at the median, {1e3 * waits[-1]:.0f} at most; at most "
        f"{max(step.waiting for step in steps)} in line; {sum(step.preempted for step in steps)} preempted, "
        f"{sum(piece.failed for piece in pieces)} failed; {drafts}"
    )


def _named(sources: Sequence[str]) -> dict[str, str]:
    return {source.removeprefix("http://").rstrip("/"): source for source in sources}


def _running() -> Mapping[str, str]:
    states = run.live(run.home(os.environ))
    found = {
        r.name: r.pages for state in states[:1] for resource in state.resources for r in resource.replicas if r.pages
    }
    if not found:
        raise TraceError(
            "no worker runs here; name a worker's metrics address (host:port), or a file that a worker wrote"
        )
    return found


def _steps(source: str) -> list[TracedStep]:
    body = _read(Path(source)) if Path(source).is_file() else _fetch(source)
    try:
        return step_trace.parse(body)
    except ValueError as error:
        raise TraceError(f"{source}: {error}") from None


def _read(file: Path) -> bytes:
    former = file.with_name(f"{file.name}.1")
    try:
        return b"".join(_bounded(_head(path), str(path)) for path in (former, file) if path.is_file())
    except OSError as error:
        raise TraceError(f"{file}: cannot be read: {error.strerror}") from None


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(limits.MAX_TRACE_BYTES + 1)


def _fetch(source: str) -> bytes:
    url = f"http://{source.removeprefix('http://').rstrip('/')}/trace"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            body: bytes = answer.read(limits.MAX_TRACE_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(1000).decode(errors="replace").strip()
        raise TraceError(f"{source}: {said}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise TraceError(f"{source}: is no file, and no worker answers there ({error})") from None
    return _bounded(body, source)


def _bounded(body: bytes, source: str) -> bytes:
    if len(body) > limits.MAX_TRACE_BYTES:
        raise TraceError(f"{source}: has more than {limits.MAX_TRACE_BYTES} bytes, which no worker's trace has")
    return body
