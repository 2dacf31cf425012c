"""Which arithmetic goes with which weights, on which device. Pure: what a machine is able to is told, not asked."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from argosy_api.errors import ModelUnsupportedError

COMPUTES = ("auto", "int8", "fp32", "bf16")
OWN = "own"
"""Weights of `auto` where there are native kernels: the checkpoint's own 4- or 8-bit numbers, else 8 bits in blocks."""
OWN_INT8, OWN_INT4 = "own-int8", "own-int4"
"""`int8` and `int4` where there are native kernels."""
NATIVE = (OWN, OWN_INT8, OWN_INT4)
"""Weights that the native kernels compute."""
_NATIVE = {"auto": OWN, "int8": OWN_INT8, "int4": OWN_INT4}
OWN_GROUP, OWN_TILE = 32, 16
"""Inputs and outputs of such a linear are multiples of these; others are held as without native kernels."""
_FOUR, _FINE = {"Q4_0", "Q4_1"}, {"Q4_K"}
"""What stays in 4 bits, with scales in fp16 and with finer ones."""
INT4_GROUP = 32
"""Weights of a group of int4 when nobody says."""


class OwnForm(NamedTuple):
    """How native kernels hold a linear."""

    bits: int
    """4 or 8."""
    scale_bits: int
    """16, or 32 with 4 bits."""

    @property
    def block_bytes(self) -> int:
        """Bytes of 32 weights, with their scale, and with 4 bits a minimum."""
        return (4 * self.bits * 8 + self.scale_bits * (2 if self.bits == 4 else 1)) // 8

    def __str__(self) -> str:
        return f"{self.bits}-bit weights{' with fp32 scales' if self.scale_bits == 32 else ''}"


def own_form(formats: Iterable[str], weights: str = OWN) -> OwnForm:
    """For parts of these formats, which are computed as one, with `weights` of NATIVE."""
    names = set(formats)
    if weights == OWN_INT8:
        return OwnForm(8, 16)
    if weights == OWN_INT4:  # INT4: what checkpoints of AWQ, GPTQ and compressed-tensors are read into
        return OwnForm(4, 32 if names & (_FINE | {"INT4"}) else 16)
    if names <= _FOUR:
        return OwnForm(4, 16)
    return OwnForm(4, 32) if names <= _FOUR | _FINE else OwnForm(8, 16)


_ARITHMETIC: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {
        "none": ("fp32",),
        "fp16": ("fp32",),
        "bf16": ("fp32",),
        "int8": ("int8", "fp32"),
        "int4": ("bf16",),
        "fp8": ("fp32",),
    },
    "cuda": {
        "none": ("bf16", "fp32"),
        "bf16": ("bf16",),
        "int8": ("bf16", "int8"),
        "int4": ("bf16",),
        "fp8": ("bf16",),
    },
}
"""Device -> weights -> arithmetic that reads them, the preferred first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How the linears of a model are held and computed; nothing in it is `auto`."""

    weights: str
    """`none` (the checkpoint's own values in the compute type), `fp16`, `bf16`, `int8`, `int4`, `fp8` or of NATIVE."""
    group: int
    """Weights that share a scale; 0 where a scale is for a whole row, or where there is none."""
    compute: str
    """`int8`, `fp32` or `bf16`."""


def resolve(
    weights: str, group_size: int | None, compute: str, device: str, *, integers: bool, native: bool = False
) -> Precision:
    """What was asked for, without `auto`.

    `integers`: whether this CPU adds products of integers exactly. `native`: whether it has kernels of our own.

    Raises:
        ModelUnsupportedError: the device cannot compute it; the message says what it can.

    """
    if compute not in COMPUTES:
        raise ModelUnsupportedError(f"engine.compute {compute!r} is unknown; must be one of {', '.join(COMPUTES)}")
    able = {
        name: tuple(c for c in computes if c != "int8" or integers or compute == c)
        for name, computes in _ARITHMETIC[device].items()
    }
    if (
        native
        and device == "cpu"
        and compute == "auto"
        and weights in _NATIVE
        and (weights != "auto" or not group_size)
    ):
        group = 0 if weights == "auto" else group_size or OWN_GROUP
        return Precision(weights=_NATIVE[weights], group=group, compute="int8")
    if weights == "auto":
        preferred = "int8" if device == "cpu" and (compute == "int8" or (compute == "auto" and integers)) else "none"
        weights = preferred
    if not able.get(weights):
        choices = ", ".join(name for name, computes in able.items() if computes)
        raise ModelUnsupportedError(
            f"quantization.weights {weights!r} cannot be computed on this {device} device; it can: {choices}"
        )
    if compute != "auto" and compute not in able[weights]:
        raise ModelUnsupportedError(
            f"engine.compute {compute!r} does not go with weights {weights!r} on a {device} device; "
            f"leave it at auto, or at one of {', '.join(able[weights])}"
        )
    if group_size and weights not in ("int4", "int8"):
        raise ModelUnsupportedError(f"quantization.groupSize is for int4 and int8; the weights are {weights!r}")
    group = group_size or (INT4_GROUP if weights == "int4" else 0)
    return Precision(weights=weights, group=group, compute=able[weights][0] if compute == "auto" else compute)


def floats_of(precision: Precision, device: str) -> str:
    """`fp32` or `bf16`: what goes between the linears. On a CPU it is fp32, whatever these compute in."""
    return "fp32" if device == "cpu" or precision.compute == "fp32" else "bf16"


def own_kv(kv_cache: str, precision: Precision) -> str:
    """`spec.quantization.kvCache`, where `auto` is fp16 with native kernels: half the memory to read, and to fill.

    Keys and values of fp16 lose less than the 8 bits of the activations that they were made from.
    """
    return "fp16" if kv_cache == "auto" and precision.weights in NATIVE else kv_cache


def of_shape(precision: Precision, inputs: int, outputs: int, device: str, *, integers: bool) -> Precision:
    """What holds a linear of this shape."""
    if precision.weights not in NATIVE or not (inputs % OWN_GROUP or outputs % OWN_TILE):
        return precision
    return resolve("auto" if precision.weights == OWN else "int8", None, "auto", device, integers=integers)


def of_head(precision: Precision, device: str, *, integers: bool) -> Precision:
    """int8 for the LM head of an int4 model: its logits decide between tokens."""
    if precision.weights == OWN_INT4:
        return Precision(weights=OWN_INT8, group=OWN_GROUP, compute="int8")
    if precision.weights != "int4":
        return precision
    return resolve("int8", None, "auto", device, integers=integers)
