"""What the CPU can do, by torch's own probes."""

import functools

import torch

_PROBES = {
    "avx2": "_is_avx2_supported",
    "avx512": "_is_avx512_supported",
    "avx512_vnni": "_is_vnni_supported",
    "avx512_bf16": "_is_avx512_bf16_supported",
    "amx_tile": "_is_amx_tile_supported",
}


@functools.cache
def cpu_features() -> frozenset[str]:
    """Names of the instruction sets, as in `_PROBES`; a probe that this torch lacks counts as absent."""
    found = set()
    for name, probe in _PROBES.items():
        function = getattr(torch.cpu, probe, None) or getattr(torch._C._cpu, probe, None)  # noqa: SLF001
        if function is not None and function():
            found.add(name)
    return frozenset(found)
