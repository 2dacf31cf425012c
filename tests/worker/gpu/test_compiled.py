"""The GPU's kernels as they are launched, compiled ahead of time: what they take, and the instructions they count on.

The suite compiles one of each kind; ARGOSY_WHOLE=1 (`make test-gpu-kernels`) all, for all targets.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WHOLE = bool(os.environ.get("ARGOSY_WHOLE"))
ROOT = Path(__file__).parents[3]
SHARED = {80: 163, 89: 99, 90: 227, 100: 227}
"""KiB of shared memory that a program may have."""
TARGETS = (80, 89, 90, 100) if WHOLE else (80, 90)


@pytest.fixture(scope="module", params=TARGETS)
def compiled(request, tmp_path_factory):
    """In a process of its own: in this one Triton interprets."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    command = [sys.executable, "tools/compile_kernels.py", "--json", "--capability", str(request.param)]
    done = subprocess.run(
        [*command, *(["--all"] if WHOLE else [])],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr[-2000:]
    return request.param, json.loads(done.stdout)["cases"]


@pytest.mark.timeout(3000 if WHOLE else 300)
def test_every_kernel_compiles_and_spills_nothing(compiled):
    capability, cases = compiled
    assert len(cases) >= 9
    assert [(case["name"], case["error"]) for case in cases if "error" in case] == []
    # sm_100 is compiled to see that Triton takes it; its tiles are those of the others, and a few spill 8 bytes
    assert capability == 100 or [(case["name"], case["stack"]) for case in cases if case["stack"]] == []
    assert [case["name"] for case in cases if case["shared"] > SHARED[capability] * 1024] == []


@pytest.mark.timeout(3000 if WHOLE else 300)
def test_two_programs_of_decoding_fit_a_multiprocessor(compiled):
    """By registers and by shared memory: what one waits for the other computes."""
    capability, cases = compiled
    names = (" 1 tokens kv bf16", " 1 tokens kv int8", " 1 tokens kv fp8", " 1 rows")
    decoding = [case for case in cases if any(name in case["name"] for name in names)]
    assert decoding
    assert [case["name"] for case in decoding if 2 * case["registers"] * 32 * case["warps"] > 65536] == []
    assert [case["name"] for case in decoding if 2 * (case["shared"] + 1024) > SHARED[capability] * 1024] == []


@pytest.mark.timeout(3000 if WHOLE else 300)
def test_the_instructions_are_there(compiled):
    """Tensor cores, those of four warps where there are such, and copies that run beside the arithmetic."""
    capability, cases = compiled
    counting = [case for case in cases if case["counts_on"]]
    assert counting
    for case in counting:
        wanted = set(case["counts_on"])
        if capability == 100:  # has others, which Triton chooses by rules of its own
            assert {"mma", "tcgen05"} & set(case["ptx"]), (case["name"], case["ptx"])
            continue
        if capability < 90:
            wanted = {"mma" if name == "wgmma" else name for name in wanted}
        assert wanted <= set(case["ptx"]), (case["name"], case["ptx"])
        unit = ("I" if "s8" in wanted else "H") + ("GMMA" if "wgmma" in wanted else "MMA")
        assert {unit, "LDGSTS"} <= set(case["sass"]), (case["name"], case["sass"])
