"""What the operator relies on of an API server: the fake keeps these promises, as the real one does."""

import asyncio
import json

import aiohttp
import fakecluster

APPLY = {"Content-Type": "application/apply-patch+yaml"}
SERVICES = "/api/v1/namespaces/default/services"
RESOURCES = "/apis/serving.argosy.dev/v1alpha1/namespaces/default/inferencedeployments"


async def _with(scenario):
    server = fakecluster.api()
    async with server.serve() as url, aiohttp.ClientSession(url) as http:
        await scenario(server, http)


async def apply(http, path, body, manager="a"):
    async with http.patch(
        path, params={"fieldManager": manager, "force": "true"}, data=json.dumps(body), headers=APPLY
    ) as answer:
        return answer.status, await answer.json()


async def test_apply_creates_changes_and_removes_what_is_no_longer_sent():
    async def scenario(server, http):
        body = {"metadata": {"name": "s", "labels": {"a": "1", "b": "2"}}, "spec": {"x": 1}}
        status, first = await apply(http, f"{SERVICES}/s", body)
        assert status == 201
        assert (await apply(http, f"{SERVICES}/s", body))[1]["metadata"]["resourceVersion"] == first["metadata"][
            "resourceVersion"
        ]
        del body["metadata"]["labels"]["b"]
        status, second = await apply(http, f"{SERVICES}/s", body)
        assert (status, second["metadata"]["labels"]) == (200, {"a": "1"})
        assert second["metadata"]["uid"] == first["metadata"]["uid"]

    await _with(scenario)


async def test_spec_and_status_are_apart():
    async def scenario(server, http):
        body = {"metadata": {"name": "r"}, "spec": {"replicas": 1}, "status": {"reason": "lie"}}
        async with http.post(RESOURCES, json=body) as answer:
            made = await answer.json()
        assert "status" not in made
        assert made["metadata"]["generation"] == 1
        _, after = await apply(
            http, f"{RESOURCES}/r/status", {"metadata": {"name": "r"}, "status": {"reason": "Ready"}}
        )
        assert (after["status"], after["metadata"]["generation"]) == ({"reason": "Ready"}, 1)
        status, _ = await apply(http, f"{RESOURCES}/none/status", {"metadata": {"name": "none"}, "status": {}})
        assert status == 404

    await _with(scenario)


async def test_finalizers_hold_and_owners_take_along():
    async def scenario(server, http):
        async with http.post(RESOURCES, json={"metadata": {"name": "r", "finalizers": ["f"]}, "spec": {}}) as answer:
            uid = (await answer.json())["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "X", "name": "r", "uid": uid}
        await apply(http, f"{SERVICES}/s", {"metadata": {"name": "s", "ownerReferences": [owner]}})
        async with http.delete(f"{RESOURCES}/r") as answer:
            going = await answer.json()
        assert "deletionTimestamp" in going["metadata"]
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": "stale"},
            {"op": "remove", "path": "/metadata/finalizers"},
        ]
        headers = {"Content-Type": "application/json-patch+json"}
        async with http.patch(f"{RESOURCES}/r", data=json.dumps(patch), headers=headers) as answer:
            assert answer.status == 422
        async with http.patch(f"{RESOURCES}/r", data=json.dumps(patch[1:]), headers=headers) as answer:
            assert answer.status == 200
        assert not [k for k in server.objects if k.gvr in (fakecluster.RESOURCES, fakecluster.SERVICES)]

    await _with(scenario)


async def test_a_watch_tells_what_was_before_and_what_comes_and_410_after_that_is_forgotten():
    async def scenario(server, http):
        await apply(http, f"{SERVICES}/one", {"metadata": {"name": "one", "labels": {"l": "1"}}})
        await apply(http, f"{SERVICES}/not", {"metadata": {"name": "not"}})
        params = {"watch": "true", "resourceVersion": "0", "labelSelector": "l=1"}
        async with http.get(SERVICES, params=params) as stream, asyncio.timeout(10):
            await apply(http, f"{SERVICES}/two", {"metadata": {"name": "two", "labels": {"l": "1"}}})
            seen = [json.loads(await stream.content.readline()) for _ in range(2)]
        assert [(e["type"], e["object"]["metadata"]["name"]) for e in seen] == [("ADDED", "one"), ("ADDED", "two")]
        server.compact()
        async with http.get(SERVICES, params={"watch": "true", "resourceVersion": "1"}) as stream, asyncio.timeout(10):
            assert json.loads(await stream.content.readline())["object"]["code"] == 410

    await _with(scenario)
