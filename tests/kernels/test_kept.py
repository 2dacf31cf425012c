"""What was compiled is kept while it is of the same sources, by the same compiler; else it is compiled anew."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("hatch_build", Path(__file__).parents[2] / "hatch_build.py")
hatch_build = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hatch_build)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """keep(compiler=…) -> how often it was compiled so far, with one file of sources and a compiler that copies it."""
    made = []

    def compile_kernels(compiler, sources, target):
        if compiler == ["false"]:
            raise subprocess.CalledProcessError(1, compiler)
        made.append(compiler)
        target.write_bytes((sources / "a.cpp").read_bytes())

    monkeypatch.setattr(hatch_build, "compile_kernels", compile_kernels)
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/a.cpp").write_text("one")

    def keep(compiler="echo"):
        paths = (tmp_path / "sources", tmp_path / "library.so", tmp_path / "build/stamp")
        hatch_build.keep_compiled([compiler], *paths)
        return len(made)

    keep.folder = tmp_path
    return keep


def test_the_same_is_compiled_once(place):
    assert [place(), place(), place()] == [1, 1, 1]


def test_other_sources_another_compiler_or_another_library_are_news(place):
    place()
    (place.folder / "sources/a.cpp").write_text("two")
    assert place() == 2
    assert (place.folder / "library.so").read_text() == "two"
    assert place("printf") == 3
    (place.folder / "library.so").write_text("whose is this?")
    assert place("printf") == 4
    (place.folder / "library.so").unlink()
    assert place("printf") == 5


def test_a_compiler_that_fails_leaves_no_library(place):
    place()
    with pytest.raises(subprocess.CalledProcessError):
        place("false")
    assert not (place.folder / "library.so").exists()
