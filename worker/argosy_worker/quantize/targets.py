"""What `argosy quantize --to` can write.

In a GGUF file the names are ggml's (`compute/quant/formats.py` has the layouts); a folder of safetensors is written as
the compressed-tensors library lays it out, which transformers and vLLM read.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from argosy_api.errors import InvalidArgumentError
from argosy_worker.compute.quant.formats import IQ4_NL
from argosy_worker.compute.quant.layout import BLOCKS
from argosy_worker.quantize.grids import Grid, integers

Method = Literal["gptq", "search", "round"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How the weights of linear layers are stored."""

    name: str
    grid: Grid | None = None
    """None: floats of `plain`, each for itself."""
    group: int = 32
    """Weights that share a scale; 0 for a whole row."""
    plain: str = "F16"
    """Format of the matrices that are not on the grid: embedding and head of small formats, and of folders."""
    file_type: int = 0
    """`general.file_type` of a GGUF file (llama.cpp's llama_ftype)."""
    fallback: str = ""
    """Target of matrices whose rows are no whole blocks of 256, as for llama.cpp."""
    methods: tuple[Method, ...] = ("round",)
    """The best first."""

    @property
    def format(self) -> str:
        """Ggml's name of the format of a file's matrices."""
        return self.plain if self.grid is None else self.name.upper()

    def for_rows(self, cols: int) -> "Target":
        """The target of a matrix with rows of so many weights."""
        return GGUF[self.fallback] if self.fallback and cols % BLOCKS[self.format][0] else self

    def nbytes(self, weights: int, *, end: bool) -> int:
        """About how many bytes a matrix of so many weights takes; `end`: it is the embedding or the head."""
        in_folder = {"int4": 4 + 16 / self.group if self.group else 4, "int8": 8, "fp8": 8}
        if self.name in in_folder and not end:
            return math.ceil(weights * in_folder[self.name] / 8)
        block, width = BLOCKS[self.plain if end else self.name.upper()]
        return math.ceil(weights / block * width)


def _inner(low: int, high: int, outer: int) -> Grid:
    """Of a K-quant."""
    return integers(low, high, offset=low == 0, scale_type=torch.float32, outer=outer)


_ALL: tuple[Method, ...] = ("gptq", "search", "round")
GGUF: dict[str, Target] = {
    t.name: t
    for t in (
        Target(name="f32", plain="F32", file_type=0),
        Target(name="f16", plain="F16", file_type=1),
        Target(name="bf16", plain="BF16", file_type=32),
        Target(name="q8_0", grid=integers(-128, 127), plain="Q8_0", file_type=7),
        Target(name="q5_1", grid=integers(0, 31, offset=True), plain="Q8_0", file_type=9, methods=_ALL),
        Target(name="q5_0", grid=integers(-16, 15), plain="Q8_0", file_type=8, methods=_ALL),
        Target(name="q4_1", grid=integers(0, 15, offset=True), plain="Q8_0", file_type=3, methods=_ALL),
        Target(name="q4_0", grid=integers(-8, 7), plain="Q8_0", file_type=2, methods=_ALL),
        Target(
            name="q6_k", grid=_inner(-32, 31, 16), group=16, plain="Q8_0", file_type=18, fallback="q8_0", methods=_ALL
        ),
        Target(name="q5_k", grid=_inner(0, 31, 8), plain="Q8_0", file_type=16, fallback="q5_1", methods=_ALL),
        Target(name="q4_k", grid=_inner(0, 15, 8), plain="Q8_0", file_type=14, fallback="q5_0", methods=_ALL),
        Target(name="iq4_nl", grid=Grid(tuple(map(float, IQ4_NL))), plain="Q8_0", file_type=25, methods=_ALL),
    )
}
"""Targets of a file. Embedding and head of formats under 8 bits are Q8_0."""
FOLDER: dict[str, Target] = {
    t.name: t
    for t in (
        Target(name="f32", plain="F32"),
        Target(name="f16", plain="F16"),
        Target(name="bf16", plain="BF16"),
        Target(name="int8", grid=integers(-128, 127, signed=False), group=0),
        Target(name="int4", grid=integers(-8, 7, signed=False), group=32, methods=_ALL),
        Target(name="fp8", group=0),
    )
}
"""Targets of a folder. Embedding and head stay floats."""
GROUP_SIZES = (32, 64, 128)
FP8_MAX = torch.finfo(torch.float8_e4m3fn).max


def find(name: str, *, file: bool, group: int | None, method: str | None) -> tuple[Target, Method]:
    """The target and the method that were asked for.

    Raises:
        InvalidArgumentError: naming `--to`, `--group-size` or `--method`, with what there is.

    """
    known, other = (GGUF, FOLDER) if file else (FOLDER, GGUF)
    place, elsewhere = ("a GGUF file", "folder of safetensors") if file else ("a folder of safetensors", "GGUF file")
    if name not in known:
        hint = f"; it is one of a {elsewhere}: --out decides which is written" if name in other else ""
        raise InvalidArgumentError("--to", f"{name!r} is no format of {place}; must be one of {', '.join(known)}{hint}")
    target = known[name]
    if group is not None and name != "int4":
        raise InvalidArgumentError("--group-size", f"is int4's; {name} has a fixed layout")
    if group is not None and group not in GROUP_SIZES:
        raise InvalidArgumentError("--group-size", f"must be one of {', '.join(map(str, GROUP_SIZES))}")
    if group is not None:
        target = replace(target, group=group)
    for chosen in target.methods:
        if method in (None, chosen):
            return target, chosen
    raise InvalidArgumentError("--method", f"{method!r} is none for {name}; must be one of {', '.join(target.methods)}")
