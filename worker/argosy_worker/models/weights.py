"""What a model file offers to the decoder's builder, whatever its format. Roles name tensors:

embed, head, final_norm
layers.<i>.{q,k,v,o,gate,up,down}           matrices [out, in]
layers.<i>.{q,k,v}.bias                     vectors
layers.<i>.{attn_norm,mlp_norm,q_norm,k_norm}
"""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.quant.formats import QuantTensor


class WeightSource(Protocol):
    """An open model file, or several."""

    config: DecoderConfig

    def has(self, role: str) -> bool:
        """Whether there is such a tensor."""
        ...

    def matrix(self, role: str, rows: int, cols: int) -> QuantTensor:
        """A matrix in its storage format. Raises ModelInvalidError when it is missing or has another shape."""
        ...

    def vector(self, role: str, size: int) -> Tensor:
        """A vector as fp32 [size]. Raises like `matrix`."""
        ...

    def rope_factors(self) -> Tensor | None:
        """Divisors of the rotary frequencies, fp32 [head_dim / 2], where the file has them."""
        ...

    def formats(self) -> str:
        """Storage formats of the matrices, by share of the parameters: `Q4_1+Q8_0`."""
        ...


def check_shape(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape than the configuration says."""
    if shape != wanted:
        raise ModelInvalidError(f"tensor {name!r} has shape {shape}; the model's configuration says {wanted}")


def check_known(present: Iterable[str], known: set[str]) -> None:
    """Refuse tensors that the decoder would not use: a model with parts that are left out answers wrongly."""
    unknown = sorted(set(present) - known)
    if unknown:
        raise ModelUnsupportedError(
            f"the model has {len(unknown)} tensors that are not supported, such as {unknown[0]!r}"
        )
