"""A lease: who may write when, on clocks that the test turns."""

import asyncio
import copy

import pytest
from aiohttp import web

from argosy_kube import http as kube_http
from argosy_kube.access import Access
from argosy_kube.lease import Elector, LeaseTerms
from argosy_kube.reflector import WatchError


class Api:
    """One lease on a server, with the versions that a server counts."""

    def __init__(self):
        self.lease, self.version, self.away = None, 1, False
        self.calls = []

    async def get(self, path, params):
        self._answer("GET", path)
        if self.lease is None:
            raise WatchError(404, "none")
        return copy.deepcopy(self.lease)

    async def write(self, method, path, document):
        self._answer(method, path)
        version = document["metadata"].get("resourceVersion")
        if (method == "POST") != (self.lease is None) or (version and version != str(self.version)):
            raise WatchError(409, "somebody was faster")
        self.version += 1
        metadata = {**document["metadata"], "resourceVersion": str(self.version)}
        self.lease = {**copy.deepcopy(document), "metadata": metadata}
        return copy.deepcopy(self.lease)

    def _answer(self, method, path):
        self.calls.append((method, path))
        if self.away:
            raise WatchError(0, "no answer")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class World:
    """Electors of one lease, each with a clock of its own."""

    def __init__(self):
        self.api = Api()
        self.clocks = {}

    def elector(self, name, identity=""):
        self.clocks[name] = Clock()
        terms = LeaseTerms(namespace="n", name="l", identity=identity or name, duration_s=15)
        return Elector(self.api, terms, clock=self.clocks[name])

    def later(self, seconds):
        for clock in self.clocks.values():
            clock.now += seconds


async def test_the_first_takes_it_and_the_second_waits():
    world = World()
    a, b = world.elector("a"), world.elector("b")
    assert await a._tried()
    assert not await b._tried()
    assert (a.may_write(), b.may_write()) == (True, False)
    assert (a.holder, b.holder) == ("a", "a")
    spec = world.api.lease["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", 15, 0)
    assert world.api.calls[-1] == ("GET", "/apis/coordination.k8s.io/v1/namespaces/n/leases/l")


async def test_who_holds_it_writes_no_more_before_anybody_else_may_take_it():
    world = World()
    a, b = world.elector("a"), world.elector("b")
    await a._tried()
    await b._tried()
    world.later(9.9)
    assert a.may_write()
    world.later(0.2)  # a stands still, or hears nothing: 15 s less a margin of 5
    assert not a.may_write()
    assert not await b._tried()
    world.later(4.8)
    assert not await b._tried()
    world.later(0.2)
    assert await b._tried()
    assert (a.may_write(), b.may_write()) == (False, True)
    assert world.api.lease["spec"]["leaseTransitions"] == 1


async def test_clocks_that_differ_by_hours_change_nothing():
    world = World()
    a, b = world.elector("a"), world.elector("b")
    world.clocks["b"].now += 1e6
    await a._tried()
    world.api.lease["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"
    assert not await b._tried()
    world.later(14)
    assert not await b._tried()
    assert await a._tried()  # renewed: b begins to count anew
    world.later(14)
    assert not await b._tried()
    world.later(14)
    assert not await b._tried()
    world.later(1.1)
    assert await b._tried()


async def test_a_renewal_counts_from_before_it_was_sent():
    world = World()
    a = world.elector("a")
    await a._tried()
    write = world.api.write

    async def slow(method, path, document):
        world.later(8)
        return await write(method, path, document)

    world.api.write = slow
    assert await a._tried()
    world.later(1.9)
    assert a.may_write()
    world.later(0.2)
    assert not a.may_write()


async def test_given_back_it_is_anybodys_at_once():
    world = World()
    a, b = world.elector("a"), world.elector("b")
    await a._tried()
    await b._tried()
    await a.release()
    assert not a.may_write()
    assert await b._tried()
    await a.release()  # not its own any more
    assert world.api.lease["spec"]["holderIdentity"] == "b"


async def test_it_is_given_back_though_a_renewal_was_given_up_halfway():
    """The server wrote it and nobody heard: what is known of it is old then."""
    world = World()
    a, b = world.elector("a"), world.elector("b")
    await a._tried()
    write = world.api.write

    async def unheard(method, path, document):
        await write(method, path, document)
        await asyncio.Event().wait()

    world.api.write = unheard
    renewing = asyncio.create_task(a._tried(renew=True))
    await asyncio.sleep(0)
    renewing.cancel()
    await asyncio.wait([renewing])
    assert world.api.version == 3
    world.api.write = write
    await a.release()
    assert world.api.lease["spec"]["holderIdentity"] == ""
    assert await b._tried()


async def test_nothing_is_given_back_that_somebody_else_has():
    world = World()
    a, b = world.elector("a"), world.elector("b")
    await a._tried()
    await b._tried()
    world.clocks["b"].now += 16
    assert await b._tried()
    await a.release()
    assert world.api.lease["spec"]["holderIdentity"] == "b"


async def test_the_same_process_after_a_restart_does_not_wait():
    world = World()
    await world.elector("a", "pod-1")._tried()
    again = world.elector("b", "pod-1")
    assert await again._tried()
    assert again.may_write()


async def test_of_two_that_take_it_at_the_same_moment_one_gets_it():
    world = World()
    electors = [world.elector(name) for name in "abcd"]
    for _ in range(20):
        await asyncio.gather(*(e._tried() for e in electors))
        writers = [e for e in electors if e.may_write()]
        assert len(writers) <= 1
        world.later(16)


class Enough(Exception):
    """`keep` has renewed often enough."""


async def kept(elector, monkeypatch, rounds=5):
    """What `keep` does in some rounds, without its pauses; whether it returned."""
    left = [rounds]

    async def soon(_):
        left[0] -= 1
        if left[0] < 0:
            raise Enough

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "sleep", soon)
        try:
            await elector.keep()
        except Enough:
            return False
    return True


