"""The real API server, asked for dry runs over one connection pool: hundreds of questions take seconds."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import aiohttp

from argosy_kube import access
from argosy_kube.http import session

AT_ONCE = 16
PLURALS = {
    "Deployment": "apis/apps/v1/namespaces/{}/deployments",
    "ConfigMap": "api/v1/namespaces/{}/configmaps",
    "StatefulSet": "apis/apps/v1/namespaces/{}/statefulsets",
    "Job": "apis/batch/v1/namespaces/{}/jobs",
    "PodDisruptionBudget": "apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "InferenceDeployment": "apis/serving.argosy.dev/v1alpha1/namespaces/{}/inferencedeployments",
}


class DryRuns:
    """What would become of objects in a namespace of the API server that KUBECONFIG names; nothing is stored."""

    def __init__(self, http: aiohttp.ClientSession, found: access.Access, namespace: str) -> None:
        self._http, self._access, self._namespace = http, found, namespace
        self._places = asyncio.Semaphore(AT_ONCE)

    async def create(self, document: dict) -> tuple[int, dict]:
        """The status, and what would become of a resource of this name and spec; as strict as kubectl asks to be."""
        plain = {**document, "metadata": {"name": document["metadata"]["name"]}}
        return await self._ask("POST", self._url("InferenceDeployment"), plain, fieldValidation="Strict")

    async def apply(self, manifest: dict) -> tuple[int, dict]:
        """The same of a child."""
        url = f"{self._url(manifest['kind'])}/{manifest['metadata']['name']}"
        return await self._ask("PATCH", url, manifest, fieldManager="test", force="true")

    async def count(self) -> int:
        """Resources that there are."""
        async with self._http.get(self._url("InferenceDeployment"), headers=self._access.headers()) as answer:
            return len((await answer.json())["items"])

    def _url(self, kind: str) -> str:
        return f"{self._access.server.rstrip('/')}/{PLURALS[kind].format(self._namespace)}"

    async def _ask(self, method: str, url: str, document: dict, **params: str) -> tuple[int, dict]:
        kind = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
        async with (
            self._places,
            self._http.request(
                method, url, json=document, params={"dryRun": "All", **params},
                headers={"Content-Type": kind, **self._access.headers()},
            ) as answer,
        ):  # fmt: skip
            return answer.status, await answer.json()


@contextlib.asynccontextmanager
async def dry_runs(namespace: str) -> AsyncIterator[DryRuns]:
    """Ask in a namespace that there is."""
    found = access.find(os.environ)
    async with session(found) as http:
        yield DryRuns(http, found, namespace)
