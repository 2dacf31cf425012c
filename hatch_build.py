"""Compiles the native CPU kernels (worker/kernels) into the package: `pip install`, editable or not, and wheels.

Without a C++ compiler the package is built all the same: torch computes then, several times slower.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES, TARGET = "worker/kernels", "worker/argosy_worker/compute/native/libargosy_cpu.so"
STAMP = "build/kernels.stamp"
# A product and a sum are fused where the code says so, and nowhere else: bits must not depend on the compiler.
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden"]
INSTRUCTION_SETS = {
    "x86_64": {
        "kernels_avx512_vnni": [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni")] + ["-mfma", "-mf16c"],
        "kernels_avx_vnni": ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"],
        "kernels_avx2": ["-mavx2", "-mfma", "-mf16c"],
    },
    "aarch64": {
        "kernels_neon_i8mm": ["-march=armv8.2-a+dotprod+i8mm"],
        "kernels_neon_dotprod": ["-march=armv8.2-a+dotprod"],
    },
}
"""Files for one architecture only, and the flags that they want; all other files are compiled everywhere."""
ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}


class NativeKernels(BuildHookInterface[Any]):
    """The hook that hatchling calls."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile, and put the library into the wheel."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        slower = "the worker will compute with torch alone, several times slower"
        if compiler is None:
            (root / TARGET).unlink(missing_ok=True)  # what was built from other sources must not be taken for these
            self.app.display_warning(f"no C++ compiler: {slower}")
            return
        try:
            keep_compiled(shlex.split(compiler), root / SOURCES, root / TARGET, root / STAMP)
        except (subprocess.CalledProcessError, OSError) as error:
            self.app.display_warning(f"the C++ compiler {compiler} failed ({error}): {slower}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(TARGET)


def keep_compiled(compiler: list[str], sources: Path, target: Path, stamp: Path) -> None:
    """Compile, unless `target` is what this compiler made of these sources before, as `stamp` says.

    The wheel for an image is built where an editable installation has compiled already. Raises CalledProcessError and
    OSError; then there is no library: what was built from other sources must not be taken for these.
    """
    try:
        if target.exists() and stamp.exists() and stamp.read_text() == _stamp(compiler, sources, target):
            return
        compile_kernels(compiler, sources, target)
    except (subprocess.CalledProcessError, OSError):
        target.unlink(missing_ok=True)
        raise
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(_stamp(compiler, sources, target))


def _stamp(compiler: list[str], sources: Path, target: Path) -> str:
    """The library, and all that it was made of and with: sources, flags (this file), compiler."""
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True).stdout  # noqa: S603 - the compiler
    parts = (
        " ".join(compiler).encode(),
        version,
        digest_of(sources).encode(),
        Path(__file__).read_bytes(),
        target.read_bytes(),
    )
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def digest_of(sources: Path) -> str:
    """What the library says it was built from; compute/native/library.py compares it with the files beside it."""
    digest = hashlib.sha256()
    for file in sorted(sources.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def architecture(compiler: list[str]) -> str:
    """What it compiles for, which is not this machine where it is a cross-compiler. Raises CalledProcessError."""
    told = subprocess.run([*compiler, "-dumpmachine"], check=True, capture_output=True, text=True)  # noqa: S603 - the compiler
    name = told.stdout.partition("-")[0].strip().lower()
    return ALIASES.get(name, name)


def compile_kernels(compiler: list[str], sources: Path, target: Path, more: tuple[str, ...] = ()) -> None:
    """The files of `sources` for the compiler's target into one library.

    Raises CalledProcessError, with the compiler's words on its output.
    """
    extra = INSTRUCTION_SETS.get(architecture(compiler), {})
    others = {stem for files in INSTRUCTION_SETS.values() for stem in files} - extra.keys()
    named = f'-DARGOSY_SOURCES="{digest_of(sources)}"'
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        files = [file for file in sorted(sources.glob("*.cpp")) if file.stem not in others]
        units = {Path(folder) / f"{file.stem}.o": file for file in files}

        def unit(item: tuple[Path, Path]) -> None:
            flags = [*FLAGS, *extra.get(item[1].stem, []), *more, named]
            command = [*compiler, *flags, "-c", str(item[1]), "-o", str(item[0])]
            subprocess.run(command, check=True)  # noqa: S603 - the compiler

        list(pool.map(unit, units.items()))
        made = Path(folder) / "made.so"
        linked = ["-shared", "-pthread", *(["-static-libstdc++", "-static-libgcc"] if sys.platform == "linux" else [])]
        subprocess.run([*compiler, *linked, *more, *map(str, units), "-o", str(made)], check=True)  # noqa: S603 - likewise
        target.unlink(missing_ok=True)  # a process that has it open keeps the old one
        shutil.copy(made, target)
