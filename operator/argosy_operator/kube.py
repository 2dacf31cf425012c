"""The few calls that the operator makes to the API server, behind a protocol.

On aiohttp directly, not on the official client: docs/adr/0001-kubernetes-client.md has the figures.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp

from argosy_api.resource import API_VERSION, KIND, PLURAL
from argosy_kube.access import Access
from argosy_operator.errors import ApiError
from argosy_operator.observe import DELETION_COST
from argosy_operator.plan import ChildRef

Object = dict[str, Any]

MANAGER = "argosy-operator"
STATUS_MANAGER = "argosy-operator-status"
SCALING_MANAGER = "argosy-operator-scaling"
FINALIZER_MANAGER = "argosy-operator-finalizer"
REQUEST_TIMEOUT_S = 15.0
CONCURRENT = 16
"""Requests at a time: enough to fill the API server's queue, few enough to leave others a place in it."""
PLURALS = {
    ("v1", "ServiceAccount"): "serviceaccounts",
    ("v1", "Secret"): "secrets",
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "Service"): "services",
    ("v1", "Event"): "events",
    ("v1", "Pod"): "pods",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    ("networking.k8s.io/v1", "NetworkPolicy"): "networkpolicies",
    ("apps/v1", "Deployment"): "deployments",
    ("apps/v1", "StatefulSet"): "statefulsets",
    ("apps/v1", "ControllerRevision"): "controllerrevisions",
    ("batch/v1", "Job"): "jobs",
    (API_VERSION, KIND): PLURAL,
}


class KubeApi(Protocol):
    """What the operator asks of the API server. Everything raises `ApiError`."""

    async def create(self, manifest: Object) -> Object:
        """Server-side apply of a complete intent where there is no such object; 409 where there is one."""
        ...

    async def apply(self, manifest: Object, uid: str) -> Object:
        """Server-side apply of a complete intent to the object with this uid; 409 or 422 where it is another."""
        ...

    async def try_apply(self, manifest: Object) -> Object:
        """What a server-side apply would make of this; nothing is changed."""
        ...

    async def version(self) -> str:
        """Of the API server, as v1.34.4."""
        ...

    async def get(self, ref: ChildRef, namespace: str) -> Object | None:
        """The object, or None where there is none."""
        ...

    async def apply_status(self, metadata: Mapping[str, Any], status: Object) -> None:
        """Server-side apply of a resource's whole status; 404 when it is gone, or not served for a moment."""
        ...

    async def apply_pod_condition(self, namespace: str, name: str, uid: str, condition: Object) -> None:
        """Set one condition of the pod with this uid; 404, 409 or 422 where it is gone or another one."""
        ...

    async def apply_finalizer(self, metadata: Mapping[str, Any], finalizer: str) -> None:
        """Put a finalizer on a resource; 409 or 422 where it is another one, or being deleted."""
        ...

    async def delete(self, ref: ChildRef, namespace: str, uid: str, version: str | None) -> None:
        """Delete in the background what has this uid and resourceVersion (else 409); nothing where there is none.

        Without a version: whatever was changed of it meanwhile.
        """
        ...

    async def set_deletion_cost(self, namespace: str, name: str, uid: str, cost: int) -> None:
        """Say how much would be lost with a pod: of those alike the one with the least goes first (404, 409: gone)."""
        ...

    async def annotate_pod(self, namespace: str, name: str, uid: str, key: str, value: str) -> None:
        """Set one annotation of the pod with this uid; 404, 409 where it is gone or another one."""
        ...

    async def create_event(self, namespace: str, event: Object) -> None:
        """Post a core/v1 Event."""
        ...

    async def events_of(self, namespace: str, pod_uid: str) -> list[Object]:
        """Recent Events about a pod."""
        ...

    async def nodes(self) -> list[Object]:
        """All nodes of the cluster."""
        ...

    async def definition(self, name: str) -> Object | None:
        """A CustomResourceDefinition."""
        ...


