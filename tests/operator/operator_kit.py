"""A fake cluster with operators on it."""

import asyncio
import contextlib
import copy
import threading
import time

import fakecluster
from fakeapi import ApiError, Key
from pydantic import BaseModel
from waiting import eventually

from argosy_kube.access import Access
from argosy_operator import app
from argosy_operator.manifests import PlanSettings
from argosy_operator.metrics import Health, Metrics
from argosy_operator.settings import Settings

NAMESPACE = "default"
MUTATING = {"POST", "PUT", "PATCH", "DELETE"}


def document(name: str = "m", *, uri: str = "sim://tiny", namespace: str = NAMESPACE, **spec) -> dict:
    """A resource as a user writes it."""
    return {
        "apiVersion": "serving.argosy.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"uri": uri}, **spec},
    }


def unpullable(pod: dict) -> dict:
    """The fate of pods, where the images that begin with `bad` can't be pulled."""
    containers = pod.get("spec", {}).get("containers", [{"image": ""}])
    if containers[0]["image"].startswith("bad"):
        return fakecluster.waiting("ImagePullBackOff", "Back-off pulling image")
    return fakecluster.ready(pod)


class Operator:
    """One operator in a thread: Kopf wants a loop of its own."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.metrics, self.health = Metrics(), Health()
        self.stop_flag, self.ready_flag = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(settings, url))

    def _run(self, settings: Settings, url: str) -> None:
        try:
            asyncio.run(
                app.run(
                    settings,
                    Access(server=url),
                    metrics=self.metrics,
                    health=self.health,
                    stop_flag=self.stop_flag,
                    ready_flag=self.ready_flag,
                )
            )
        except BaseException as error:
            self.error = error

    async def start(self) -> "Operator":
        self._thread.start()
        await eventually(lambda: self.ready_flag.is_set() or self.error, what="operator ready")
        return self

    async def stop(self) -> float:
        """Seconds that it took."""
        began = time.monotonic()
        self.stop_flag.set()
        await asyncio.to_thread(self._thread.join, 20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return time.monotonic() - began


class World:
    """A fake API server, controllers, and operators that are stopped at the end."""

    def __init__(self) -> None:
        self.server = fakecluster.api()
        self.controllers = fakecluster.Controllers(self.server)
        self.url = ""
        self.plan = PlanSettings()
        self.extra: dict = {}
        self._operators: list[Operator] = []

    @contextlib.asynccontextmanager
    async def serving(self):
        async with self.server.serve() as self.url, self.controllers.running():
            try:
                yield self
            finally:
                self.server.hooks.clear()
                for operator in self._operators:
                    await operator.stop()

    async def operator(self, *, url: str = "", **settings) -> Operator:
        """Start one more; it comes to the server by this address, if one is given."""
        chosen = Settings(plan=self.plan, host="127.0.0.1", metrics_port=0, **{**self.extra, **settings})
        made = Operator(chosen, url or self.url)
        self._operators.append(made)
        return await made.start()

    async def stop(self, operator: Operator) -> float:
        self._operators.remove(operator)
        return await operator.stop()

    # ------------------------------------------------------------- what a user does

    def apply(self, resource: dict) -> dict:
        """Create or replace a resource's spec."""
        key = self.key(resource["metadata"]["name"])
        if key not in self.server.objects:
            return self.server.create(key, copy.deepcopy(resource))
        new = copy.deepcopy(self.server.objects[key])
        new["spec"] = copy.deepcopy(resource["spec"])
        return self.server.update(key, new)

    def scale(self, name: str, replicas: int) -> None:
        new = copy.deepcopy(self.server.objects[self.key(name)])
        new["spec"]["replicas"] = replicas
        self.server.update(self.key(name), new)

    def delete(self, name: str) -> None:
        self.server.delete(self.key(name))

    # ------------------------------------------------------------- what is there

    @staticmethod
    def key(name: str) -> Key:
        return Key(fakecluster.RESOURCES, NAMESPACE, name)

    def child(self, gvr, name: str = "") -> dict | None:
        usual = "m-leader" if gvr == fakecluster.DEPLOYMENTS else "m-worker"
        return self.server.objects.get(Key(gvr, NAMESPACE, name or usual))

    def children(self) -> dict[Key, dict]:
        return {k: o for k, o in self.server.objects.items() if k.gvr in (*fakecluster.CHILDREN, fakecluster.PODS)}

    def status(self, name: str = "m") -> dict:
        return self.server.objects.get(self.key(name), {}).get("status", {})

    def condition(self, kind: str, name: str = "m") -> tuple[str, str, str]:
        """status, reason and message."""
        for condition in self.status(name).get("conditions", ()):
            if condition["type"] == kind:
                return condition["status"], condition["reason"], condition["message"]
        return "", "", ""

    def is_ready(self, name: str = "m") -> bool:
        """Ready, and about the present spec."""
        found = self.server.objects.get(self.key(name))
        if found is None:
            return False
        current = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
        return current and self.condition("Ready", name)[0] == "True"

    def picture(self) -> dict:
        """All children without what differs from run to run; pods by number."""
        out: dict = {}
        for key, obj in self.children().items():
            if key.gvr == fakecluster.PODS:
                revision = obj["metadata"]["labels"]["serving.argosy.dev/revision"]
                out["pods", revision] = out.get(("pods", revision), 0) + 1
                continue
            plain = copy.deepcopy(obj)
            plain.pop("status", None)
            for note in ("began", "step-since", "why"):  # times, and the name of a pod
                plain["metadata"].get("annotations", {}).pop(f"serving.argosy.dev/{note}", None)
            for field in ("uid", "resourceVersion", "creationTimestamp", "generation"):
                plain["metadata"].pop(field, None)
            for owner in plain["metadata"].get("ownerReferences", ()):
                owner.pop("uid")
            out[key] = plain
        return out

    def calls(self, method: str = "") -> list[tuple[str, str]]:
        return [r for r in self.server.requests if not method or r[0] == method]

    # ------------------------------------------------------------- faults

    def die_after(self, count: int) -> threading.Event:
        """After this many changing calls nothing reaches the server any more, as if the operator was killed.

        The last call is carried out, and its sender never learns of it.
        """
        dead, made = threading.Event(), [0]

        async def hook(request, phase: str) -> None:
            if dead.is_set() and phase == "before":
                raise ApiError(503, "ServiceUnavailable", "this operator is dead")
            if request.method in MUTATING and phase == "after":
                made[0] += 1
                if made[0] >= count:
                    dead.set()
                    raise ApiError(504, "Timeout", "no answer")

        self.server.hooks.append(hook)
        return dead


def paths(model: type[BaseModel], prefix: str = ""):
    """The path of every field of a type, with 0 for the items of a list."""
    for field in model.model_fields.values():
        path = prefix + field.alias
        inner = next((t for t in _flat(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if inner is None:
            yield path
        else:
            yield from paths(inner, path + (".0." if "list" in str(field.annotation) else "."))


def _flat(annotation):
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(t for a in arguments for t in _flat(a))]
