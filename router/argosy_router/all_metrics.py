"""All that there is to scrape, in one place: the router's series, and those of its workers.

Workers whose metrics port the router knows (`argosy up` tells it) are asked for their page. Of others, as in a cluster,
where Prometheus asks each pod itself, it knows what they report: that is told for the whole deployment, under the names
that the Inference Extension's picker asks for. So this page is no page for a Prometheus that scrapes the workers, too.
"""

import asyncio
from collections.abc import Iterable, Iterator

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from argosy_api import metric_names as names
from argosy_api.errors import UnauthenticatedError
from argosy_router.clock import now
from argosy_router.exposition import merged
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fronts.credentials import TENANT
from argosy_router.metrics import Metrics
from argosy_router.service import Service

MAX_WAIT_S = 2.0
"""A worker that takes longer is left out."""
_ADMIN = "metrics tell of all requests: this needs an admin's credential (docs/metrics.md); the metrics port needs none"


class AllMetrics:
    """The page, with and without a look at who asks."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    async def for_anybody(self, _: web.Request) -> web.Response:
        """On the metrics port, which clients do not reach."""
        return web.Response(body=await self._page(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def for_admins(self, request: web.Request) -> web.Response:
        """On the clients' port.

        Raises:
            UnauthenticatedError: the caller may not see what tells of others' requests.

        """
        if not self._service.tells(request[TENANT]):
            raise UnauthenticatedError(_ADMIN)
        return await self.for_anybody(request)

    async def _page(self) -> bytes:
        asked, told = list[tuple[str, str]](), list[DeploymentState]()
        for state in self._service.fleet.deployments:
            workers = [(w.worker_id, w.spec.metrics) for w in state.workers.values() if w.spec.metrics]
            asked += workers
            if not workers:
                told.append(state)
        mine = [generate_latest(self._metrics.registry), generate_latest(_Reported(told))]
        pages = [("", page.decode()) for page in mine]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=MAX_WAIT_S), trust_env=False) as session:
            found = await asyncio.gather(*(_asked(session, address) for _, address in asked))
        pages += [(worker, page) for (worker, _), page in zip(asked, found, strict=True) if page]
        return merged(pages).encode()


async def _asked(session: aiohttp.ClientSession, address: str) -> str:
    """A worker's page; empty where it does not answer."""
    try:
        async with session.get(f"http://{address}/metrics") as answer:
            return await answer.text() if answer.status == 200 else ""
    except (aiohttp.ClientError, OSError, UnicodeDecodeError):  # a timeout is an OSError too
        return ""


class _Reported:
    """What the workers of deployments report, summed up."""

    def __init__(self, states: Iterable[DeploymentState]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        label = ["model_name"]
        running = GaugeMetricFamily(names.VLLM_RUNNING, "Requests that run at its workers", labels=label)
        waiting = GaugeMetricFamily(names.VLLM_WAITING, "Requests that wait at its workers", labels=label)
        used = GaugeMetricFamily(
            names.VLLM_KV_USED, "Of its workers' KV blocks, those that requests hold", labels=label
        )
        time = now()
        for state in self._states:
            loads = [load for w in state.workers.values() if (load := w.fresh_load(time)) is not None]
            running.add_metric([state.name], sum(load.running for load in loads))
            waiting.add_metric([state.name], sum(load.waiting for load in loads))
            blocks = sum(load.total_blocks for load in loads)
            used.add_metric([state.name], sum(load.used_blocks for load in loads) / blocks if blocks else 0.0)
        yield from (running, waiting, used)
