"""Fixtures of the tests that need everything: the real model, the router, Valkey, all as `argosy up` runs them."""

import time
from pathlib import Path

import pytest
from embedded_kit import Up

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """Two replicas of SmolLM2; `start_s` is how long they took to be ready together."""
    one = Up(tmp_path_factory.mktemp("smollm2"), [EXAMPLES / "smollm2-cpu.yaml"])
    began = time.monotonic()
    one.start()
    try:
        one.until_ready()
        one.start_s = time.monotonic() - began
        yield one
        assert one.end() == 0, one.output
    finally:
        one.clean_up()
