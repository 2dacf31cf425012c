"""A small stateful stand-in for kube-apiserver, enough for Kopf and for clients that use server-side apply.

One aiohttp application that keeps objects in memory: discovery, uid / resourceVersion / generation, list (in pages)
and watch with label and field selectors, bookmarks, 410 after `compact()`, POST / PUT / merge patch / JSON patch /
server-side apply, 409 on a stale resourceVersion, isolated /status, /scale, finalizers, garbage collection by owner
reference, CRDs that create their endpoints. `hooks` run before and after every request: raise `ApiError` or sleep in
them to inject faults ("applied but timed out" is an error raised in phase "after").

Limits: no schema validation, defaulting or pruning, no CEL, no admission, no authentication or RBAC, no managedFields
and no apply conflicts (every apply behaves as force=true), no controllers (see fakecluster), list merge keys are
guessed ("uid", then "name", then "type"). One event loop, not thread safe. Passing here is evidence about our logic, not about the
API server: the cluster tests run the same scenarios on a real one.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jsonpatch
import yaml
from aiohttp import web
from fakeapi_objects import (
    ApiError,
    Event,
    Gvr,
    Key,
    Object,
    Resource,
    apply,
    clone,
    drop_image_volumes,
    drop_owned,
    merge,
    now,
    scale_view,
)

Hook = Callable[[web.Request, str], Awaitable[None]]

APPLY_PATCH = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
CRD_GROUP = "apiextensions.k8s.io"


@dataclass
class FakeApi:
    bookmark_every_s: float = 30.0
    hooks: list[Hook] = field(default_factory=list)
    resources: dict[Gvr, Resource] = field(default_factory=dict)
    objects: dict[Key, Object] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    deaf: bool = False
    """Watches stay open and say nothing: a connection that died without a word."""
    takes_image_volumes: bool = True
    """Else they are dropped without a word, as where a feature gate is off."""
    may: Callable[[Object], bool] = lambda _: True
    """What SubjectAccessReviews are answered, by their spec."""

    def __post_init__(self) -> None:
        self._version = 1  # as etcd's: no object ever has it
        self._oldest = 0
        self._events: list[Event] = []
        self._watchers: list[tuple[Gvr | None, asyncio.Queue[Event | None]]] = []
        self._applied: dict[tuple[Key, str, str], Object] = {}
        self.add("", "v1", "namespaces", "Namespace", namespaced=False)
        self.add(CRD_GROUP, "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)

    # ---------------------------------------------------------------- control from a test

    def add(
        self,
        group: str,
        version: str,
        plural: str,
        kind: str,
        *,
        namespaced: bool = True,
        subresources: set[str] = frozenset(),
    ) -> None:
        self.resources[Gvr(group, version, plural)] = Resource(kind, namespaced, frozenset(subresources))

    def compact(self) -> None:
        """Forget history: a watch from an older resourceVersion gets 410 Gone."""
        self._events.clear()
        self._oldest = self._version

    def drop_watches(self) -> None:
        """Close every open watch stream, as a restarting API server would."""
        for _, queue in self._watchers:
            queue.put_nowait(None)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            yield await self.door()
        finally:
            self.drop_watches()
            await runner.cleanup()

    async def door(self) -> str:
        """One more address; a hook can tell by the port who comes."""
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[-1][:2]
        return f"http://{host}:{port}"

    def listen(self) -> asyncio.Queue[Event | None]:
        """All events from now on, for controllers that live beside the server; None when watches are dropped."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._watchers.append((None, queue))
        return queue

    def create(self, key: Key, obj: Object) -> Object:
        """Store a new object."""
        return self._create(key, self.resources[key.gvr], obj)

    def update(self, key: Key, new: Object, sub: str = "") -> Object:
        """Replace an object, or its status."""
        return self._update(key, self.resources[key.gvr], self.objects[key], new, sub)

    def delete(self, key: Key) -> None:
        """Delete an object, unless it is gone."""
        if key in self.objects:
            self._delete(key)

    # ---------------------------------------------------------------- HTTP

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        try:
            for hook in self.hooks:
                await hook(request, "before")
            response = await self._route(request)
            for hook in self.hooks:
                await hook(request, "after")
        except ApiError as error:
            headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
            return web.json_response(error.body(), status=error.code, headers=headers)
        return response

    async def _route(self, request: web.Request) -> web.StreamResponse:
        parts = [part for part in request.path.split("/") if part]
        match parts:
            case ["version"]:
                return web.json_response({"major": "1", "minor": "34", "gitVersion": "v1.34.0"})
            case ["api"]:
                return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
            case ["apis"]:
                return web.json_response(self._groups())
            case ["api", version, *rest]:
                group = ""
            case ["apis", group, version, *rest]:
                pass
            case _:
                raise ApiError(404, "NotFound")
        if not rest:
            return web.json_response(self._discovery(group, version))
        namespace = None
        if rest[0] == "namespaces" and len(rest) >= 3:
            namespace, rest = rest[1], rest[2:]
        gvr = Gvr(group, version, rest[0])
        resource = self.resources.get(gvr)
        if resource is None:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        name = rest[1] if len(rest) > 1 else None
        sub = rest[2] if len(rest) > 2 else ""
        if sub and sub not in resource.subresources:
            raise ApiError(404, "NotFound", "no such subresource")
        if name is None:
            return await self._collection(request, gvr, resource, namespace)
        return await self._single(request, Key(gvr, namespace, name), resource, sub)

    async def _collection(
        self, request: web.Request, gvr: Gvr, resource: Resource, namespace: str | None
    ) -> web.StreamResponse:
        query = request.query
        if request.method == "GET" and query.get("watch") in {"true", "1"}:
            return await self._watch(request, gvr, namespace)
        if request.method == "GET":
            items = [
                obj
                for key, obj in self.objects.items()
                if key.gvr == gvr and self._selected(key, obj, namespace, query)
            ]
            first, limit = int(query.get("continue") or 0), int(query.get("limit") or 0) or len(items)
            page = items[first : first + limit]
            meta = {"resourceVersion": str(self._version)}
            if first + limit < len(items):
                meta["continue"] = str(first + limit)
            return web.json_response(
                {"kind": f"{resource.kind}List", "apiVersion": gvr.api_version, "metadata": meta, "items": page}
            )
        if request.method == "POST":
            obj = await request.json()
            if resource.kind == "SubjectAccessReview":
                return web.json_response({**obj, "status": {"allowed": self.may(obj["spec"])}}, status=201)
            meta = obj.setdefault("metadata", {})
            if not meta.get("name"):
                meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
            key = Key(gvr, namespace, meta["name"])
            if key in self.objects:
                raise ApiError(409, "AlreadyExists")
            return web.json_response(self._create(key, resource, obj), status=201)
        raise ApiError(405, "MethodNotAllowed")

    async def _single(self, request: web.Request, key: Key, resource: Resource, sub: str) -> web.StreamResponse:
        current = self.objects.get(key)
        if request.method == "PATCH" and request.content_type == APPLY_PATCH:
            intent = _document(await request.text())
            manager = request.query.get("fieldManager")
            if not manager:
                raise ApiError(422, "Invalid", "fieldManager is required for apply")
            if current is None and sub:
                raise ApiError(404, "NotFound")
            wanted = intent.get("metadata", {})
            uid, version = wanted.pop("uid", None), wanted.pop("resourceVersion", None)
            if current is None and uid:
                raise ApiError(409, "Conflict", "uid mismatch: no existing object was found")
            if current is not None and uid not in (None, current["metadata"]["uid"]):
                raise ApiError(422, "Invalid", "metadata.uid: field is immutable")
            if current is not None and version not in (None, current["metadata"]["resourceVersion"]):
                raise ApiError(409, "Conflict", "the object has been modified")
            if not self.takes_image_volumes and "template" in intent.get("spec", {}):
                drop_image_volumes(intent["spec"]["template"].get("spec", {}))
            if request.query.get("dryRun") == "All":
                made = intent if current is None else apply(clone(current), intent)
                return web.json_response(made, status=201 if current is None else 200)
            previous = self._applied.get((key, manager, sub), {})
            self._applied[key, manager, sub] = clone(intent)
            if current is None:
                return web.json_response(self._create(key, resource, intent), status=201)
            new = apply(drop_owned(clone(current), previous, intent), intent)
            return web.json_response(self._update(key, resource, current, new, sub))
        if current is None:
            raise ApiError(404, "NotFound", f'{key.gvr.plural} "{key.name}" not found')
        if request.method == "GET":
            return web.json_response(scale_view(current) if sub == "scale" else current)
        if request.method == "DELETE":
            options = await request.json() if request.can_read_body else {}
            for name, value in options.get("preconditions", {}).items():
                if current["metadata"][name] != value:
                    raise ApiError(409, "Conflict", f"the {name} in the precondition does not match")
            return web.json_response(self._delete(key))
        if request.method not in {"PUT", "PATCH"}:
            raise ApiError(405, "MethodNotAllowed")
        base = scale_view(current) if sub == "scale" else current
        body = await request.json()
        if request.method == "PUT":
            new = body
        elif request.content_type == JSON_PATCH:
            try:
                new = jsonpatch.apply_patch(clone(base), body)
            except jsonpatch.JsonPatchException as error:
                raise ApiError(422, "Invalid", str(error)) from error
        else:
            new = merge(base, body)
        version = new.get("metadata", {}).get("resourceVersion")
        if version and version != current["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        if sub == "scale":
            scaled = clone(current)
            scaled["spec"]["replicas"] = new["spec"]["replicas"]
            return web.json_response(scale_view(self._update(key, resource, current, scaled, "")))
        return web.json_response(self._update(key, resource, current, new, sub))

    # ---------------------------------------------------------------- storage

    def _create(self, key: Key, resource: Resource, obj: Object) -> Object:
        obj = clone(obj)
        obj.setdefault("apiVersion", key.gvr.api_version)
        obj.setdefault("kind", resource.kind)
        if "status" in resource.subresources:
            obj.pop("status", None)
        meta = obj.setdefault("metadata", {})
        meta.update(name=key.name, uid=str(uuid.uuid4()), creationTimestamp=now(), generation=1)
        if key.namespace:
            meta["namespace"] = key.namespace
        if key.gvr.group == CRD_GROUP:
            self._register_crd(obj)
        made = self._store(key, obj, "ADDED")
        owners = [owner["uid"] for owner in meta.get("ownerReferences", ())]
        if owners and not any(other["metadata"]["uid"] in owners for other in self.objects.values()):
            self._delete(key)  # garbage collection: all its owners are gone
        return made

    def _update(self, key: Key, resource: Resource, current: Object, new: Object, sub: str) -> Object:
        if sub == "status":
            out = {**clone(current), "status": new.get("status", {})}
        else:
            out = clone(new)
            if "status" in resource.subresources:
                out.pop("status", None)
                if "status" in current:
                    out["status"] = current["status"]
        for name in ("uid", "creationTimestamp", "generation", "deletionTimestamp", "resourceVersion"):
            if name in current["metadata"]:
                out["metadata"][name] = current["metadata"][name]
        if out == current:
            return current  # a write without effect changes no resourceVersion and wakes no watch
        if out.get("spec") != current.get("spec"):
            out["metadata"]["generation"] += 1
        if "deletionTimestamp" in out["metadata"] and not out["metadata"].get("finalizers"):
            return self._remove(key)
        return self._store(key, out, "MODIFIED")

    def _delete(self, key: Key) -> Object:
        current = self.objects[key]
        if not current["metadata"].get("finalizers"):
            return self._remove(key)
        if "deletionTimestamp" in current["metadata"]:
            return current
        new = clone(current)
        new["metadata"].update(
            deletionTimestamp=now(), deletionGracePeriodSeconds=0, generation=current["metadata"]["generation"] + 1
        )
        return self._store(key, new, "MODIFIED")

    def _store(self, key: Key, obj: Object, type_: str) -> Object:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key] = obj
        self._emit(type_, key.gvr, obj)
        return clone(obj)

    def _remove(self, key: Key) -> Object:
        obj = self.objects.pop(key)
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        for applied in [entry for entry in self._applied if entry[0] == key]:
            del self._applied[applied]
        self._emit("DELETED", key.gvr, obj)
        for child_key, child in list(self.objects.items()):  # background garbage collection
            owners = child["metadata"].get("ownerReferences", [])
            if child_key in self.objects and any(owner["uid"] == obj["metadata"]["uid"] for owner in owners):
                self._delete(child_key)
        return obj

    def _emit(self, type_: str, gvr: Gvr, obj: Object) -> None:
        event = Event(self._version, type_, gvr, clone(obj))
        self._events.append(event)
        for wanted, queue in self._watchers:
            if wanted in (None, gvr):
                queue.put_nowait(event)

    # ---------------------------------------------------------------- watch, selectors, discovery

    async def _watch(self, request: web.Request, gvr: Gvr, namespace: str | None) -> web.StreamResponse:
        query = request.query
        since = int(query.get("resourceVersion") or 0)
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)

        async def send(type_: str, obj: Object) -> None:
            await response.write(json.dumps({"type": type_, "object": obj}).encode() + b"\n")

        if since and since < self._oldest:
            await send("ERROR", ApiError(410, "Expired", "too old resource version").body())
            return response
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        for event in self._events:
            if event.version > since and event.gvr == gvr:
                queue.put_nowait(event)
        watcher = (gvr, queue)
        self._watchers.append(watcher)
        timeout = float(query["timeoutSeconds"]) if "timeoutSeconds" in query else None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        event = await asyncio.wait_for(queue.get(), self.bookmark_every_s)
                    except TimeoutError:
                        if query.get("allowWatchBookmarks") in {"true", "1"}:
                            kind = self.resources[gvr].kind
                            meta = {"resourceVersion": str(self._version)}
                            await send("BOOKMARK", {"kind": kind, "apiVersion": gvr.api_version, "metadata": meta})
                        continue
                    if event is None:
                        break
                    if self.deaf:
                        continue
                    key = Key(event.gvr, event.object["metadata"].get("namespace"), event.object["metadata"]["name"])
                    if self._selected(key, event.object, namespace, query):
                        await send(event.type, event.object)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._watchers.remove(watcher)
        return response

    @staticmethod
    def _selected(key: Key, obj: Object, namespace: str | None, query: Any) -> bool:
        if namespace is not None and key.namespace != namespace:
            return False
        labels = obj["metadata"].get("labels", {})
        for term in filter(None, query.get("labelSelector", "").split(",")):
            name, _, value = term.replace("==", "=").partition("=")
            if (value and labels.get(name) != value) or (not value and name not in labels):
                return False
        for term in filter(None, query.get("fieldSelector", "").split(",")):
            name, _, value = term.partition("=")
            if name in {"metadata.name", "metadata.namespace"} and obj["metadata"].get(name.split(".")[1]) != value:
                return False
        return True

    def _register_crd(self, crd: Object) -> None:
        spec = crd["spec"]
        for version in spec["versions"]:
            if version.get("served", True):
                names, sub = spec["names"], set(version.get("subresources", {}))
                namespaced = spec.get("scope", "Namespaced") == "Namespaced"
                self.add(
                    spec["group"],
                    version["name"],
                    names["plural"],
                    names["kind"],
                    namespaced=namespaced,
                    subresources=sub,
                )
        crd["status"] = {"conditions": [{"type": name, "status": "True"} for name in ("NamesAccepted", "Established")]}

    def _groups(self) -> Object:
        versions: dict[str, list[str]] = {}
        for gvr in self.resources:
            if gvr.group and gvr.version not in versions.setdefault(gvr.group, []):
                versions[gvr.group].append(gvr.version)
        groups = []
        for group, names in versions.items():
            entries = [{"groupVersion": f"{group}/{name}", "version": name} for name in sorted(names)]
            groups.append({"name": group, "versions": entries, "preferredVersion": entries[0]})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def _discovery(self, group: str, version: str) -> Object:
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        entries = []
        for gvr, resource in self.resources.items():
            if (gvr.group, gvr.version) != (group, version):
                continue
            common = {"kind": resource.kind, "namespaced": resource.namespaced}
            entries.append({"name": gvr.plural, "singularName": resource.kind.lower(), "verbs": verbs, **common})
            entries += [
                {"name": f"{gvr.plural}/{sub}", "singularName": "", "verbs": ["get", "patch", "update"], **common}
                for sub in sorted(resource.subresources)
            ]
        api_version = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": entries}


def _document(text: str) -> Object:
    """An applied intent. Most are JSON, which its own parser reads much faster than that of YAML."""
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)
