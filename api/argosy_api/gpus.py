"""Memory of common GPUs, by the names that `argosy plan --gpu` takes.

Sizes are the vendors': NVIDIA's data sheets of H100, H200, A100, A10, L4, L40S, B200 and its pages of the GeForce RTX
series; AMD's data sheets of MI300X and MI325X. Cards with GDDR6 and error correction keep a sixteenth of it for the
check bits (NVIDIA: "NVIDIA-SMI", ECC mode of the A10, L4 and L40S). Of the rest a program can have 98.5 %: PyTorch
reports 79.22 GiB of an H100 of 80 GB (vllm-project/vllm, pull request 10511) and 23.58 GiB of an RTX 3090 of 24 GB
(issue 10517).
"""

from dataclasses import dataclass

from argosy_api.memory import GIB

_PROGRAMS = 0.985


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of card."""

    name: str
    gib: int
    """As its vendor says."""
    inline_ecc: bool = False

    @property
    def usable(self) -> int:
        """Bytes that a program can have."""
        return int(self.gib * GIB * _PROGRAMS * (15 / 16 if self.inline_ecc else 1))


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("t4", 16, inline_ecc=True),
        Gpu("a10", 24, inline_ecc=True),
        Gpu("l4", 24, inline_ecc=True),
        Gpu("rtx3090", 24),
        Gpu("rtx4090", 24),
        Gpu("rtx5090", 32),
        Gpu("a100-40", 40),
        Gpu("l40s", 48, inline_ecc=True),
        Gpu("a100-80", 80),
        Gpu("h100", 80),
        Gpu("h200", 141),
        Gpu("b200", 180),
        Gpu("mi300x", 192),
        Gpu("mi325x", 256),
    )
}
"""The smaller before the larger."""
