"""Two operators, one lease: whoever does not have it changes nothing, whatever happens to whom.

Each operator comes to the fake API server by an address of its own, so that the server knows who writes; it notes each
write by somebody whose lease it is not, or whose lease has run out since it was last renewed.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import time

import fakecluster
from fakeapi import ApiError, Key
from operator_kit import MUTATING, document
from test_scale import kubeconfig
from waiting import eventually
from whole import WHOLE

from argosy_kube.lease import LeaseTerms
from argosy_operator.metrics import page

LEASE = Key(fakecluster.LEASES, "argosy", "operator")
CLEAN, CUT_OFF, STOPPED = (78, 8, 14) if WHOLE else (16, 2, 3)
"""Hand-overs: after an orderly end, after the holder hears nothing any more, after SIGSTOP. 100 in all, or some."""


def lease_of(world) -> dict:
    return world.server.objects.get(LEASE, {}).get("spec", {})


def holder(world) -> str:
    return lease_of(world).get("holderIdentity", "")


class Judge:
    """A hook of the server: who wrote, and who should not have."""

    def __init__(self, world, duration_s: float) -> None:
        self.world, self.duration_s = world, duration_s
        self.names: dict[int, str] = {}
        self.writes: dict[str, int] = {}
        self.wrong: list[str] = []
        self.deaf: set[str] = set()
        """Who gets no answer."""
        self.stop_after = 0
        """The process that makes the last of so many writes is stopped right then."""
        self.stopped = ""
        """Which one that was."""
        self.pids: dict[str, int] = {}
        self._renewed = (0.0, "")
        world.server.hooks.append(self)

    async def door(self, name: str) -> str:
        """An address for this operator alone."""
        url = await self.world.server.door()
        self.names[int(url.rpartition(":")[2])] = name
        return url

    async def __call__(self, request, phase: str) -> None:
        if phase == "before":  # afterwards the client may have gone
            request["who"] = self.names[request.transport.get_extra_info("sockname")[1]]
        name = request["who"]
        if name in self.deaf:
            raise ApiError(503, "ServiceUnavailable", "cut off")
        if request.method not in MUTATING:
            return
        if "/leases" in request.path:
            if phase == "after" and holder(self.world) == name:
                self._renewed = (time.monotonic(), name)
            return
        if phase == "before":
            await request.read()  # without its body it is no write
            at, whose = self._renewed
            if holder(self.world) != name or whose != name:
                self.wrong.append(f"{name} {request.method} {request.path}: the lease is {holder(self.world)!r}'s")
            elif time.monotonic() - at > self.duration_s:
                self.wrong.append(f"{name} {request.method} {request.path}: the lease has run out")
            self.writes[name] = self.writes.get(name, 0) + 1
            if self.stop_after and name in self.pids:
                self.stop_after -= 1
                if not self.stop_after:
                    self.stopped = name
                    os.kill(self.pids[name], signal.SIGSTOP)

    async def succeeds(self, former: str) -> str:
        """Wait until another one has the lease and writes; who it is."""
        await eventually(lambda: holder(self.world) not in ("", former), what="another one has the lease")
        name = holder(self.world)
        before = self.writes.get(name, 0)
        await eventually(lambda: self.writes.get(name, 0) > before or holder(self.world) != name, what="it writes")
        return name


@contextlib.asynccontextmanager
async def changes(world):
    """Somebody changes a resource all the time, so that there is always something to write."""

    async def change() -> None:
        for number in itertools.count():
            world.apply(document(replicas=1 + number % 3, drain={"timeoutSeconds": 1 + number % 2}))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(change())
    try:
        yield
    finally:
        task.cancel()


async def test_one_operates_the_other_waits_and_takes_over(world):
    judge = Judge(world, 2)
    terms = {name: LeaseTerms(namespace="argosy", name="operator", identity=name, duration_s=2) for name in "ab"}
    running = {name: await world.operator(url=await judge.door(name), lease=terms[name]) for name in "ab"}
    await eventually(lambda: holder(world))
    first = holder(world)
    other = "ab".replace(first, "")
    await eventually(lambda: running[first].metrics.leader._value.get() == 1)
    assert {name: o.metrics.leader._value.get() for name, o in running.items()} == {first: 1, other: 0}
    for o in running.values():  # who waits is ready, too
        await eventually(lambda o=o: page(o.metrics, o.health, "/readyz")[0] == 200)
        assert page(o.metrics, o.health, "/healthz")[0] == 200
    world.apply(document())
    await eventually(world.is_ready)
    await world.stop(running.pop(first))
    assert holder(world) in ("", other)  # given back
    world.apply(document(replicas=2))
    await eventually(lambda: world.is_ready() and world.status().get("ready") == "2/2")
    assert judge.wrong == []
    assert judge.writes.keys() == {"a", "b"}
    assert lease_of(world)["leaseTransitions"] >= 1


async def test_hand_overs_of_operators_that_end_or_hear_nothing(world):
    judge = Judge(world, 2)

    async def begin(name: str):
        terms = LeaseTerms(namespace="argosy", name="operator", identity=name, duration_s=2)
        return await world.operator(url=doors[name], lease=terms)

    doors = {name: await judge.door(name) for name in "ab"}
    running = {name: await begin(name) for name in "ab"}
    plan = [True] * CLEAN + [False] * CUT_OFF
    random.Random(7).shuffle(plan)
    async with changes(world):
        now = await judge.succeeds("")
        for clean in plan:
            former = now
            if clean:
                await world.stop(running.pop(former))
                now = await judge.succeeds(former)
                running[former] = await begin(former)
            else:
                judge.deaf.add(former)
                now = await judge.succeeds(former)
                judge.deaf.discard(former)
    assert judge.wrong == []
    assert lease_of(world)["leaseTransitions"] >= CLEAN + CUT_OFF
    await eventually(world.is_ready)


async def test_hand_overs_of_processes_that_are_stopped_in_the_middle_of_what_they_do(world, tmp_path):
    judge = Judge(world, 3)
    environment = {"ARGOSY_HOST": "127.0.0.1", "ARGOSY_METRICS_PORT": "0", "ARGOSY_LOG_LEVEL": "ERROR"}
    environment |= {"ARGOSY_LEASE": "operator", "ARGOSY_LEASE_NAMESPACE": "argosy", "ARGOSY_LEASE_SECONDS": "3"}
    processes = {}
    try:
        for name in "ab":
            (folder := tmp_path / name).mkdir()
            own = {"KUBECONFIG": str(kubeconfig(folder, await judge.door(name))), "ARGOSY_IDENTITY": name}
            processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "argosy_operator", env=os.environ | environment | own
            )
            judge.pids[name] = processes[name].pid
        chance = random.Random(11)
        async with changes(world):
            await judge.succeeds("")
            for _ in range(STOPPED):
                judge.stop_after = chance.randint(1, 12)
                await eventually(lambda: not judge.stop_after, what="it is stopped")
                await judge.succeeds(judge.stopped)
                os.kill(judge.pids[judge.stopped], signal.SIGCONT)
        assert judge.wrong == []
        assert lease_of(world)["leaseTransitions"] >= STOPPED
        await eventually(world.is_ready)
        last = holder(world)
        for name in (
            "ab".replace(last, ""),
            last,
        ):  # SIGTERM: who waits ends at once, and who has the lease gives it back
            processes[name].terminate()
            assert await asyncio.wait_for(processes[name].wait(), 60) == 0
        assert holder(world) == ""
        assert judge.wrong == []
    finally:
        for process in processes.values():
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                await process.wait()
