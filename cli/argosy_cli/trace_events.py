"""A step trace as a picture: events of the Chrome trace format, for Perfetto (ui.perfetto.dev) and chrome://tracing.

Format: "Trace Event Format" of the Chromium project: JSON with `traceEvents`, times in microseconds. Used are complete
events (X), counters (C), instants (i) and names (M). For each worker two groups of tracks:

    NAME: steps      one track of the steps, each cut into schedule, launch and update; counters of requests, KV blocks
                     and tokens
    NAME: requests   one track for each request: waiting, then what each step computed of it
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from argosy_api.step_trace import TracedSlice, TracedStep

Event = dict[str, Any]


def document(traces: Mapping[str, Sequence[TracedStep]]) -> dict[str, Any]:
    """The whole JSON document; `traces` by the name of the worker. Time 0 is the first thing that happened."""
    began = [_beginning(steps) for steps in traces.values() if steps]
    zero = min(began, default=0.0)
    events: list[Event] = []
    for number, (name, steps) in enumerate(traces.items()):
        events += _worker(2 * number + 1, name, steps, zero)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _beginning(steps: Sequence[TracedStep]) -> float:
    return min(step.began - max((_waited(piece) for piece in step.slices), default=0.0) for step in steps)


def _waited(piece: TracedSlice) -> float:
    """Seconds of waiting that end with this slice: before the first one of a request."""
    return piece.queued_s if piece.start == piece.cached and not piece.preemptions else 0.0


def _worker(pid: int, name: str, steps: Sequence[TracedStep], zero: float) -> Iterator[Event]:
    yield _name("process_name", pid, 0, f"{name}: steps")
    yield _name("process_name", pid + 1, 0, f"{name}: requests")
    yield _name("thread_name", pid, 1, "steps")
    tracks: dict[str, int] = {}
    lost: dict[str, int] = {}
    for step in steps:
        began = _micros(step.began - zero)
        yield from _step(pid, step, began)
        for piece in step.slices:
            if piece.request not in tracks:
                tracks[piece.request] = len(tracks) + 1
                yield _name("thread_name", pid + 1, tracks[piece.request], piece.request)
            where = {"pid": pid + 1, "tid": tracks[piece.request]}
            if waited := _micros(_waited(piece)):
                yield {"ph": "X", "name": "waiting", "ts": began - waited, "dur": waited, **where}
            if piece.preemptions > lost.get(piece.request, 0):
                lost[piece.request] = piece.preemptions
                yield {"ph": "i", "s": "t", "name": "was preempted", "ts": began, **where}
            yield {
                "ph": "X",
                "name": _what(piece),
                "ts": began,
                "dur": _micros(step.seconds),
                **where,
                "args": _args(piece),
            }
            if piece.ended:
                end = began + _micros(step.seconds)
                yield {"ph": "i", "s": "t", "name": "failed" if piece.failed else "ended", "ts": end, **where}


def _step(pid: int, step: TracedStep, began: int) -> Iterator[Event]:
    where = {"pid": pid, "tid": 1}
    args = {"number": step.number, "tokens": step.tokens, "requests": len(step.slices), "preempted": step.preempted}
    yield {"ph": "X", "name": "step", "ts": began, "dur": _micros(step.seconds), **where, "args": args}
    # ends are rounded, not lengths: so the parts lie within the whole
    ends = [0.0, step.schedule_s, step.schedule_s + step.launch_s, step.seconds]
    marks = [_micros(end) for end in ends]
    for part, first, last in zip(("schedule", "launch", "update"), marks, marks[1:], strict=False):
        yield {"ph": "X", "name": part, "ts": began + first, "dur": last - first, **where}
    prompt = sum(piece.prompt_rows for piece in step.slices)
    counters = {
        "requests": {"running": step.running, "waiting": step.waiting},
        "KV blocks": {"used": step.used, "cached": step.cached, "free": step.free},
        "tokens of a step": {"prompt": prompt, "generating": step.tokens - prompt},
    }
    for name, values in counters.items():
        yield {"ph": "C", "name": name, "ts": began, "pid": pid, "tid": 0, "args": values}


def _what(piece: TracedSlice) -> str:
    if piece.prompt_rows:
        return f"prompt {piece.start} to {piece.start + piece.rows}"
    return f"token, {piece.accepted} of {piece.draft} drafted" if piece.draft else "token"


def _args(piece: TracedSlice) -> dict[str, int]:
    return {
        "start": piece.start,
        "rows": piece.rows,
        "prompt": piece.prompt,
        "cached": piece.cached,
        "drafted": piece.draft,
        "accepted": piece.accepted,
        "sampled": piece.sampled,
    }


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)
