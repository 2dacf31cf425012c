"""What the CPU can do, by torch's own probes, less what the environment forbids the libraries to use."""

import functools
import os
from collections.abc import Mapping

import torch

_PROBES = {
    "avx2": "_is_avx2_supported",
    "avx512": "_is_avx512_supported",
    "avx512_vnni": "_is_vnni_supported",
    "avx512_bf16": "_is_avx512_bf16_supported",
    "amx_tile": "_is_amx_tile_supported",
}
_LEAST = {"avx2": "AVX2", "avx512": "AVX512_CORE", "avx512_vnni": "AVX512_CORE_VNNI", "avx512_bf16": "AVX512_CORE_BF16"}
"""oneDNN's limit from which on it uses them."""
_LEVELS = (
    "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16",
    "AVX512_CORE_FP16",
)  # fmt: skip
"""oneDNN's names for its limit, lowest first; what it knows beyond these includes AMX."""


@functools.cache
def cpu_features() -> frozenset[str]:
    """Names of the instruction sets, as in `_PROBES`; a probe that this torch lacks counts as absent."""
    found = set()
    for name, probe in _PROBES.items():
        function = getattr(torch.cpu, probe, None) or getattr(torch._C._cpu, probe, None)  # noqa: SLF001
        if function is not None and function():
            found.add(name)
    return limited(found, os.environ)


def limited(features: set[str], environment: Mapping[str, str]) -> frozenset[str]:
    """What oneDNN's own limit leaves: torch's probes ask the processor and do not know of it."""
    limit = environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA") or "ALL"
    if limit.upper() not in _LEVELS:
        return frozenset(features)
    level = _LEVELS.index(limit.upper())
    return frozenset(name for name in features if name in _LEAST and _LEVELS.index(_LEAST[name]) <= level)


def instruction_set() -> str:
    """The instruction sets that the kernels use, in a word: `avx512-vnni`, `avx512-amx`, `avx2`, ...

    The first part is torch's own (which ATEN_CPU_CAPABILITY can lower), the second what integer products use.
    """
    features = cpu_features()
    extra = next((word for name, word in (("amx_tile", "-amx"), ("avx512_vnni", "-vnni")) if name in features), "")
    return torch.backends.cpu.get_cpu_capability().lower() + extra
