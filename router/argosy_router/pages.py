"""What is told beside the clients' ports: metrics, health, and which workers can be reached."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from argosy_router.all_metrics import AllMetrics
from argosy_router.clock import now
from argosy_router.metrics import Metrics
from argosy_router.routes import routes
from argosy_router.service import Service


def application(service: Service, metrics: Metrics) -> web.Application:
    """The aiohttp application."""

    async def series(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        return web.json_response({"ready": service.ready}, status=200 if service.ready else 503)

    async def reachable(_: web.Request) -> web.Response:
        return web.json_response(text=routes(service.fleet, now()).to_json())

    app = web.Application()
    app.router.add_get("/metrics", series)
    app.router.add_get("/metrics/all", AllMetrics(service, metrics).for_anybody)
    app.router.add_get("/routes", reachable)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/ready", ready)
    return app
