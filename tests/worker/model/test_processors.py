"""One machine shows several processors: the libraries are told to use fewer instructions, each time in a new process."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("company.py")
LIMITS = {
    "best": {},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "sse": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    # MKL's kernels for old processors: rows of up to 7 differ from rows of 8 and more
    "compatible": {"MKL_CBWR": "COMPATIBLE"},
    "mkl-avx2": {"MKL_CBWR": "AVX2"},
}


@functools.cache
def found(limit, compute, attempt=0):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ONEDNN_", "DNNL_", "MKL_", "ATEN_"))}
    process = subprocess.run(
        [sys.executable, str(SCRIPT), compute],
        env={**environment, "OMP_WAIT_POLICY": "PASSIVE", **LIMITS[limit]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout)


@pytest.fixture(scope="module", params=LIMITS)
def fp32(request):
    return request.param, found(request.param, "fp32")


def test_fp32_rows_do_not_depend_on_company(fp32):
    """16 sequences alone, in company, and cut into chunks give the same logits, and the check at start says so."""
    _, seen = fp32
    assert seen["same"]
    assert seen["exactness"] == "exact"


def test_the_instruction_set_is_what_is_used(fp32):
    limit, seen = fp32
    assert not (limit in ("avx2", "sse", "avx512") and "vnni" in seen["instruction_set"])
    assert not (limit == "avx2" and "avx512" in seen["instruction_set"])
    if limit in ("avx2", "sse"):
        assert not seen["integers"]


@pytest.mark.parametrize("limit", ["best", "compatible"])
def test_int8_rows_do_not_depend_on_company(limit):
    if not found(limit, "fp32")["integers"]:
        pytest.skip("this processor has no exact integer products")
    seen = found(limit, "int8")
    assert seen["same"]
    assert seen["exactness"] == "exact"


def test_what_is_computed_has_a_digest():
    """The same processor twice: the same digest. Another arithmetic: another one."""
    best, again, other = found("best", "fp32"), found("best", "fp32", 1), found("compatible", "fp32")
    assert best["digest"] == again["digest"]
    assert (best["rows"] == other["rows"]) or best["digest"] != other["digest"]
