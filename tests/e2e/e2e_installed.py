"""Installations of Argosy: the one that most tests share, and others that serve one namespace each."""

import contextlib
from collections.abc import Iterator

from e2e_kit import CHART, RELEASE, SYSTEM, Kubectl, helm, make_namespace

SHARED = ("externalMetrics.enabled=true",)
"""Beyond the chart as it is: what the tests of another autoscaler ask, and nobody else notices."""


def install(*values: str) -> None:
    """Install or change the shared installation: SHARED, these values, and else the chart as it is."""
    sets = [word for value in (*SHARED, *values) for word in ("--set", value)]
    helm("upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM, "--reset-values", *sets)


def wait_rolled_out(system: Kubectl) -> None:
    """All of a release named RELEASE runs as it was last asked for."""
    for component in ("operator", "router", "valkey"):
        system("rollout", "status", f"deployment/{RELEASE}-{component}", "--timeout=120s", timeout=130)


def only(served: Kubectl) -> list[str]:
    """Helm's arguments for an installation that serves one namespace: others may be beside it, if they do not serve it."""
    return ["--set", f"watchNamespaces={{{served.namespace}}}", "--set", "crds.install=false"]


@contextlib.contextmanager
def apart(cluster: Kubectl, *values: str) -> Iterator[tuple[Kubectl, Kubectl]]:
    """(system, namespace): an installation in a namespace of its own, and the only namespace that it serves."""
    system, served = make_namespace(cluster), make_namespace(cluster)
    sets = [word for value in values for word in ("--set", value)]
    try:
        helm("install", RELEASE, str(CHART), "--namespace", system.namespace, *only(served), *sets)
        wait_rolled_out(system)
        yield system, served
    finally:
        served("delete", "infd", "--all", "--ignore-not-found", "--timeout=60s", timeout=70)
        for made in (served, system):
            cluster("delete", "namespace", made.namespace, "--wait=false")
