"""Fixtures of the tests that need everything: the real model, the router, Valkey, all as `argosy up` runs them."""

import time
from pathlib import Path

import pytest
from embedded_kit import Up

SIMULATED = """\
apiVersion: serving.argosy.dev/v1alpha1
kind: InferenceDeployment
metadata: {name: m}
spec:
  replicas: 1
  model: {uri: "sim://m?decode_ms=0&prefill_tps=0", servedName: m}
"""
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


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """One replica of a simulated model, `m`, whose answers keep to whatever is asked of their form."""
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "m.yaml").write_text(SIMULATED)
    one = Up(folder, [folder / "m.yaml"])
    one.start()
    try:
        yield one.until_ready()
        assert one.end() == 0, one.output
    finally:
        one.clean_up()
