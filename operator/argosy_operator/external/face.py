"""Serves what autoscaling goes by to autoscalers that are not ours, in a thread and an event loop of its own.

Every operator does, whether it leads or not: a question changes nothing, and while another one takes the lead, the API
server still gets its answers. In a thread, since Kopf ends whatever begins in its loop at the end of each term.
"""

import asyncio
import logging
import threading

import aiohttp

from argosy_api import net
from argosy_kube import http as kube_http
from argosy_kube.access import Access
from argosy_kube.http import HttpTransport
from argosy_operator.background import Background
from argosy_operator.external.keda import ScalerServer
from argosy_operator.external.server import MetricsServer
from argosy_operator.external.source import Source
from argosy_operator.metrics import Health
from argosy_operator.routers import Routers
from argosy_operator.settings import Settings

log = logging.getLogger(__name__)


class Face:
    """The servers that the settings name."""

    def __init__(self, settings: Settings, access: Access, health: Health) -> None:
        """Listen, and answer from now on.

        Raises:
            OSError: a port is taken.

        """
        self._settings, self._access, self._health = settings, access, health
        metrics = settings.external_metrics
        if settings.keda_port and (problem := net.why_not(settings.host, settings.keda_port)):
            raise OSError(f"port {settings.keda_port}: {problem}")
        self._listening = None if metrics is None else net.listen(settings.host, metrics.port)
        self.metrics_port = 0 if self._listening is None else self._listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self.scaler: ScalerServer | None = None
        self._thread = threading.Thread(target=self._serve, name="external metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more, and free the ports."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._listening is not None:
            self._listening.close()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        settings, background = self._settings, Background(self._health)
        others = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
        # what is asked here changes nothing, so it needs no lease: reviews are questions, though they are POSTs
        async with kube_http.session(self._access) as kube, others:
            routers = Routers(others, settings.router_status_url, lambda _: None)
            source = Source(routers)
            background.keep("the questions to routers for external metrics", routers.run)
            if settings.external_metrics is not None and self._listening is not None:
                api = HttpTransport(kube, self._access)
                metrics = MetricsServer(api, settings.external_metrics, source, self._listening)
                background.keep("the server of external metrics", metrics.run)
            if settings.keda_port is not None:
                self.scaler = ScalerServer(source, settings.host, settings.keda_port)
                background.keep("the external scaler", self.scaler.run)
            await self._stop.wait()
            await background.end()