async def test_while_the_server_is_away_it_is_not_lost_and_nothing_is_written(monkeypatch):
    world = World()
    a = world.elector("a")
    await a._tried()
    world.api.away = True
    world.later(100)
    assert not await kept(a, monkeypatch)
    assert not a.may_write()
    world.api.away = False
    assert not await kept(a, monkeypatch)
    assert a.may_write()
    assert world.api.lease["spec"]["leaseTransitions"] == 0


@pytest.mark.parametrize("gives_back", [True, False])
async def test_it_is_lost_when_another_one_had_it_even_if_it_is_free_again(monkeypatch, gives_back):
    world = World()
    a, b = world.elector("a"), world.elector("b")
    await a._tried()
    await b._tried()
    world.later(16)
    assert await b._tried()
    if gives_back:
        await b.release()
    assert await kept(a, monkeypatch)
    assert not a.may_write()
    assert world.api.lease["spec"]["holderIdentity"] == ("" if gives_back else "b")


async def test_a_lease_that_somebody_deleted_is_made_again(monkeypatch):
    world = World()
    a = world.elector("a")
    await a._tried()
    world.api.lease = None
    assert not await kept(a, monkeypatch)
    assert world.api.lease["spec"]["holderIdentity"] == "a"


async def test_a_session_sends_nothing_that_changes_anything_while_the_gate_is_shut():
    seen = []

    async def answer(request):
        seen.append(request.method)
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    is_open = [True]
    try:
        async with kube_http.session(Access(server=url), lambda: is_open[0]) as session:
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                async with session.request(method, url):
                    pass
            is_open[0] = False
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                with pytest.raises(kube_http.WriteRefusedError):
                    await session.request(method, url)
            async with session.get(url):
                pass
    finally:
        await runner.cleanup()
    assert seen == ["GET", "POST", "PUT", "PATCH", "DELETE", "GET"]


async def test_the_gate_is_asked_again_when_the_body_is_written():
    bodies = []

    async def answer(request):
        bodies.append(await request.json())
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    answers = iter([True, True, True, False])
    try:
        async with kube_http.session(Access(server=url), lambda: next(answers)) as session:
            async with session.patch(url, json={"n": 1}):
                pass
            with pytest.raises(kube_http.WriteRefusedError):
                async with asyncio.timeout(30):
                    await session.patch(url, json={"n": 2})
    finally:
        await runner.cleanup()
    assert bodies == [{"n": 1}]


async def test_the_gate_is_asked_after_the_connection_was_made(monkeypatch):
    """Making one takes time, and the process may stand still in it."""
    is_open = [True]
    import aiohttp

    async def made(self, req, traces, timeout):
        is_open[0] = False

        class Connection:
            def release(self):
                pass

        return Connection()

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", made)
    async with kube_http.session(Access(server="http://x"), lambda: is_open[0]) as session:
        with pytest.raises(kube_http.WriteRefusedError):
            await session.post("http://x/y")