class HttpKubeApi:
    """`KubeApi` over HTTP. Belongs to one event loop; the session is the caller's."""

    def __init__(self, session: aiohttp.ClientSession, access: Access) -> None:
        self._session, self._access, self._server = session, access, access.server.rstrip("/")
        self._places = asyncio.Semaphore(CONCURRENT)

    async def create(self, manifest: Object) -> Object:
        """See `KubeApi`."""
        # an object that exists never has this version any more, so the API server answers 409; what does not exist is
        # made. A POST would not do: fields that are not ours by an apply stay when a later apply leaves them out.
        return await self._apply_if(manifest, resourceVersion="1")

    async def apply(self, manifest: Object, uid: str) -> Object:
        """See `KubeApi`."""
        return await self._apply_if(manifest, uid=uid)

    async def try_apply(self, manifest: Object) -> Object:
        """See `KubeApi`."""
        metadata = manifest["metadata"]
        path = _path(manifest["apiVersion"], manifest["kind"], metadata["namespace"], metadata["name"])
        return await self._apply(path, manifest, MANAGER, dryRun="All")

    async def version(self) -> str:
        """See `KubeApi`."""
        return str((await self._call("GET", "/version")).get("gitVersion", ""))

    async def get(self, ref: ChildRef, namespace: str) -> Object | None:
        """See `KubeApi`."""
        try:
            return await self._call("GET", _path(ref.api_version, ref.kind, namespace, ref.name))
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    async def apply_status(self, metadata: Mapping[str, Any], status: Object) -> None:
        """See `KubeApi`."""
        intent = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": metadata["name"]}, "status": status}
        await self._apply(
            _path(API_VERSION, KIND, metadata["namespace"], metadata["name"]) + "/status", intent, STATUS_MANAGER
        )

    async def apply_pod_condition(self, namespace: str, name: str, uid: str, condition: Object) -> None:
        """See `KubeApi`."""
        metadata = {"name": name, "uid": uid}
        intent = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"conditions": [condition]}}
        await self._apply(_path("v1", "Pod", namespace, name) + "/status", intent, STATUS_MANAGER)

    async def apply_finalizer(self, metadata: Mapping[str, Any], finalizer: str) -> None:
        """See `KubeApi`."""
        only = {"name": metadata["name"], "uid": metadata["uid"], "finalizers": [finalizer]}
        intent = {"apiVersion": API_VERSION, "kind": KIND, "metadata": only}
        await self._apply(_path(API_VERSION, KIND, metadata["namespace"], metadata["name"]), intent, FINALIZER_MANAGER)

    async def delete(self, ref: ChildRef, namespace: str, uid: str, version: str | None) -> None:
        """See `KubeApi`."""
        path = _path(ref.api_version, ref.kind, namespace, ref.name)
        only = {"uid": uid} if version is None else {"uid": uid, "resourceVersion": version}
        try:
            await self._call("DELETE", path, json={"propagationPolicy": "Background", "preconditions": only})
        except ApiError as error:
            if error.status != 404:
                raise

    async def set_deletion_cost(self, namespace: str, name: str, uid: str, cost: int) -> None:
        """See `KubeApi`."""
        await self._annotate(namespace, name, uid, {DELETION_COST: str(cost)}, SCALING_MANAGER)

    async def annotate_pod(self, namespace: str, name: str, uid: str, key: str, value: str) -> None:
        """See `KubeApi`."""
        await self._annotate(namespace, name, uid, {key: value}, MANAGER)

    async def _annotate(self, namespace: str, name: str, uid: str, annotations: Object, manager: str) -> None:
        # a merge patch, where the uid is a condition: an apply would make the pod anew where it has gone
        await self._call(
            "PATCH",
            _path("v1", "Pod", namespace, name),
            params={"fieldManager": manager},
            json={"metadata": {"uid": uid, "annotations": annotations}},
            content_type="application/merge-patch+json",
        )

    async def create_event(self, namespace: str, event: Object) -> None:
        """See `KubeApi`."""
        await self._call("POST", _path("v1", "Event", namespace, None), json=event)

    async def events_of(self, namespace: str, pod_uid: str) -> list[Object]:
        """See `KubeApi`."""
        params = {"fieldSelector": f"involvedObject.uid={pod_uid}", "limit": "50"}
        answer = await self._call("GET", _path("v1", "Event", namespace, None), params=params)
        return list(answer.get("items", ()))

    async def nodes(self) -> list[Object]:
        """See `KubeApi`."""
        return list((await self._call("GET", "/api/v1/nodes")).get("items", ()))

    async def definition(self, name: str) -> Object | None:
        """See `KubeApi`."""
        # a list, for which the operator has a right: Kopf lists them, too
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        found = (await self._call("GET", path, params={"fieldSelector": f"metadata.name={name}"})).get("items", ())
        return next(iter(found), None)

    async def _apply_if(self, manifest: Object, **only: str) -> Object:
        metadata = manifest["metadata"]
        path = _path(manifest["apiVersion"], manifest["kind"], metadata["namespace"], metadata["name"])
        return await self._apply(path, {**manifest, "metadata": {**metadata, **only}}, MANAGER)

    async def _apply(self, path: str, intent: Object, manager: str, **options: str) -> Object:
        # force: what the operator sets is the operator's; everything else belongs to whoever set it
        return await self._call(
            "PATCH",
            path,
            params={"fieldManager": manager, "force": "true", **options},
            json=intent,
            content_type="application/apply-patch+yaml",
        )

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        json: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        try:
            headers = {"Accept": "application/json", "Content-Type": content_type, **self._access.headers()}
            async with (
                self._places,
                asyncio.timeout(REQUEST_TIMEOUT_S),
                self._session.request(
                    method, self._server + path, params=params, json=json, headers=headers
                ) as response,
            ):
                if response.status >= 400:
                    raise await _error(response)
                answer: Object = await response.json()
                return answer
        except (TimeoutError, aiohttp.ClientError, ValueError, OSError) as error:
            why = str(error) or type(error).__name__
            raise ApiError(0, "NoAnswer", f"{method} {path}: {why}") from error


async def _error(response: aiohttp.ClientResponse) -> ApiError:
    try:
        body = await response.json(content_type=None)
        reason, message = str(body.get("reason") or ""), str(body.get("message") or "")
    except (ValueError, AttributeError, aiohttp.ClientError):
        reason, message = "", ""
    try:
        after = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        after = None
    status = response.status
    return ApiError(status, reason or f"Status{status}", message or f"status {status}", retry_after_s=after)


def _path(api_version: str, kind: str, namespace: str, name: str | None) -> str:
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    path = f"{root}/namespaces/{quote(namespace, safe='')}/{PLURALS[api_version, kind]}"
    return path if name is None else f"{path}/{quote(name, safe='')}"
