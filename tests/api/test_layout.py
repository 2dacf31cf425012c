"""The layout of the repository keeps its promises."""

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
