"""`argosy explain`: where a request went, and why: what the router that took it remembers of it."""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from argosy_api.errors import UnauthenticatedError
from argosy_cli.client import API_KEY, credential
from argosy_cli.embedded import run
from argosy_cli.errors import CommandError

DEFAULT_HTTP_PORT = 8000
TIMEOUT_S = 10.0
MOST_BYTES = 4 * 2**20
"""Of an answer: 512 choices with what was thought of each are less."""
REASONS = {
    "only": "no other worker could have had it",
    "prefix": "it costs least there, and none held more of the prompt",
    "load": "another one held more of the prompt, but has more to do",
    "tie": "several cost about as little",
    "least": "it costs least there",
    "turn": "in turn",
    "hash": "the prompt's beginning belongs there",
    "bound": "the worker to which the prompt's beginning belongs has too much to do",
    "picked": "the gateway's picker named it",
}
_TERMS = ("ahead", "own", "behind", "decode", "pressure")


class ExplainError(CommandError):
    """No router there can explain it."""


def asked(request_id: str, url: str | None) -> list[dict[str, Any]]:
    """What the router at `url` (default: of the newest `argosy up`) knows of a request, a choice at a time.

    Raises:
        ExplainError: no router answers, it wants a credential, or it does not know the request.

    """
    base = _base(url)
    path = f"{base}/fleet/requests/{quote(request_id, safe='')}"
    wanted = urllib.request.Request(path, headers=credential())  # noqa: S310 - see _base
    try:
        with urllib.request.urlopen(wanted, timeout=TIMEOUT_S) as answer:  # noqa: S310
            found = json.loads(answer.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            said = _said(error.read(10_000))
        more = f" (set {API_KEY})" if error.code == UnauthenticatedError.http_status else ""
        raise ExplainError(f"{base}: {said}{more}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ExplainError(f"no router answers at {base} ({error}); give --url") from None
    if not isinstance(found, list):
        raise ExplainError(f"{base}: what answers there is no router of Argosy")
    return found


def lines(choices: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The same for people."""
    for i, choice in enumerate(choices):
        if i:
            yield ""
        yield from _choice(choice, f", choice {i + 1} of {len(choices)}" if len(choices) > 1 else "")


def _base(url: str | None) -> str:
    if url is None:
        runs = run.live(run.home(os.environ))
        url = runs[0].http if runs else f"127.0.0.1:{DEFAULT_HTTP_PORT}"
    return (url if url.startswith(("http://", "https://")) else f"http://{url}").rstrip("/").removesuffix("/v1")


def _said(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return raw.decode(errors="replace").strip()[:300] or "no answer"


def _choice(one: Mapping[str, Any], which: str) -> Iterator[str]:
    at = datetime.fromtimestamp(one["at"], UTC).isoformat(timespec="milliseconds")
    tenant = f", tenant {one['tenant']}" if one["tenant"] else ""
    yield f"request {one['request_id']}{which}: model {one['model']}{tenant}, came {at}"
    first = one["first_token_s"]
    began = "no token yet" if first is None else f"first token after {_seconds(first)}"
    yield (
        f"{one['outcome']}: {one['prompt_tokens']} prompt tokens ({one['cached_tokens']} found cached), "
        f"{one['tokens']} generated, {began}, {_seconds(one['seconds'])} in all"
    )
    if not one["attempts"]:
        yield "it was sent to no worker"
    for number, attempt in enumerate(one["attempts"], 1):
        yield from _attempt(number, attempt)


def _attempt(number: int, attempt: Mapping[str, Any]) -> Iterator[str]:
    source = f", blocks from {attempt['source']}" if attempt["source"] else ""
    going_on = f", going on after {attempt['tokens_before']} tokens" if attempt["tokens_before"] else ""
    yield f"attempt {number}, after {_seconds(attempt['after_s'])}: {attempt['worker']}{source}{going_on}"
    why = REASONS.get(attempt["reason"], attempt["reason"])
    predicted = f"{attempt['cached_tokens']} tokens predicted to be cached"
    yield f"  {attempt['policy']}, {attempt['reason']}: {why}; {predicted}; {attempt['candidates']} candidates"
    if attempt["considered"]:
        width = max(6, *(len(c["worker"]) for c in attempt["considered"]))
        yield "  " + "".join(["worker".ljust(width), f"{'cost':>10}", *(f"{t:>10}" for t in _TERMS), f"{'cached':>10}"])
        for c in attempt["considered"]:
            terms = (_seconds(c[f"{term}_s"]) for term in ("cost", *_TERMS))
            mark = " <" if c["worker"] == attempt["worker"] else ""
            cells = "".join(f"{cell:>10}" for cell in (*terms, c["cached_tokens"]))
            yield f"  {c['worker'].ljust(width)}{cells}{mark}"
    if attempt["lost"]:
        yield f"  lost: {attempt['lost']}"


def _seconds(value: float) -> str:
    return f"{1000 * value:.1f}ms" if value < 1 else f"{value:.2f}s"
