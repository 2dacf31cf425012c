"""The native kernels through their C interface (main.cpp), compiled with sanitizers, and for Arm under an emulator.

A few cases of each kind; with ARGOSY_KERNEL_TESTS=full the whole grid (`make test-kernels`, minutes). With
ARGOSY_REQUIRE_ARM=1 a missing cross-compiler or emulator is a failure (`make arm-tools` installs them on Debian).
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
_X86 = hatch_build.INSTRUCTION_SETS["x86_64"]
if Path("/proc/cpuinfo").exists() and "avx_vnni" not in Path("/proc/cpuinfo").read_text():
    # Most machines that test this lack AVX-VNNI, and many have the same products as a part of AVX-512.
    _X86["kernels_avx_vnni"] = [*_X86["kernels_avx2"], "-mavx512vl", "-mavx512vnni"]
if GRID == "quick":
    # For Arm, NEON is compiled as the package does it; portable code, which takes the cross-compiler longer than all the
    # rest, only in the whole grid. (A file that is named for one architecture has to be for the other ones.)
    _X86["kernels_portable"], hatch_build.INSTRUCTION_SETS["aarch64"]["kernels_portable"] = [], ["-O1"]

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
    pytest.mark.timeout(3600 if GRID == "full" else 900),
]


def build(folder, compiler, *flags):
    """The kernels as the package compiles them, and the program: the words that start it, but for the grid."""
    library, program, sources = folder / "kernels.so", folder / "main", ROOT / hatch_build.SOURCES
    hatch_build.compile_kernels([compiler], sources, library, flags)
    warned = ("-Wall", "-Wextra", "-Werror", f"-I{sources}")
    subprocess.run(
        [compiler, *hatch_build.FLAGS, *warned, *flags, "-O1", HERE / "main.cpp", "-o", program, "-ldl", "-pthread"],
        check=True,
    )
    return [program, library]


def run(*words):
    """What it printed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this sanitizer does not know how addresses are laid out here")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """What the program prints under AddressSanitizer and UndefinedBehaviorSanitizer."""
    return run(*build(tmp_path_factory.mktemp("faults"), "c++", *FAULTS, PLAIN), GRID)


def test_no_fault_and_right_and_the_same_on_every_instruction_set(sanitized):
    assert "portable on 1 threads" in sanitized.stderr
    assert len(sanitized.stdout.splitlines()) > 50


def test_no_races(tmp_path):
    """Under ThreadSanitizer: the pool, and layers on two threads."""
    program = build(tmp_path, "c++", "-fsanitize=thread", PLAIN)
    for only in ("pool", "layers 4/2"):
        assert only in run(*program, GRID, only).stdout


def test_the_same_bits_on_arm(sanitized, tmp_path):
    """Compiled as on Arm and run by an emulator: NEON has the bits of portable code there and of this processor's here."""
    lacking = [name for name in ("aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(name) is None]
    if lacking:
        assert os.environ.get("ARGOSY_REQUIRE_ARM") != "1", lacking
        pytest.skip(f"there is no {' and no '.join(lacking)}")
    program = build(tmp_path, "aarch64-linux-gnu-g++")
    emulator = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu")
    # what the reference says of these bits is known from this processor
    found = run(*emulator, "max", *program, GRID if GRID == "full" else "bits")
    assert "neon-i8mm on 2 threads" in found.stderr
    assert "neon-dotprod on 2 threads" in found.stderr
    assert found.stdout == sanitized.stdout
    older = run(*emulator, "neoverse-n1", *program, GRID, "pool")  # one without products of rows
    assert "neon-dotprod on 2 threads" in older.stderr
    assert "i8mm" not in older.stderr
    without = run(*emulator, "cortex-a72", *program, GRID, "pool")  # a processor without dot products
    assert "neon" not in without.stderr
    assert without.stdout in sanitized.stdout
