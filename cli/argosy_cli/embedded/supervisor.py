"""Embedded mode as a whole: Valkey, the router and all replicas, who is told of whom, and how it all ends."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from argosy_api.ending import end
from argosy_api.errors import ArgosyError
from argosy_api.membership import Deployment, Membership, RoutingPolicy
from argosy_api.orders import take
from argosy_api.resource import InferenceDeployment
from argosy_cli.embedded import assembly, orders, review, run, services, states
from argosy_cli.embedded.applying import Applier
from argosy_cli.embedded.assembly import Kept, Options, Workers
from argosy_cli.embedded.keeper import Keeper
from argosy_cli.embedded.machine import Machine
from argosy_cli.embedded.probes import Routes
from argosy_cli.embedded.process import tail
from argosy_cli.embedded.resources import Loaded
from argosy_cli.embedded.run import RunFolder
from argosy_cli.embedded.scaling import Scaler
from argosy_cli.embedded.states import ResourceState, RunState
from argosy_cli.errors import NothingServesError, StartError

ROUTER_START_S = 60.0


class Supervisor:
    """One run. Everything in one event loop; `changed` is called after each change of `state`."""

    def __init__(
        self,
        loaded: Sequence[Loaded],
        options: Options,
        *,
        machine: Machine,
        folder: RunFolder,
        environment: Mapping[str, str],
        changed: Callable[[RunState], None],
    ) -> None:
        self._folder = folder
        self._show = changed
        self._written: Membership | None = None
        self.state = RunState(
            run=folder.path.name,
            pid=os.getpid(),
            started=time.time(),
            http=options.reachable(options.http_port),
            grpc=options.reachable(options.grpc_port),
            metrics=options.reachable(options.metrics_port),
        )
        parts = assembly.assemble(
            loaded,
            options,
            machine=machine,
            folder=folder,
            environment=environment,
            state=self.state,
            changed=self._changed,
        )
        self._valkey, self._router, self._workers, self._build = parts
        self._machine, self._environment = machine, environment

    async def run(self, stop: asyncio.Event, kill: asyncio.Event) -> None:
        """Run until `stop`; then end everything in order, or at once when `kill` is set as well.

        Raises:
            NothingServesError: no replica can ever serve; the message says why.
            StartError: the router does not come up at all.

        """
        self._changed()
        # who asks for routes has ended when the session is closed: the other way round the end has a fault of its own
        async with Routes(self.state.metrics) as routes, asyncio.TaskGroup() as group:
            kept = {keeper: group.create_task(keeper.run()) for keeper in self._keepers}

            def start(one: Kept) -> None:
                kept[one.keeper] = group.create_task(one.keeper.run())

            def scale(workers: Workers) -> asyncio.Task[None]:
                return group.create_task(Scaler(workers, routes, start, changed=self._changed).run())

            applier = Applier(
                self.state, self._workers, self._build, self._check, start=start, scale=scale, changed=self._changed
            )
            applier.begin()
            watches = [group.create_task(w) for w in (self._kill_when(kill), self._follow_router())]
            mail = group.create_task(self._take_orders(applier))
            try:
                await self._router_comes_up(stop)
                await self._until(stop)
                await end(mail)
                await applier.stop()
                await self._end(kept)
            finally:
                mail.cancel()
                applier.cancel()
                for keeper in self._keepers:  # nothing is left over, whatever went wrong
                    keeper.kill()
                for watch in watches:
                    watch.cancel()

    async def _take_orders(self, applier: Applier) -> None:
        """What is asked of the run while it goes on."""
        while True:
            for order in take(self._folder.orders):
                answer = ""
                try:
                    await applier.carry_out(order)
                except ArgosyError as error:
                    answer = error.message
                except OSError as error:
                    answer = f"cannot be done: {error}"
                self.state.answers[order.key] = answer
                for old in list(self.state.answers)[: -orders.KEPT_ANSWERS]:
                    del self.state.answers[old]
                self._changed()
            await asyncio.sleep(orders.LOOK_S)

    def _check(self, wanted: Sequence[InferenceDeployment]) -> None:
        review.review([Loaded(r, r.metadata.name) for r in wanted], self._machine, self._environment)

    async def _router_comes_up(self, stop: asyncio.Event) -> None:
        """A router that ends before it was ever ready has a fault that no restart repairs."""
        state = self._router.state
        deadline = time.monotonic() + ROUTER_START_S
        while not state.ready and not stop.is_set():
            if state.phase == states.FAILED or time.monotonic() > deadline:
                said = "\n  ".join(tail(Path(state.log)))
                raise StartError(f"the router does not start: {state.message or 'no answer'}\n  {said}")
            await asyncio.sleep(services.POLL_S)

    async def _until(self, stop: asyncio.Event) -> None:
        """Until somebody ends it; or nothing of it can ever serve, and nobody would notice."""
        while not stop.is_set():
            if why := states.hopeless(self.state):
                raise NothingServesError(why)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(services.POLL_S):
                    await stop.wait()

    async def _follow_router(self) -> None:
        """A replica is ready when the router says that it routes to it, not when it says so itself."""
        async with Routes(self.state.metrics) as routes:
            while True:
                waiting = [r for w in self._workers for r in w.replicas if r.state.phase == states.CONNECTING]
                if waiting and self._router.state.ready:
                    ready = await routes.ready()
                    for replica in waiting:
                        if (replica.pod.namespace, replica.pod.name) in ready:
                            replica.routed()
                await asyncio.sleep(services.POLL_S)

    async def _end(self, kept: Mapping[Keeper, asyncio.Task[None]]) -> None:
        """The router first: it takes no new requests, and what runs may finish; then who has nothing left to do."""
        self._router.terminate()
        ends = [self._end_worker(w, k, kept) for w in self._workers for k in w.keepers]
        await asyncio.gather(*ends)
        await self._router.end()
        if self._valkey is not None:
            await self._valkey.end()
        await asyncio.gather(*kept.values())

    async def _end_worker(self, workers: Workers, keeper: Keeper, kept: Mapping[Keeper, asyncio.Task[None]]) -> None:
        drain = workers.resource.spec.drain.timeout_seconds
        done, _ = await asyncio.wait({kept[self._router]}, timeout=drain)
        keeper.terminate()
        if not done:
            keeper.terminate()  # its time is up: the second signal aborts what still runs
        await keeper.end()

    @property
    def _keepers(self) -> list[Keeper]:
        return [*filter(None, (self._valkey, self._router)), *(k for w in self._workers for k in w.keepers)]

    async def _kill_when(self, kill: asyncio.Event) -> None:
        await kill.wait()
        for keeper in self._keepers:
            keeper.kill()

    # --- what the others are told

    def _changed(self) -> None:
        """Tell the router and the state file; each is written only when it says something new."""
        membership = Membership(tuple(self._deployment(*item) for item in enumerate(self._workers)))
        if membership != self._written:
            run.write(self._folder.membership, membership.to_json())
            self._written = membership
        run.write(self._folder.state, self.state.to_json())
        self._show(self.state)

    def _deployment(self, place: int, workers: Workers) -> Deployment:
        resource = workers.resource
        return Deployment(
            namespace=resource.metadata.namespace,
            name=resource.metadata.name,
            served_name=resource.served_name,
            policy=RoutingPolicy(resource.spec.routing.policy),
            fetch_blocks=resource.spec.routing.fetch_blocks,
            share_cache=resource.spec.routing.cache_sharing == "all",
            workers=tuple(m for replica in workers.replicas if (m := replica.member()) is not None),
            message=_why_nobody(workers.state),
            created_at=self.state.started + place / 1000,  # of equal names the first would have it
            adapters=tuple(adapter.name for adapter in resource.spec.adapters),
            hold_s=resource.spec.hold_seconds,
        )


def _why_nobody(state: ResourceState) -> str:
    """For a client whose request nobody can take; says no more than a client may know."""
    if not state.replicas:
        return "the resource has 0 replicas"
    failed = [replica for replica in state.replicas if replica.phase == states.FAILED]
    if failed:
        return f"no replica runs ({failed[0].reason}); `argosy status` says more"
    return f"its replicas are on their way ({', '.join(sorted({r.phase for r in state.replicas}))})"
