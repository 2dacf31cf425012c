"""Fixtures of the tests that need everything: the real model, the router, Valkey, all as `argosy up` runs them."""

import time
from pathlib import Path

import pytest
from embedded_kit import running, running_simulated

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """Two replicas of SmolLM2; `start_s` is how long they took to be ready together."""
    began = time.monotonic()
    with running(tmp_path_factory.mktemp("smollm2"), EXAMPLES / "smollm2-cpu.yaml") as one:
        one.start_s = time.monotonic() - began
        yield one


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """One replica of a simulated model, `m`, whose answers keep to whatever is asked of their form."""
    with running_simulated(tmp_path_factory.mktemp("simulated")) as one:
        yield one
