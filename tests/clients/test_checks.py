"""Each client's own script of checks, in the client's own environment."""

import json
from pathlib import Path

import pytest
from clients_kit import run

CHECKS = Path(__file__).parent / "checks"
SCRIPTS = {
    "sdks": ("sdks", 7),
    "langchain": ("langchain_chats", 13),
    "litellm": ("litellm_calls", 10),
    "llama-index": ("llama_index_chats", 6),
    "triton": ("triton", 6),
}
"""Environments, each with its script and how many checks that has."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SCRIPTS)
def test_all_checks_of(name, environment, server, tmp_path):
    script, count = SCRIPTS[name]
    where = environment(name)
    out = run(where, server, where / "bin" / "python", CHECKS / f"{script}.py", cwd=tmp_path)
    told = [json.loads(line) for line in out.splitlines() if line.startswith('{"check"')]
    assert [one for one in told if one["wrong"]] == []
    assert len(told) == count


def test_the_scripts_are_those_that_are_there():
    assert {f"{script}.py" for script, _ in SCRIPTS.values()} | {"kit.py"} == {p.name for p in CHECKS.glob("*.py")}
