"""The native kernels through their C interface (main.cpp), compiled with sanitizers, and for Arm under an emulator.

A few cases of each kind; with ARGOSY_KERNEL_TESTS=full the whole grid (`make test-kernels`, minutes), in parts, as many
side by side as there are processors. With ARGOSY_REQUIRE_ARM=1 a missing cross-compiler or emulator is a failure (`make
arm-tools` installs them on Debian).
"""

import importlib.util
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GRID = "full" if os.environ.get("ARGOSY_KERNEL_TESTS") == "full" else "quick"
FAULTS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS")
# A few cases: most of the time goes to the compiler. Many: below -O2 short loops over registers stay loops over memory, of
# which a sanitizer looks at each step, several times slower; what else -O2 does costs the compiler more than it gives.
SPEED = (
    ("-O2", "-fno-tree-vectorize", "-fno-gcse", "-fno-tree-pre", "-fno-schedule-insns2") if GRID == "full" else ("-O0",)
)
PROGRAM = "-O1" if GRID == "full" else "-O0"
LIMIT_S = 1800 if GRID == "full" else 600  # of a part
PARTS = 7 if GRID == "full" else 1  # no divisor of any dimension of the grid: dear cases are in all parts

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
    pytest.mark.timeout(2 * LIMIT_S),  # one compiles before
]


def build(folder, compiler, *flags):
    """The kernels as the package compiles them, and the program: the words that start it, but for the grid."""
    library, program, sources = folder / "kernels.so", folder / "main", ROOT / hatch_build.SOURCES
    hatch_build.compile_kernels([compiler], sources, library, flags)
    command = [compiler, *hatch_build.FLAGS, "-Wall", "-Wextra", "-Werror", f"-I{sources}"]
    plain = []  # without sanitizers, and fast: the reference computes a row in up to fifty ways
    for name in ("reference", "grid"):
        plain.append(folder / f"{name}.o")
        subprocess.run([*command, "-c", HERE / f"{name}.cpp", "-o", plain[-1]], check=True)
    subprocess.run(
        [*command, *flags, PROGRAM, HERE / "main.cpp", *plain, "-o", program, "-ldl", "-pthread"], check=True
    )
    return [program, library]


def run(*words):
    """What it printed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this sanitizer does not know how addresses are laid out here")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def side_by_side():
    """Runs programs, as many at a time as there are processors: f(*words) -> a future."""
    pool = ThreadPoolExecutor(os.cpu_count())
    yield lambda *words: pool.submit(run, *words)
    pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory, side_by_side):
    """What the program prints under AddressSanitizer and UndefinedBehaviorSanitizer: a future for each part."""
    program = build(tmp_path_factory.mktemp("faults"), "c++", *FAULTS, *SPEED)
    return [side_by_side(*program, GRID, f"{part}/{PARTS}") for part in range(PARTS)]


EMULATOR = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu")


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """The program, compiled as on Arm."""
    lacking = [name for name in ("aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(name) is None]
    if lacking:
        assert os.environ.get("ARGOSY_REQUIRE_ARM") != "1", lacking
        pytest.skip(f"there is no {' and no '.join(lacking)}")
    return build(tmp_path_factory.mktemp("arm"), "aarch64-linux-gnu-g++")


@pytest.fixture(scope="module")
def emulated(arm, side_by_side):
    """What it prints on Arm: a future for each part. What the reference says of these bits is known from this processor."""
    return [side_by_side(*EMULATOR, "max", *arm, f"{GRID}-bits", f"{part}/{PARTS}") for part in range(PARTS)]


@pytest.mark.parametrize("part", range(PARTS))
def test_no_fault_and_right_and_the_same_on_every_instruction_set(sanitized, part):
    found = sanitized[part].result()
    assert "portable on 1 threads" in found.stderr
    assert len(found.stdout.splitlines()) > 50


def test_no_races(tmp_path):
    """Under ThreadSanitizer: the pool, and layers on two threads."""
    program = build(tmp_path, "c++", "-fsanitize=thread", *SPEED)
    for only in ("pool", "layers 4/2"):
        assert only in run(*program, GRID, "0/1", only).stdout


@pytest.mark.parametrize("part", range(PARTS))
def test_the_same_bits_on_arm(sanitized, emulated, part):
    """Compiled as on Arm and run by an emulator: NEON has the bits of portable code there and of this processor's here."""
    found = emulated[part].result()
    assert "neon-i8mm on 2 threads" in found.stderr
    assert "neon-dotprod on 2 threads" in found.stderr
    assert found.stdout == sanitized[part].result().stdout


def test_older_processors_of_arm_have_what_they_can(sanitized, arm):
    known = "".join(part.result().stdout for part in sanitized)
    older = run(*EMULATOR, "neoverse-n1", *arm, GRID, "0/1", "pool")  # one without products of rows
    assert "neon-dotprod on 2 threads" in older.stderr
    assert "i8mm" not in older.stderr
    without = run(*EMULATOR, "cortex-a72", *arm, GRID, "0/1", "pool")  # a processor without dot products
    assert "neon" not in without.stderr
    assert without.stdout in known
