"""Whether a user may: the API server is asked, for it knows the roles (SubjectAccessReview)."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote

from argosy_api.errors import ArgosyError, UnavailableError
from argosy_kube.reflector import WatchError
from argosy_operator.external.callers import Caller
from argosy_operator.external.documents import GROUP, VERSION

PATH = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
GOOD_FOR_S = 10.0
"""For how long an answer counts, as in Kubernetes' own aggregated API servers."""
TIMEOUT_S = 5.0
MOST = 1024
"""Answers that are remembered."""


class ForbiddenError(ArgosyError):
    """The user may not do that."""

    status = "PERMISSION_DENIED"
    http_status = 403
    reason = "Forbidden"


class ReviewApi(Protocol):
    """What is asked of the API server. Raises `WatchError`."""

    async def write(self, method: str, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """POST an object; as it is then."""
        ...


class Reviews:
    """Asks, and remembers the answers for a moment."""

    def __init__(self, api: ReviewApi, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._clock = api, clock
        self._known: dict[tuple[Caller, str, str], tuple[float, bool]] = {}

    async def check(self, caller: Caller, *, path: str = "", namespace: str = "", metric: str = "") -> None:
        """Return if he may read this path of discovery, or this metric in this namespace.

        Raises:
            ForbiddenError: he may not.
            UnavailableError: the API server did not tell.

        """
        key = (caller, path or namespace, metric)
        at, allowed = self._known.get(key, (float("-inf"), False))
        if self._clock() - at > GOOD_FOR_S:
            allowed = await self._ask(caller, path, namespace, metric)
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[key] = (self._clock(), allowed)
        if not allowed:
            what = path or f"list {metric}.{GROUP} in the namespace {namespace}"
            raise ForbiddenError(f"user {caller.user!r} may not {'get ' if path else ''}{what}")

    async def _ask(self, caller: Caller, path: str, namespace: str, metric: str) -> bool:
        spec: dict[str, Any] = {"user": caller.user, "groups": list(caller.groups)}
        if caller.uid:
            spec["uid"] = caller.uid
        if caller.extra:
            # the API server escapes names of extra fields, since headers cannot have every character
            spec["extra"] = {unquote(name): list(values) for name, values in caller.extra}
        if path:
            spec["nonResourceAttributes"] = {"path": path, "verb": "get"}
        else:
            # a question without a name is a list to the API server, whatever discovery calls it
            spec["resourceAttributes"] = {
                "namespace": namespace, "verb": "list", "group": GROUP, "version": VERSION, "resource": metric,
            }  # fmt: skip
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._api.write("POST", PATH, review)
        except (WatchError, TimeoutError) as error:
            raise UnavailableError("whether this is allowed could not be asked of the API server") from error
        return (answer.get("status") or {}).get("allowed") is True
