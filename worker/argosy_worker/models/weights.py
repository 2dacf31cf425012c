"""What a model file offers to the decoder's builder, whatever its format. Roles name tensors:

embed, head, final_norm
layers.<i>.{q,k,v,o}                                        matrices [out, in]
layers.<i>.{gate,up,down}, or those of layers.<i>.experts.<e>, with layers.<i>.router
...bias                                                     vectors, of any of these
layers.<i>.{attn_norm,post_attn_norm,mlp_norm,post_mlp_norm,q_norm,k_norm,sinks}
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.arrays import Array
from argosy_worker.compute.config import DecoderConfig, Experts, LayerSpec
from argosy_worker.compute.quant.formats import QuantTensor, from_bytes
from argosy_worker.compute.quant.layout import BLOCKS
from argosy_worker.models.tensor_file import TensorFile, TensorInfo

ALL = slice(None)


class WeightSource(Protocol):
    """One open file, or several. `matrix` and `vector` give torch's tensors, `held` and `floats` arrays of numpy."""

    config: DecoderConfig

    def has(self, role: str) -> bool:
        """Whether there is such a tensor."""
        ...

    def matrix(self, role: str, rows: slice = ALL, cols: slice = ALL) -> QuantTensor:
        """A matrix, or a range of its rows and columns, in its storage format. Only those rows are read.

        Raises:
            ModelInvalidError: it is missing, or has another shape than the configuration says.
            ModelUnsupportedError: the columns would cut blocks of weights.

        """
        ...

    def vector(self, role: str, part: slice = ALL) -> Array:
        """A vector, or a range of it, as fp32. Raises like `matrix`."""
        ...

    def held(self, role: str) -> QuantTensor:
        """A matrix in arrays of numpy. Raises like `matrix`."""
        ...

    def floats(self, role: str) -> npt.NDArray[np.float32]:
        """A vector in an array of numpy. Raises like `matrix`."""
        ...

    def formats(self) -> str:
        """Storage formats of the matrices, by share of the parameters: `Q4_1+Q8_0`."""
        ...


def shape_of(config: DecoderConfig, role: str) -> tuple[int, ...]:
    """The whole shape of a role's tensor, by the configuration."""
    hidden, dim = config.hidden, config.head_dim
    queries, keys = config.heads * dim, config.kv_heads * dim
    part = role.split(".", 2)[-1]
    ffn = config.ffn
    if part.startswith("experts."):
        ffn, part = config.expert_ffn or ffn, part.split(".", 2)[-1]
    matrices: dict[str, tuple[int, int]] = {
        "embed": (config.vocab_size, hidden),
        "head": (config.vocab_size, hidden),
        "q": (queries, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "o": (hidden, queries),
        "gate": (ffn, hidden),
        "up": (ffn, hidden),
        "down": (hidden, ffn),
        "router": (config.experts.count if config.experts else 0, hidden),
    }
    if part in matrices:
        return matrices[part]
    if part.endswith(".bias"):
        return matrices[part.removesuffix(".bias")][:1]
    wide = config.qk_norm == "width"
    vectors = {"q_norm": queries if wide else dim, "k_norm": keys if wide else dim, "sinks": config.heads}
    return (vectors.get(part, hidden),)


def layer_roles(spec: LayerSpec) -> Iterator[str]:
    """All that a layer's tensors may be, without `layers.<i>.`; biases may be missing."""
    for part in "qkvo":
        yield from (part, f"{part}.bias")
    places = [""]
    if isinstance(spec.mlp, Experts):
        yield from ("router", "router.bias")
        places = [f"experts.{e}." for e in range(spec.mlp.count)]
    for part in (f"{place}{part}" for place in places for part in ("gate", "up", "down")):
        yield from (part, f"{part}.bias")
    if spec.norms != "after":
        yield from ("attn_norm", "mlp_norm")
    if spec.norms != "before":
        yield from ("post_attn_norm", "post_mlp_norm")
    if spec.qk_norm:
        yield from ("q_norm", "k_norm")
    if spec.sinks:
        yield "sinks"


def roles_of(config: DecoderConfig) -> Iterator[str]:
    """All that a model's tensors may be."""
    yield from ("embed", "head", "final_norm")
    for i, spec in enumerate(config.layer_specs()):
        yield from (f"layers.{i}.{role}" for role in layer_roles(spec))


def limits_of(part: slice, size: int) -> tuple[int, int]:
    """First and last + 1 of a range. Raises ValueError when it is empty, leaves gaps or leads out of 0 .. size."""
    begin, end = (0 if part.start is None else part.start), (size if part.stop is None else part.stop)
    if part.step not in (None, 1) or not 0 <= begin < end <= size:
        raise ValueError(f"{part} is no range of 0 to {size}")
    return begin, end


def read_tensor(
    file: TensorFile, name: str, shape: tuple[int, ...], rows: slice = ALL, cols: slice = ALL
) -> QuantTensor:
    """Rows and columns of a tensor of this whole shape; a vector is one row, of which `rows` is a range."""
    info = check_readable(file, name, shape)
    begin, end = limits_of(rows, shape[0])
    if len(shape) == 1:
        return from_bytes(info.format, file.rows(name, begin, end), 1, end - begin)
    found = file.matrix(name, begin, end)
    if cols == ALL:
        return found
    try:
        return found.columns(*limits_of(cols, shape[1]))
    except ValueError as error:
        raise ModelUnsupportedError(f"tensor {name!r}: {error}") from error


def storage(infos: Iterable[TensorInfo]) -> str:
    """Storage formats by share of the parameters, without the norms: `Q4_1+Q8_0`."""
    sizes: Counter[str] = Counter()
    for info in infos:
        if len(info.shape) > 1:
            sizes[info.format] += math.prod(info.shape)
    return "+".join(name for name, _ in sizes.most_common())


def check_readable(file: TensorFile, name: str, shape: tuple[int, ...]) -> TensorInfo:
    """Refuse a tensor that is missing, of another shape than the configuration says, or of an unknown format."""
    info = file.tensors.get(name)
    if info is None:
        raise ModelInvalidError(f"the model's files have no tensor {name!r}")
    if info.shape != shape:
        raise ModelInvalidError(f"tensor {name!r} has shape {info.shape}; the model's configuration says {shape}")
    if info.format not in BLOCKS:
        raise ModelUnsupportedError(f"tensor {name!r} is {info.format}; supported are {', '.join(BLOCKS)}")
    return info


def check_known(present: Iterable[str], known: set[str]) -> None:
    """Refuse tensors that the decoder would not use: a model with parts that are left out answers wrongly."""
    unknown = sorted(set(present) - known)
    if unknown:
        raise ModelUnsupportedError(
            f"the model has {len(unknown)} tensors that are not supported, such as {unknown[0]!r}"
        )
