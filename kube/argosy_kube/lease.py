"""Which of several processes may write: a `Lease` of coordination.k8s.io/v1, and fencing by the process's own clock.

Two rules make that no two write at a time, whatever stands still for however long, and without clocks being compared:

- Who has the lease may write until its duration, less a margin, has passed since *before* it sent the last renewal that
  was answered. That is asked before each write (`may_write`), so a process that was stopped finds it out by itself.
- Who wants it takes it when nobody has it, or when its duration has passed since it *saw* the lease change, on its own
  clock. That moment is always later than the one from which the holder counts.

The times in the lease are for people. A write that is under way longer than the margin is nobody's to hold back.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote

from argosy_kube.reflector import WatchError

log = logging.getLogger(__name__)

Object = dict[str, Any]
API = "coordination.k8s.io/v1"
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds on a clock that no one sets, and that also counts while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


class LeaseApi(Protocol):
    """What is asked of the API server. Everything raises `WatchError`."""

    async def get(self, path: str, params: dict[str, str]) -> Object:
        """One object."""
        ...

    async def write(self, method: str, path: str, document: Object) -> Object:
        """POST or PUT of an object; as it is then."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """Whose lease, and how long it lasts."""

    namespace: str
    name: str
    identity: str
    """Of this process, and of no other that may be alive at the same time."""
    duration_s: int = 15

    @property
    def margin_s(self) -> float:
        """How long before the end nothing is written any more."""
        return self.duration_s / 3

    @property
    def renew_s(self) -> float:
        """Seconds between renewals: three fit in before writing ends."""
        return self.duration_s / 5

    @property
    def look_s(self) -> float:
        """Seconds after which somebody who waits looks again."""
        return min(1.0, self.duration_s / 10)


@dataclass(slots=True)
class _Seen:
    spec: Object = field(default_factory=dict)
    at: float = float("-inf")


class Elector:
    """Takes a lease, keeps it and gives it back. Belongs to one event loop; `may_write` may be asked in any thread."""

    def __init__(self, api: LeaseApi, terms: LeaseTerms, *, clock: Callable[[], float] = now) -> None:
        self._api, self._terms, self._clock = api, terms, clock
        self._all = f"/apis/{API}/namespaces/{quote(terms.namespace, safe='')}/leases"
        self._path = f"{self._all}/{quote(terms.name, safe='')}"
        self._until = float("-inf")
        self._mine: Object | None = None
        """As we wrote it last, if nothing is known to have happened since."""
        self._seen = _Seen()
        self.holder = ""
        """Who has it, as far as is known."""

    def may_write(self) -> bool:
        """Whether the lease is ours for certain, at this moment. To be asked right before each write."""
        return self._clock() < self._until

    async def take(self) -> None:
        """Return when the lease is ours."""
        said = ""
        while not await self._tried():
            if self.holder != said:
                said = self.holder
                log.info("%s has the lease %s; waiting", said or "nobody known", self._terms.name)
            await asyncio.sleep(self._terms.look_s * random.uniform(0.8, 1.2))
        log.info("%s has taken the lease %s", self._terms.identity, self._terms.name)

    async def keep(self) -> None:
        """Renew it, and return when somebody else has it.

        While the API server is away it is neither renewed nor lost: nothing is written, and if it is still ours
        afterwards, nobody else has written meanwhile.
        """
        while True:
            await asyncio.sleep(self._terms.renew_s * random.uniform(0.8, 1.0))
            if not await self._tried(renew=True) and self.holder != self._terms.identity:
                self._until = float("-inf")
                log.warning("the lease %s is lost to %s", self._terms.name, self.holder or "somebody who gave it back")
                return

    async def release(self) -> None:
        """Write no more, and let another one have it at once. Should that fail, it has to wait for the end."""
        self._until = float("-inf")
        if self.holder != self._terms.identity:
            return
        try:
            async with asyncio.timeout(self._terms.renew_s):
                # a renewal that was given up halfway may have been written: then what we know of it is no longer true
                while not await self._gave_back():
                    self._mine = None
        except (WatchError, TimeoutError) as error:
            log.info("the lease %s was not given back: %s", self._terms.name, str(error) or "no answer")
        finally:
            self._mine = None

    async def _gave_back(self) -> bool:
        """Whether it is not ours now; not so where what we know of it is old."""
        found = self._mine or await self._look()
        if found is None or self.holder != self._terms.identity:
            return True
        try:
            await self._api.write(
                "PUT", self._path, {**found, "spec": {**found["spec"], "holderIdentity": "", "renewTime": _wall()}}
            )
        except WatchError as error:
            if error.status != 409:
                raise
            return False
        self.holder = ""
        return True

    async def _tried(self, *, renew: bool = False) -> bool:
        try:
            async with asyncio.timeout(self._terms.renew_s):
                return await self._try(renew=renew)
        except (WatchError, TimeoutError) as error:
            # after a conflict, or without an answer, only a look tells whose it is
            self._mine = None
            log.debug("the lease %s: %s", self._terms.name, str(error) or "no answer")
            return False

    async def _try(self, *, renew: bool) -> bool:
        """Take the lease where it may be taken, or only renew it where it is ours; whether that was done."""
        terms = self._terms
        found = self._mine or await self._look()
        began = self._clock()
        if found is None:
            fresh = {"apiVersion": API, "kind": "Lease", "metadata": {"name": terms.name}, "spec": self._spec({})}
            written = await self._api.write("POST", self._all, fresh)
        elif self.holder == terms.identity or (not renew and self._is_free(found)):
            written = await self._api.write("PUT", self._path, {**found, "spec": self._spec(found["spec"])})
        else:
            return False
        self._mine, self.holder = written, terms.identity
        self._until = began + terms.duration_s - terms.margin_s
        return True

    async def _look(self) -> Object | None:
        try:
            found = await self._api.get(self._path, {})
        except WatchError as error:
            if error.status != 404:
                raise
            self.holder = ""
            return None
        spec = found["spec"] = found.get("spec") or {}
        self.holder = str(spec.get("holderIdentity") or "")
        if spec != self._seen.spec:
            self._seen = _Seen(dict(spec), self._clock())
        return found

    def _is_free(self, lease: Object) -> bool:
        spec = lease["spec"]
        if not self.holder:
            return True
        return self._clock() - self._seen.at > float(spec.get("leaseDurationSeconds") or self._terms.duration_s)

    def _spec(self, before: Object) -> Object:
        ours = before.get("holderIdentity") == self._terms.identity
        return {
            **before,
            "holderIdentity": self._terms.identity,
            "leaseDurationSeconds": self._terms.duration_s,
            "renewTime": _wall(),
            "acquireTime": before.get("acquireTime") if ours else _wall(),
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (not ours and bool(before)),
        }


def _wall() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
