"""The history of a resource's revisions, kept in the cluster as ControllerRevisions. Pure.

A revision is what worker pods are made of, to the last field, so that taking a change back makes exactly the pods that
were there before, also where the operator's own settings were what changed. Its data never change; what became of it
is in a label and in annotations, which only this operator writes.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from argosy_api import labels
from argosy_api.resource import GROUP

Manifest = dict[str, Any]
API_VERSION, KIND = "apps/v1", "ControllerRevision"
GOOD, FAILED, PENDING, AGAIN = "good", "failed", "pending", "again"
UNDECIDED, PROVEN = (PENDING, AGAIN), (GOOD, AGAIN)
_BEGAN, _WHY, _STEP, _SINCE = (f"{GROUP}/{name}" for name in ("began", "why", "step", "step-since"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What pods are made of, and what became of it."""

    hash: str
    number: int
    """Grows each time the resource comes to say something else."""
    templates: str
    """JSON: role -> pod template. Text, for a thousand resources' histories are kept in memory."""
    state: str = PENDING
    """`good`: all workers were of it, and could be routed to. `failed`: it was taken back. Else `pending`, or `again`
    where it was good before."""
    began: int = 0
    """When the resource came to say so: whole seconds since the epoch."""
    why: str = ""
    """Of a failed one."""
    step: int = 0
    """Steps of a canary that are behind it."""
    step_since: int = 0
    """When all workers of the present step could be routed to; 0: not yet."""

    @property
    def by_role(self) -> dict[str, Manifest]:
        """Role -> pod template."""
        templates: dict[str, Manifest] = json.loads(self.templates)
        return templates

    def manifest(self, head: Manifest, by_role: Mapping[str, Manifest] | None = None) -> Manifest:
        """The ControllerRevision; `head` has its name, owner and common labels. `by_role`: what was read, if it was."""
        metadata = head["metadata"]
        about = {labels.REVISION: self.hash, labels.STATE: self.state}
        told = {_BEGAN: self.began, _STEP: self.step, _SINCE: self.step_since, _WHY: self.why}
        notes = {name: str(value) for name, value in told.items() if value}
        return {
            **head,
            "metadata": {**metadata, "labels": {**metadata["labels"], **about}, "annotations": notes},
            "revision": self.number,
            "data": {"templates": self.by_role if by_role is None else by_role},
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "Revision | None":
        """Read a ControllerRevision; None where it is none that `manifest` makes."""
        metadata = body["metadata"]
        marks, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
        templates = (body.get("data") or {}).get("templates")
        if not isinstance(templates, Mapping) or not marks.get(labels.REVISION):
            return None
        state = marks.get(labels.STATE)
        return cls(
            hash=marks[labels.REVISION],
            number=int(body.get("revision", 0)),
            templates=text_of(templates),
            state=state if state in (GOOD, FAILED, AGAIN) else PENDING,
            began=_number(notes.get(_BEGAN)),
            why=str(notes.get(_WHY, "")),
            step=_number(notes.get(_STEP)),
            step_since=_number(notes.get(_SINCE)),
        )


def _number(text: Any) -> int:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 16 else 0


History = tuple[Revision, ...]
"""The latest last; the one that the resource asks for is the last."""


def text_of(templates: Mapping[str, Any]) -> str:
    """Pod templates by role, as a revision keeps them."""
    return json.dumps(templates, sort_keys=True, separators=(",", ":"))


def with_target(history: Iterable[Revision], name: str, templates: str, now: float) -> History:
    """The history once the resource asks for the revision `name`: it is the last, and tried anew if it was not."""
    before = sorted((r for r in history if r.hash != name), key=lambda r: r.number)
    known = next((r for r in history if r.hash == name), None)
    latest = before[-1].number if before else 0
    if known is None or known.number <= latest:
        # what there was of the same name was of the same, and data of a ControllerRevision can't be changed
        text = templates if known is None else known.templates
        state = AGAIN if known is not None and known.state in PROVEN else PENDING
        known = Revision(hash=name, number=latest + 1, templates=text, state=state, began=int(now))
    return (*before, known)


def base_of(history: History) -> Revision | None:
    """The revision to go back to from the last: the latest good one whose pods have the same roles."""
    *before, target = history
    proven = [r for r in before if r.state in PROVEN]
    if not proven:
        return None  # as with most resources: their templates need not be read
    roles = target.by_role.keys()
    fit = [r for r in proven if r.by_role.keys() == roles]
    return max(fit, key=lambda r: (r.state == GOOD, r.number), default=None)


def pruned(history: History, limit: int, in_use: Collection[str] = ()) -> History:
    """At most `limit` revisions beside the last, of those that were good; and the one to go back to, and those that
    workers are of.
    """
    *before, target = history
    good = [r for r in before if r.state in PROVEN][-limit:]
    base = base_of(history)
    keep = {*in_use, *(r.hash for r in good)} | ({base.hash} if base is not None else set())
    return (*(r for r in before if r.hash in keep), target)
