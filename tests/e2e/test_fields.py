"""The real API server keeps every field, takes the children in which it is seen, and refuses every wrong value.

Nothing is stored: all of it is asked as a dry run, over one connection pool, so it takes seconds.
"""

import asyncio
import os

import aiohttp
import pytest
from spec_fields import ANOTHER, FIELDS, child, children, look, sound
from spoiled import Spoiled, spoiled

from argosy_kube import access
from argosy_kube.http import session

AT_ONCE = 16
RESOURCES = "/apis/serving.argosy.dev/v1alpha1/namespaces/default/inferencedeployments"
PLURALS = {
    "Deployment": "/apis/apps/v1/namespaces/default/deployments",
    "ConfigMap": "/api/v1/namespaces/default/configmaps",
    "StatefulSet": "/apis/apps/v1/namespaces/default/statefulsets",
    "Job": "/apis/batch/v1/namespaces/default/jobs",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
}


class Server:
    """The API server that KUBECONFIG names, asked for dry runs."""

    def __init__(self, http: aiohttp.ClientSession, found: access.Access) -> None:
        self._http, self._access, self._places = http, found, asyncio.Semaphore(AT_ONCE)

    async def create(self, document: dict) -> tuple[int, dict]:
        """What would become of a resource, and the status."""
        plain = {**document, "metadata": {"name": document["metadata"]["name"]}}
        return await self._ask("POST", RESOURCES, plain, fieldValidation="Strict")

    async def apply(self, manifest: dict) -> tuple[int, dict]:
        """The same of a child."""
        path = f"{PLURALS[manifest['kind']]}/{manifest['metadata']['name']}"
        return await self._ask("PATCH", path, manifest, fieldManager="test", force="true")

    async def _ask(self, method: str, path: str, document: dict, **params: str) -> tuple[int, dict]:
        kind = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
        async with (
            self._places,
            self._http.request(
                method, self._access.server.rstrip("/") + path, json=document, params={"dryRun": "All", **params},
                headers={"Content-Type": kind, **self._access.headers()},
            ) as answer,
        ):  # fmt: skip
            return answer.status, await answer.json()

    async def count(self) -> int:
        """Resources that there are."""
        async with self._http.get(
            self._access.server.rstrip("/") + RESOURCES, headers=self._access.headers()
        ) as answer:
            return len((await answer.json())["items"])


@pytest.fixture
async def server(definition):
    found = access.find(os.environ)
    async with session(found) as http:
        yield Server(http, found)


async def test_every_field_is_kept_and_seen_in_a_child(server):
    """Neither pruned nor replaced; and what is made of it is valid where it is used."""
    wrong = await asyncio.gather(*(_unseen(server, path) for path in FIELDS))
    assert [text for text in wrong if text] == []


async def _unseen(server: Server, path: str) -> str:
    row, document = FIELDS[path], sound(path)
    status, kept = await server.create(document)
    if status != 201:
        return f"{path}: {kept.get('message')}"
    if look(kept["spec"], path.split(".")) != row.value:
        return f"{path}: became {look(kept['spec'], path.split('.'))!r}"
    if not row.place or row.place[0] in ("router", "worker"):
        return ""
    kept["metadata"]["uid"] = "u"
    status, made = await server.apply(child(children(kept), row.place[0]))
    wanted, found = row.value if row.seen is None else row.seen, look(made, list(row.place[1:]))
    if status not in (200, 201):
        return f"{path}: {row.place[0]}: {made.get('message')}"
    return "" if wanted in (found, ANOTHER) else f"{path}: {found!r} in {row.place[0]}"


async def test_every_wrong_value_is_refused_by_its_path(server):
    bad, before = list(spoiled()), await server.count()
    assert len(bad) > 400
    answers = await asyncio.gather(*(server.create(one.document) for one in bad))
    wrong = [_told(one, status, answer) for one, (status, answer) in zip(bad, answers, strict=True)]
    assert [text for text in wrong if text] == []
    assert await server.count() == before


def _told(one: Spoiled, status: int, answer: dict) -> str:
    message = answer.get("message", "")
    if status in (400, 422) and one.path in message:
        return ""
    return f"{one.path} ({one.why}): {status} {message[:200]}"
