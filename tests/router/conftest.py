"""Fixtures of the router's tests. The helper module is imported from here, so that tests need no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import contextlib

import aiohttp
import pytest
import pytest_asyncio
from router_kit import Cluster, FakeWorker
from waiting import eventually

from argosy_router.app import running
from argosy_router.settings import Settings


class Rig:
    """A router on free ports, fake workers, an HTTP session."""

    def __init__(self, router, cluster, session) -> None:
        self.router = router
        self.cluster = cluster
        self.http = session
        self.base = f"http://127.0.0.1:{router.http_port}"
        self.workers: list[FakeWorker] = []

    @property
    def state(self):
        return self.router.fleet.resolve(self.cluster.name)

    async def add(self, *workers: FakeWorker, wait: bool = True) -> None:
        for worker in workers:
            await worker.start()
            self.workers.append(worker)
        self.announce()
        if wait:
            await self.until_ready(len(self.workers))

    def announce(self) -> None:
        self.cluster.announce(*(w.member() for w in self.workers))

    async def until_ready(self, count: int) -> None:
        from argosy_router.clock import now

        await eventually(
            lambda: (
                self.router.fleet.known
                and sum(w.facts is not None and w.healthy(now()) for w in self.state.workers.values()) == count
            ),
            what=f"{count} workers ready",
        )

    async def until_indexed(self) -> None:
        """All workers' caches are in the index, and it counts."""
        from argosy_router.clock import now

        def whole() -> bool:
            state = self.state
            return all(
                w.worker_id in state.workers
                and state.workers[w.worker_id].index_counts(now())
                and state.index.position(w.worker_id)[2]
                and state.index.held(w.worker_id) == len(w.cached)
                and state.index.holds(w.worker_id, list(w.cached))
                for w in self.workers
            )

        await eventually(whole, what="the index equals the caches")

    async def post(self, path: str, json=None, **more):
        async with self.http.post(self.base + path, json=json, **more) as response:
            body = await response.read()
            return response, body

    async def get(self, path: str, **more):
        async with self.http.get(self.base + path, **more) as response:
            return response, await response.read()

    def idle(self) -> bool:
        return all(len(w.books) == 0 for w in self.state.workers.values())


@pytest_asyncio.fixture
async def make_rig():
    """A function that starts a rig with settings of the test's choice."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(*, policy=None, **settings) -> Rig:
            cluster = Cluster() if policy is None else Cluster(policy=policy)
            here = {"host": "127.0.0.1", "http_port": 0, "grpc_port": 0, "metrics_port": 0, "drain_seconds": 5.0}
            chosen = Settings(membership="test", **{**here, "decision_headers": True, **settings})
            router = await stack.enter_async_context(running(chosen, cluster))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            rig = Rig(router, cluster, session)

            async def stop() -> None:
                for worker in rig.workers:
                    await worker.stop()

            stack.push_async_callback(stop)
            return rig

        yield make


@pytest_asyncio.fixture
async def rig(make_rig):
    """A router with two fake workers."""
    made = await make_rig()
    await made.add(FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1"))
    return made


@pytest.fixture
def fake_worker():
    return FakeWorker
