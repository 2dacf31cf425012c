"""The adapters of a worker: the list that it is told, what is in memory, and who uses it.

The list is a file that may change at any time (`argosy_api.adapters`). What is new in it is fetched and read beside the
requests; what cannot be read is told, and the others serve on. Memory is bounded: the adapter that was used least
lately, and that no request uses, makes room for another one, and is read again when it is asked for.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from argosy_api import adapters as lists
from argosy_api.errors import (
    ArgosyError,
    InvalidArgumentError,
    ModelDownloadError,
    ModelError,
    ModelInvalidError,
    ModelNotFoundError,
    ModelUnsupportedError,
    NotFoundError,
    OverloadedError,
)
from argosy_api.faults import is_fault
from argosy_api.spec.adapters import AdapterSpec
from argosy_api.worker_status import AdapterState
from argosy_worker.core.batch import Adapter

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks at the list."""
AGAIN_S = 60.0
"""Before what could not be fetched is tried again."""


@dataclass(frozen=True, slots=True)
class Read:
    """An adapter in memory."""

    adapter: Adapter
    nbytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """How adapters of the model are read; raises ModelErrors, and is called in threads."""

    read: Callable[[AdapterSpec], Read]
    budget: int | None = None
    """Bytes for all of them; None: they take none."""


def _none(spec: AdapterSpec) -> Read:
    raise ModelUnsupportedError(f"adapter {spec.name}: this worker has none")


NO_SOURCE = Source(_none)
"""Of a worker that takes none."""


@dataclass(slots=True)
class _Held:
    read: Read
    uses: int = 0
    used_at: float = field(default_factory=time.monotonic)


class Adapters:
    """Lives on the event loop. `tell` is called with the states of all that are listed, whenever one changes."""

    def __init__(self, source: Source, file: Path | None, tell: Callable[[Sequence[AdapterState]], object]) -> None:
        """`file`: with the list; None: there is none, nor ever will be."""
        self._source, self._file, self._tell = source, file, tell
        self._states: dict[AdapterSpec, AdapterState] = {}
        """In the order of the list."""
        self._failed_at: dict[AdapterSpec, float] = {}
        self._held: dict[str, _Held] = {}
        """By digest; those that are no longer listed go when there is need of room."""
        self._reading = asyncio.Lock()

    @property
    def served(self) -> dict[str, str]:
        """Name -> digest, of those that requests may ask for."""
        return {state.name: state.digest for state in self._states.values() if state.phase == "Ready"}

    async def follow(self) -> None:
        """Keep in step with the list, for ever."""
        while self._file is not None:
            try:
                await self.look()
            except Exception:  # a list that nobody follows any more would be noticed too late
                log.exception("the list of adapters")
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Bring everything in step with the list; returns when each adapter of it is ready, or has failed."""
        listed = await asyncio.to_thread(self._list)
        if listed is None:
            return
        if list(self._states) != list(listed):
            for gone in self._states.keys() - set(listed):
                log.info("adapter %s is no longer listed", gone.name)
                self._failed_at.pop(gone, None)
            self._states = {spec: self._states.get(spec, AdapterState(name=spec.name, uri=spec.uri)) for spec in listed}
            self._tell(list(self._states.values()))
        now = time.monotonic()
        for spec, state in list(self._states.items()):
            again = spec in self._failed_at and now - self._failed_at[spec] >= AGAIN_S
            if state.phase == "Loading" or again:
                await self._load(spec, state)

    @contextlib.asynccontextmanager
    async def using(self, digest: str) -> AsyncIterator[Adapter | None]:
        """The adapter with this digest, which stays in memory meanwhile; None for the model alone (an empty digest).

        Raises:
            NotFoundError: there is none (any more).
            OverloadedError: there is no room to read it in again.

        """
        if not digest:
            yield None
            return
        held = self._held.get(digest)
        if held is None:
            held = await self._read_again(digest)
        held.uses += 1
        held.used_at = time.monotonic()
        try:
            yield held.read.adapter
        finally:
            held.uses -= 1

    # --- inside

    def _list(self) -> Sequence[AdapterSpec] | None:
        """What the file says; nothing where there is none. None: it cannot be understood, so nothing changes."""
        if self._file is None:
            return ()
        try:
            return lists.parse(self._file.read_text())
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, InvalidArgumentError) as error:
            log.warning("the list of adapters cannot be read: %s", error)
            return None

    async def _load(self, spec: AdapterSpec, state: AdapterState) -> None:
        self._failed_at.pop(spec, None)
        try:
            digest = (await self._keep(spec)).read.adapter.digest
            nbytes = self._held[digest].read.nbytes
            found = _changed(state, phase="Ready", digest=digest, nbytes=nbytes, reason="", message="")
            log.info("adapter %s is ready: %s, %d bytes", spec.name, digest, nbytes)
        except ArgosyError as error:
            reason = error.reason if isinstance(error, ModelError) else "AdapterTooLarge"
            if state.message != error.message:
                log.warning("adapter %s: %s", spec.name, error.message)
            found = _changed(state, phase="Failed", reason=reason, message=error.message)
            if isinstance(error, ModelDownloadError | ModelNotFoundError | OverloadedError):  # which may pass
                self._failed_at[spec] = time.monotonic()
        if spec in self._states:
            self._states[spec] = found
            self._tell(list(self._states.values()))

    async def _read_again(self, digest: str) -> _Held:
        spec = next((spec for spec, state in self._states.items() if state.digest == digest), None)
        if spec is None:
            raise NotFoundError("adapter: is not served here any more")
        try:
            held = await self._keep(spec)
        except ModelError as error:
            raise NotFoundError(f"adapter: {spec.name} cannot be read any more: {error.message}") from error
        if held.read.adapter.digest != digest:
            raise NotFoundError(f"adapter: {spec.name} is another one now")
        return held

    async def _keep(self, spec: AdapterSpec) -> _Held:
        """Read an adapter, and make room for it. Raises ModelErrors, and OverloadedError where all are in use."""
        async with self._reading:
            try:
                read = await asyncio.to_thread(self._source.read, spec)
            except ModelError:
                raise
            except Exception as error:
                if not is_fault(error):
                    raise
                log.exception("adapter %s", spec.name)
                raise ModelInvalidError(f"its files cannot be read: {type(error).__name__}") from error
            known = self._held.get(read.adapter.digest)
            if known is not None:
                return known
            self._make_room(read.nbytes)
            held = self._held[read.adapter.digest] = _Held(read)
            return held

    def _make_room(self, nbytes: int) -> None:
        budget = self._source.budget
        if budget is None:
            return
        listed = set(self.served.values())
        idle = sorted(
            (digest for digest, held in self._held.items() if not held.uses),
            key=lambda digest: (digest in listed, self._held[digest].used_at),
        )
        taken = sum(held.read.nbytes for held in self._held.values())
        for digest in idle:
            if taken + nbytes <= budget:
                break
            taken -= self._held.pop(digest).read.nbytes
        if taken + nbytes > budget:
            raise OverloadedError(
                f"adapters that are in use take {taken} bytes, and it takes {nbytes}; engine.adapterMemory is {budget}"
            )


def _changed(state: AdapterState, **changes: object) -> AdapterState:
    """The same state with other fields."""
    return state.model_copy(update=changes)
