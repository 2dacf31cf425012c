"""Makes the cluster hold what a plan says, and touches nothing that is not the resource's own.

An object is ours when the controller among its owner references is the resource (by uid); its name and labels prove
nothing. A child is made only where there is none of its name, changed by its uid, and deleted by its uid and version,
so that what somebody does meanwhile is never undone, and nothing is ever adopted.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from argosy_api.resource import KIND, InferenceDeployment
from argosy_operator.errors import ApiError, NameConflictError
from argosy_operator.heads import adapters_name
from argosy_operator.kube import KubeApi, Object
from argosy_operator.manifests import redis_secret_name
from argosy_operator.observe import Children, controller_of, fingerprint
from argosy_operator.plan import WORKLOADS, ChildRef, Owner, Plan, child_ref
from argosy_operator.words import some_of

OWN_ECHO_S = 1.0
"""After our own apply, what the watch shows may still be from before it."""
LATE_ECHO_S = 10.0
"""The same while the watch shows just what it showed then: with hundreds of new resources it is seconds behind."""
UNWATCHED = ("Secret", "ConfigMap")
"""Kinds of children that no watch tells of."""
SECRET_S = 10.0
"""How often they are looked at while a container misses a Secret."""
_DELETE_TRIES = 5


_Content = tuple[str, str]
"""Uid and fingerprint of an object."""


@dataclass(frozen=True, slots=True)
class _Applied:
    intent: str
    content: _Content
    """Of the object as it was made."""
    at: float
    before: _Content | None
    """What the watch showed then."""
    echoed: bool = False
    """The watch has shown `content` since."""


@dataclass(slots=True)
class Made:
    """What one resource's control loop has done. Losing it costs a few superfluous calls, nothing else."""

    applied: dict[ChildRef, _Applied] = field(default_factory=dict)
    absent: set[ChildRef] = field(default_factory=set)
    """Children that nobody watches and that do not exist: deleted, or never made."""
    begun: bool = False
    """A pass was made that may have made something."""
    progress: bool = False
    """Something was carried out in this pass."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far it got."""

    echo: bool
    """What the watch shows may not be the last word yet."""
    refusal: ApiError | None
    """The first thing that could not be done."""


@dataclass(frozen=True, slots=True)
class _Task:
    ref: ChildRef
    digest: str
    manifest: Object
    shown: _Content | None
    """What a watch shows of an object that is there and ours; None: none that we know of."""
    as_made: str
    """Fingerprint of what this very intent made before; empty: it did not."""


def may_exist(
    wanted: InferenceDeployment, children: Children, made: Made, is_new: Callable[[], bool]
) -> frozenset[ChildRef]:
    """Nobody watches Secrets and ConfigMaps, so they count as there until it is known that they are not.

    `is_new` is asked once: whether nobody can have made anything for the resource yet.
    """
    unwatched = {
        ChildRef("v1", "Secret", redis_secret_name(wanted)),
        ChildRef("v1", "ConfigMap", adapters_name(wanted)),
    }
    if not made.begun:
        made.begun = True
        made.absent = unwatched if is_new() else set()
    return frozenset(children.children) | (unwatched - made.absent)


async def carry_out(
    api: KubeApi, owner: Owner, intent: Plan, children: Children, made: Made, *, resync_s: float
) -> Outcome:
    """Apply what is not as it should be, then delete what should not be there."""
    made.progress = False
    tasks, echo = _tasks(intent, children, made, resync_s)
    # the workloads come last: their pods need the others
    first, last = (
        [t for t in tasks if t.ref.kind not in WORKLOADS],
        [t for t in tasks if t.ref.kind in WORKLOADS],
    )
    for group in (first, last):
        results = await asyncio.gather(*(_apply(api, owner, task, made) for task in group))
        if (refusal := _worst([r for r in results if r is not None])) is not None:
            return Outcome(echo, refusal)
    for ref in intent.delete:
        try:
            deleted = await delete_own(api, owner, ref)
        except ApiError as error:
            return Outcome(echo, _about(ref, error))
        made.progress |= deleted
        made.absent.add(ref)
        made.applied.pop(ref, None)
    return Outcome(echo or bool(tasks), None)


async def delete_own(api: KubeApi, owner: Owner, ref: ChildRef) -> bool:
    """Delete a child; whether there was one. An object of that name that is not ours stays.

    Raises:
        ApiError: the API server does not do it.

    """
    for tries in range(1, _DELETE_TRIES + 1):
        found = await api.get(ref, owner.namespace)
        if found is None or controller_of(found) != owner.uid:
            return False
        metadata = found["metadata"]
        try:
            await api.delete(ref, owner.namespace, metadata["uid"], metadata["resourceVersion"])
        except ApiError as error:
            if error.status != 409 or tries == _DELETE_TRIES:
                raise
        else:
            return True
    return False


