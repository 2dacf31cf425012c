"""The native kernels through their C interface (main.cpp), compiled with sanitizers.

A few cases of each kind; with ARGOSY_KERNEL_TESTS=full the whole grid (`make test-kernels`, minutes).
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GRID = "full" if os.environ.get("ARGOSY_KERNEL_TESTS") == "full" else "quick"
FAULTS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS")
PLAIN = "-O1" if GRID == "full" else "-O0"  # most of the time goes to the compiler

_SPEC = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
hatch_build = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hatch_build)

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
    pytest.mark.timeout(3600 if GRID == "full" else 300),
]


def build(folder, compiler, *flags):
    """The kernels as the package compiles them, and the program: the words that start it."""
    library, program, sources = folder / "kernels.so", folder / "main", ROOT / hatch_build.SOURCES
    hatch_build.compile_kernels([compiler], sources, library, flags)
    warned = ("-Wall", "-Wextra", "-Werror", f"-I{sources}")
    subprocess.run(
        [compiler, *hatch_build.FLAGS, *warned, *flags, HERE / "main.cpp", "-o", program, "-ldl", "-pthread"],
        check=True,
    )
    return [program, library, GRID]


def run(*words):
    """What it printed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this sanitizer does not know how addresses are laid out here")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_no_fault_and_right_and_the_same_on_every_instruction_set(tmp_path):
    """Under AddressSanitizer and UndefinedBehaviorSanitizer."""
    done = run(*build(tmp_path, "c++", *FAULTS, PLAIN))
    assert "portable on 1 threads" in done.stderr
    assert len(done.stdout.splitlines()) > 50


def test_no_races(tmp_path):
    """Under ThreadSanitizer: the pool, and layers on two threads."""
    program = build(tmp_path, "c++", "-fsanitize=thread", PLAIN)
    for only in ("pool", "layers 4/2"):
        assert only in run(*program, only).stdout
