"""What each step of a worker's engine computed, and for how long: one writer, one parser. No text, no token ids.

A worker with `engine.stepTrace` tells its latest steps on `/trace`, one JSON document a line, the oldest first; with
`file` it also writes the same lines to a file. Readers ignore what they do not know: workers may be newer than they.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from pydantic import TypeAdapter, ValidationError

CONTENT_TYPE = "application/x-ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedSlice:
    """One request's share of a step."""

    request: str
    """Request id."""
    start: int
    """Position of the first of its rows."""
    rows: int
    """Tokens computed, drafts among them."""
    prompt: int
    """Length of the prompt, in tokens."""
    cached: int
    """Of the prompt, tokens found in the prefix cache at the first admission."""
    queued_s: float
    """From arrival to the first admission."""
    preemptions: int
    """How often it had lost its blocks by now."""
    draft: int
    """Tokens that were proposed."""
    accepted: int
    """How many of them were right."""
    sampled: int
    """Tokens that came of the step."""
    ended: bool
    """Whether this was its last step, for whatever reason."""
    failed: bool
    """Whether it ended by a fault."""

    @property
    def prompt_rows(self) -> int:
        """Rows that compute the prompt, or compute it again."""
        return max(0, min(self.rows, self.prompt - self.start))


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedStep:
    """One step."""

    number: int
    """From 1, in the order of the steps."""
    began: float
    """Unix time, in seconds."""
    schedule_s: float
    """Choosing what to compute."""
    launch_s: float
    """Computing it."""
    update_s: float
    """Taking in what came of it, and making text."""
    tokens: int
    """Rows of all slices."""
    running: int
    """Requests that hold blocks, after the step."""
    waiting: int
    """Requests in the line, after the step."""
    free: int
    """KV blocks that hold nothing, after the step; likewise the next two."""
    cached: int
    used: int
    preempted: int
    """Requests that lost their blocks for this step."""
    slices: Sequence[TracedSlice]

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.schedule_s + self.launch_s + self.update_s


@cache
def _step() -> TypeAdapter[TracedStep]:  # most processes trace nothing
    return TypeAdapter(TracedStep)


def to_line(step: TracedStep) -> bytes:
    """One JSON document, without the end of the line."""
    return _step().dump_json(step)


def parse(body: bytes) -> list[TracedStep]:
    """Read lines; one that was not written to its end, at the end of a file, is left out.

    Raises:
        ValueError: with the number of the first line that is none.

    """
    whole, _, _ = body.rpartition(b"\n")
    return list(_parse(line for line in whole.split(b"\n")))


def _parse(lines: Iterable[bytes]) -> Iterable[TracedStep]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _step().validate_json(line)
            except ValidationError:
                raise ValueError(f"line {number} is no step of a trace") from None