def _tasks(intent: Plan, children: Children, made: Made, resync_s: float) -> tuple[list[_Task], bool]:
    secret_missing = any(p.waiting == "CreateContainerConfigError" for p in children.pods)
    now = time.monotonic()
    tasks = list[_Task]()
    echo = False
    for manifest in intent.apply:
        ref, digest = child_ref(manifest), _digest(manifest)
        seen, done = children.children.get(ref), made.applied.get(ref)
        shown = None if seen is None else (seen.uid, seen.fingerprint)
        if done is not None and done.intent == digest:
            if ref.kind in UNWATCHED:
                as_it_was = now - done.at < (SECRET_S if secret_missing else resync_s / 2)
            elif shown == done.content:
                as_it_was = True
                made.applied[ref] = replace(done, echoed=True)
            elif not done.echoed and now - done.at < (LATE_ECHO_S if shown == done.before else OWN_ECHO_S):
                echo = as_it_was = True
            else:
                as_it_was = False
            if as_it_was:
                continue
        as_made = done.content[1] if done is not None and done.intent == digest else ""
        tasks.append(_Task(ref, digest, manifest, shown, as_made))
    return tasks, echo


async def _apply(api: KubeApi, owner: Owner, task: _Task, made: Made) -> ApiError | None:
    made.absent.discard(task.ref)  # a call that fails may have been carried out
    try:
        result = await _make(api, owner, task)
    except ApiError as error:
        made.applied.pop(task.ref, None)
        return _about(task.ref, error)
    made.progress = True
    content = (result["metadata"]["uid"], fingerprint(result))
    made.applied[task.ref] = _Applied(task.digest, content, time.monotonic(), before=task.shown)
    return None


async def _make(api: KubeApi, owner: Owner, task: _Task) -> Object:
    """Create the object, or change the one that is ours."""
    uid = "" if task.shown is None else task.shown[0]
    if task.ref.kind in UNWATCHED and (found := await api.get(task.ref, owner.namespace)) is not None:
        if fingerprint(found) == task.as_made and controller_of(found) == owner.uid:
            return found
        uid = _own_uid(owner, found)
    if not uid:
        try:
            return await api.create(task.manifest)
        except ApiError as error:
            if error.status != 409:
                raise
            uid = await _own(api, owner, task.ref, error)
    try:
        return await api.apply(task.manifest, uid)
    except ApiError as error:
        if error.status in (409, 422) and await _own(api, owner, task.ref, error) != uid:
            raise ApiError(409, "Conflict", "it was replaced by another meanwhile") from error
        raise


async def _own(api: KubeApi, owner: Owner, ref: ChildRef, error: ApiError) -> str:
    """Uid of the object of this name, which must be ours."""
    found = await api.get(ref, owner.namespace)
    if found is None:
        raise ApiError(409, "Conflict", "it has gone meanwhile") from error
    return _own_uid(owner, found)


def _own_uid(owner: Owner, found: Object) -> str:
    if controller_of(found) != owner.uid:
        raise _conflict(owner, found)
    return str(found["metadata"]["uid"])


def _conflict(owner: Owner, found: Mapping[str, Any]) -> ApiError:
    metadata = found["metadata"]
    whose = next((o for o in metadata.get("ownerReferences") or () if o.get("controller")), None)
    if "deletionTimestamp" in metadata or (whose is not None and (whose["kind"], whose["name"]) == (KIND, owner.name)):
        return ApiError(409, "Conflict", "that of a former resource of this name is still there, and is being removed")
    whom = "nobody" if whose is None else f"{whose['kind']} {whose['name']}"
    return NameConflictError(f"exists already and belongs to {whom}")


def _about(ref: ChildRef, error: ApiError) -> ApiError:
    if isinstance(error, NameConflictError):
        return NameConflictError(f"{ref.kind} {ref.name} {error.message}")
    return ApiError(
        error.status, error.reason, f"{ref.kind} {ref.name}: {error.message}", retry_after_s=error.retry_after_s
    )


def _worst(errors: list[ApiError]) -> ApiError | None:
    """What somebody must act on comes first; conflicts of names are told together."""
    conflicts = [error.message for error in errors if isinstance(error, NameConflictError)]
    if conflicts:
        return NameConflictError(some_of(conflicts))
    return min(errors, key=lambda error: error.passing, default=None)


def _digest(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest)  # made by the same code in the same order each time: nothing need be sorted
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
