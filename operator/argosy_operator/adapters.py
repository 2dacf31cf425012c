"""What became of a resource's adapters: pure functions of the list and of what its workers say."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from argosy_api import adapters as lists
from argosy_api.spec.adapters import AdapterSpec
from argosy_api.status import AdapterStatus
from argosy_api.worker_status import AdapterState
from argosy_operator.diagnose import Reason
from argosy_operator.words import quote, some_of

_QUOTE = 300

Said = Mapping[str, Sequence[AdapterState]]
"""Of each ready worker of the current revision, by pod."""


def digest_of(wanted: Sequence[AdapterSpec]) -> str:
    """Of the list; empty for an empty one."""
    text = lists.to_json(wanted)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest() if wanted else ""


def follows(said: Sequence[AdapterState], wanted: Sequence[AdapterSpec]) -> bool:
    """Whether a worker has seen the list."""
    return [(a.name, a.uri) for a in said] == [(a.name, a.uri) for a in wanted]


def is_settled(said: Sequence[AdapterState], wanted: Sequence[AdapterSpec]) -> bool:
    """Whether nothing else is to be expected of a worker, as long as nobody changes the list."""
    return follows(said, wanted) and all(a.phase == "Ready" for a in said)


def statuses(wanted: Sequence[AdapterSpec], said: Said) -> list[AdapterStatus]:
    """Of each adapter of the list."""
    return [_status(adapter, said) for adapter in wanted]


def judge(statuses: Sequence[AdapterStatus]) -> tuple[str, Reason, str]:
    """Status, reason and message of the condition about them."""
    failed = [one for one in statuses if one.state == "Failed"]
    if failed:
        text = f"{failed[0].name}: {failed[0].message}"
        more = f" So have {some_of([one.name for one in failed[1:]])}." if failed[1:] else ""
        return "False", Reason.ADAPTER_FAILED, f"An adapter cannot be served; the others are. {text}{more}"
    waiting = [one.name for one in statuses if one.state == "Loading"]
    if waiting:
        return "Unknown", Reason.ADAPTERS_LOADING, f"Not all workers have loaded {some_of(waiting)} yet."
    return "True", Reason.ADAPTERS_LOADED, f"All workers serve all {len(statuses)} adapters."


def _status(adapter: AdapterSpec, said: Said) -> AdapterStatus:
    found = {pod: _of(adapter, states) for pod, states in sorted(said.items())}
    ready = sum(state is not None and state.phase == "Ready" for state in found.values())
    failed = next(((pod, s) for pod, s in found.items() if s is not None and s.phase == "Failed"), None)
    state: Literal["Ready", "Loading", "Failed"] = "Ready" if found and ready == len(found) else "Loading"
    if failed is None:
        return AdapterStatus(name=adapter.name, state=state, ready_replicas=ready)
    pod, why = failed
    text = f"{pod} says: {quote(why.message, _QUOTE)}"
    return AdapterStatus(name=adapter.name, state="Failed", ready_replicas=ready, reason=why.reason, message=text)


def _of(adapter: AdapterSpec, states: Sequence[AdapterState]) -> AdapterState | None:
    return next((s for s in states if (s.name, s.uri) == (adapter.name, adapter.uri)), None)
