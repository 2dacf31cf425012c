"""Helm as the tests call it: every Helm that this machine has (HELM and HELM3, or helm and helm3 on the PATH)."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "charts/argosy"
KUBE_VERSION = "1.34"  # `helm template` asks no cluster; this is what the chart would find there
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # reading took longer than rendering; not every PyYAML has it


def helms() -> list[str]:
    """Paths of the Helm binaries, each once."""
    found = [
        shutil.which(os.environ.get(variable, program)) for variable, program in (("HELM", "helm"), ("HELM3", "helm3"))
    ]
    return sorted({path for path in found if path})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "helm_binary" in metafunc.fixturenames:
        reason = "LEFT OUT: no helm on the PATH and none in HELM or HELM3, so the chart was not rendered"
        absent = pytest.param("", marks=pytest.mark.skip(reason=reason), id="no-helm")
        there = [pytest.param(h, id=Path(h).name) for h in helms()] or [absent]
        # what is not about Helm says so: one of them does
        metafunc.parametrize(
            "helm_binary", there[:1] if getattr(metafunc.module, "ANY_HELM", False) else there, scope="session"
        )


@pytest.fixture(scope="session")
def chart() -> Path:
    """The chart's folder."""
    return CHART


@pytest.fixture(scope="session")
def helm(helm_binary: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Helm; the exit code is the caller's to judge."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([helm_binary, *arguments], capture_output=True, text=True, check=False, timeout=60)

    return run


@pytest.fixture(scope="session")
def render(helm: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., list[dict[str, Any]]]:
    """The objects that the chart makes of values: files by name (from ci/), or single ones as `--set` takes them."""
    cache: dict[tuple[str, ...], list[dict[str, Any]]] = {}

    def objects(*values: str, release: str = "argosy", namespace: str = "argosy-system") -> list[dict[str, Any]]:
        key = (release, namespace, *values)
        if key not in cache:
            given: list[str] = []
            for value in values:
                given += ["--values", str(CHART / "ci" / value)] if value.endswith(".yaml") else ["--set", value]
            done = helm(
                "template", release, str(CHART), "--namespace", namespace, "--kube-version", KUBE_VERSION, *given
            )
            assert done.returncode == 0, done.stderr
            cache[key] = [document for document in yaml.load_all(done.stdout, LOADER) if document]
        return cache[key]

    return objects
