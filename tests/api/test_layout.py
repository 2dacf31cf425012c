"""The layout of the repository keeps its promises."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("folder", ["api", "kube", "operator", "router", "worker", "cli"])
def test_source_roots_hold_packages_only(folder):
    """A module directly in operator/ would shadow the standard library, or become a top-level module."""
    assert [p.name for p in (ROOT / folder).glob("*.py")] == []
    assert [p.name for p in (ROOT / folder).iterdir() if p.is_dir() and p.name.startswith("argosy_")] == [
        f"argosy_{folder}"
    ]


def test_tests_are_no_packages():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_root_is_in_the_wheel_and_on_the_type_checkers_path():
    text = (ROOT / "pyproject.toml").read_text()
    for folder in ("api", "kube", "operator", "router", "worker", "cli"):
        assert f'"{folder}/argosy_{folder}"' in text
        assert f"$MYPY_CONFIG_FILE_DIR/{folder}" in text


UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
OURS = {"bodies.py", "bodies_work.py"}
"""A request that the router's own child has parsed."""


def unpickled(path):
    """What of a module's text may load a pickle: modules of that kind, and loaders that take any file."""
    text = path.read_text(encoding="utf-8")
    if not any(word in text for word in (*UNPICKLERS, "load(", "weights_only")):
        return  # most files: parsing all of them takes seconds
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name for name in names if name.partition(".")[0] in UNPICKLERS)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.jit.load", "torch.hub.load"):
            yield ast.unparse(node)
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            yield ast.unparse(node)


def test_nothing_that_a_user_gives_is_unpickled():
    """torch.load takes a pickle and a safetensors file alike, by its name; so nobody calls it on anything."""
    packages = [ROOT / folder / f"argosy_{folder}" for folder in ("api", "kube", "operator", "router", "worker", "cli")]
    files = [path for package in packages for path in package.rglob("*.py")]
    assert len(files) > 400
    assert {path.name: found for path in files if (found := list(unpickled(path)))} == {
        name: ["pickle"] for name in OURS
    }
