"""Generated protobuf code asks for no newer runtime than the package does, and others fit beside it."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "api" / "argosy_api").rglob("*_pb2.py"))
STUBS = sorted((ROOT / "api" / "argosy_api").rglob("*_pb2_grpc.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = {(found := Requirement(text)).name: found.specifier for text in PROJECT["dependencies"]}


def floor(name):
    return max(Version(s.version) for s in BASE[name] if s.operator == ">=")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_messages(path):
    generator = Version(re.search(r"^# Protobuf Python Version: (.+)$", path.read_text(), re.MULTILINE)[1])
    assert generator <= floor("protobuf")
    # a runtime promises to take code of its own major and of the one before
    assert [v for v in ("6.30.0", "6.33.6", "7.36.2") if not BASE["protobuf"].contains(v)] == []
    assert not BASE["protobuf"].contains(f"{generator.major + 2}.0.0")


@pytest.mark.parametrize("path", STUBS, ids=lambda p: p.stem)
def test_services(path):
    generator = Version(re.search(r"^GRPC_GENERATED_VERSION = '(.+)'$", path.read_text(), re.MULTILINE)[1])
    assert generator <= floor("grpcio")


def test_triton_s_client_of_today_is_the_one_that_tests_use():
    assert Version(metadata.version("tritonclient")) >= Version("2.73")
    needs = [Requirement(text) for text in metadata.requires("tritonclient")]
    wanted = {n.name: n.specifier for n in needs if n.marker is not None and n.marker.evaluate({"extra": "grpc"})}
    assert wanted["protobuf"].contains("6.33.6")
    assert BASE["protobuf"].contains("6.33.6")
    assert wanted["grpcio"].contains("1.85.3")
    assert BASE["grpcio"].contains("1.85.3")
