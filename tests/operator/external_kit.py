"""What the tests of external metrics share: routers that tell what they are told to, and an API server's certificates."""

import asyncio
import copy
import json
import ssl
from dataclasses import replace
from pathlib import Path

import aiohttp
import authority

from argosy_api.routes import Demand, DeploymentRoutes, Routes, RouteState, WorkerLoad, WorkerRoute
from argosy_kube.reflector import WatchError
from argosy_operator.external.callers import CONFIG_PATH
from argosy_operator.settings import ExternalMetrics

SETTINGS = ExternalMetrics(namespace="argosy", service="metrics", secret="metrics", port=0)
LOAD = WorkerLoad(age_s=1.0, requests=3, queue_s=1.5, kv_used=0.25, prefill_rate=1000.0, itl_s=0.02)
QUIET = Demand()
ROOT = "/apis/external.metrics.k8s.io/v1beta1"


def routes(*loads: WorkerLoad | None, state=RouteState.READY, demand: Demand | None = QUIET, name="m") -> Routes:
    """What a router says of one resource, with a worker for each load."""
    workers = tuple(
        WorkerRoute(worker_id=f"w{i}", revision="r", state=state, indexed_blocks=0, load=load)
        for i, load in enumerate(loads)
    )
    one = DeploymentRoutes(
        namespace="default", name=name, served_name=name, policy="kvAware", workers=workers, demand=demand
    )
    return Routes((one,))


class Teller:
    """`routes` is what /routes answers; None: 404."""

    def __init__(self, found: Routes | None) -> None:
        self.routes = found

    async def url(self, serve) -> str:
        port = await serve(lambda _: None if self.routes is None else json.loads(self.routes.to_json()))
        return f"http://127.0.0.1:{port}/routes"


class Authority(authority.Authority):
    """That of the API server's aggregation layer."""

    def config_map(self, names: str = '["front-proxy"]') -> dict:
        """As kube-apiserver writes it."""
        return {
            "data": {
                "requestheader-client-ca-file": self.pem,
                "requestheader-allowed-names": names,
                "requestheader-username-headers": '["X-Remote-User"]',
                "requestheader-group-headers": '["X-Remote-Group"]',
                "requestheader-uid-headers": '["X-Remote-Uid"]',
                "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
            }
        }


class Objects:
    """An API server with the few objects that are asked of it, and reviews that `may` decides."""

    def __init__(self, authority: Authority) -> None:
        self.objects = {
            CONFIG_PATH: authority.config_map(),
            "/api/v1/namespaces/argosy/secrets/metrics": {"metadata": {"name": "metrics"}, "type": "Opaque"},
            f"/apis/apiregistration.k8s.io/v1/apiservices/{ROOT.rpartition('/')[2]}.external.metrics.k8s.io": {
                "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
                "spec": {"group": "external.metrics.k8s.io", "service": {"namespace": "argosy", "name": "metrics"}},
            },
        }
        self.may = lambda spec: True
        self.reviews: list[dict] = []
        self.writes: list[str] = []
        self.reads = 0

    async def get(self, path: str, params: dict) -> dict:
        self.reads += 1
        if path not in self.objects:
            raise WatchError(404, path)
        return copy.deepcopy(self.objects[path])

    async def write(self, method: str, path: str, document: dict) -> dict:
        path = path.partition("?")[0]
        if path.endswith("subjectaccessreviews"):
            assert method == "POST"
            self.reviews.append(document["spec"])
            return {**document, "status": {"allowed": self.may(document["spec"])}}
        assert method == "PUT"
        assert path in self.objects
        self.writes.append(path)
        self.objects[path] = document
        return document

    @property
    def secret(self) -> dict:
        return self.objects["/api/v1/namespaces/argosy/secrets/metrics"]

    @property
    def api_service(self) -> dict:
        return next(found for path, found in self.objects.items() if "apiservices" in path)


async def ask(port: int, path: str, *, trust: bytes | str, client: Path | None, headers: dict | None = None):
    """(status, content type, JSON) of a GET, as the API server sends it: for a user, by the Service's name."""
    context = ssl.create_default_context(cadata=trust if isinstance(trust, str) else trust.decode())
    if client is not None:
        context.load_cert_chain(client)
    given = {"X-Remote-User": "hpa", "X-Remote-Group": "g", **(headers or {})}
    connector = aiohttp.TCPConnector(ssl=context)
    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"https://127.0.0.1:{port}{path}", headers=given, server_hostname="metrics.argosy.svc") as answer,
    ):
        return answer.status, answer.headers["Content-Type"], await answer.json(content_type=None)


def old(load: WorkerLoad) -> WorkerLoad:
    """The same, from an hour ago."""
    return replace(load, age_s=3600.0)
