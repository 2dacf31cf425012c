"""A resource, and what is planned for it."""

from operator_kit import document

from argosy_api.resource import parse
from argosy_operator.manifests import PlanSettings
from argosy_operator.plan import Observed, plan

INSTALLED = PlanSettings(worker_image="argosy-worker:test", redis_url="redis://:pw@valkey:6379/0")


def make_resource(name="m", *, uid="uid-1", **spec):
    made = document(name, **spec)
    made["metadata"]["uid"] = uid
    return parse(made)


def manifests_of(resource, installed=INSTALLED):
    return {m["kind"]: m for m in plan(resource, Observed(), installed).apply}


def pod_of(resource, installed=INSTALLED):
    return manifests_of(resource, installed)["Deployment"]["spec"]["template"]["spec"]


def container_of(resource, installed=INSTALLED):
    return pod_of(resource, installed)["containers"][0]


def env_of(resource, installed=INSTALLED):
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container_of(resource, installed)["env"]}
