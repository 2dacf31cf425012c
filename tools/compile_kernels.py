"""Compile the GPU's kernels ahead of time, as they are launched, and tell what each takes. No GPU is needed.

    python tools/compile_kernels.py [--capability 80 89 90] [--all] [--json]

Registers and stack are ptxas's own figures; a stack that is not empty holds what did not fit into registers.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is loaded: it compiles, or it interprets
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from argosy_worker.compute.triton import shipped
from argosy_worker.compute.triton.shipped import Case

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
PTX = {
    "mma": r"\bmma\.sync",
    "wgmma": r"\bwgmma\.mma_async",
    "tcgen05": r"\btcgen05\.mma",
    "s8": r"\b(mma\.sync|wgmma\.mma_async)\S*\.s32\.s8\.s8",
    "cp.async": r"\bcp\.async\.c[ag]\.shared",
    "ex2": r"\bex2\.approx",
}
SASS = {"HMMA": r"\bHMMA\b", "HGMMA": r"\bHGMMA\b", "IMMA": r"\bIMMA\b", "IGMMA": r"\bIGMMA\b", "LDGSTS": r"\bLDGSTS\b"}


def compiled(case: Case, capability: int) -> dict[str, object]:
    """What a case takes on a GPU of this capability, or why it does not compile."""
    module, name = case.kernel.split(":")
    kernel = getattr(importlib.import_module(module), name)
    signature = {n: "constexpr" if n in case.constants else case.types[n] for n in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(kernel.arg_names)
        if n not in case.unaligned and case.types.get(n, "fp32") != "fp32"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=dict(case.constants), attrs=aligned)
    options = {"num_warps": case.warps, "num_stages": case.stages, "enable_fp_fusion": case.fusion}
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:  # noqa: BLE001  # the compiler raises several unrelated types
        return {"error": f"{type(error).__name__}: {error}"[-600:] + said.getvalue()[-600:]}
    usage, sass = _inspect(found.asm["cubin"])
    return {
        "warps": case.warps,
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),
        "shared": found.metadata.shared,
        "ptx": sorted(n for n, pattern in PTX.items() if re.search(pattern, found.asm["ptx"])),
        "sass": sorted(n for n, pattern in SASS.items() if re.search(pattern, sass)),
    }


def _inspect(cubin: bytes) -> tuple[str, str]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return tuple(
            subprocess.run([TOOLS / "cuobjdump", option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, nargs="+", default=[80, 89, 90])
    parser.add_argument("--all", action="store_true", help="every configuration, not one of each kind")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = []
    for capability in options.capability:
        for case in shipped.every() if options.all else shipped.some():
            took = compiled(case, capability)
            found.append({"name": case.name, "capability": capability, "counts_on": sorted(case.counts_on), **took})
            if not options.json:
                text = took.get("error") or " ".join(f"{k} {v}" for k, v in took.items())
                print(f"sm_{capability} {case.name:60s} {text}", flush=True)
    if options.json:
        json.dump({"triton": triton.__version__, "cases": found}, sys.stdout)
    return any("error" in one or one["stack"] for one in found)


if __name__ == "__main__":
    sys.exit(main())
