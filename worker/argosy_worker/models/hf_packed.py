"""How quantized modules of safetensors checkpoints are laid out, and their numbers as a QuantTensor.

    GPTQ   qweight i32 [in * bits / 32, out], qzeros i32 [groups, out * bits / 32], scales [groups, out], g_idx [in]
           numbers along `in`, lowest bits first; version 1 stores zeros less one; with act-order the rows of `qweight`
           belong to the groups that g_idx names
    AWQ    qweight i32 [in, out / 8], qzeros i32 [groups, out / 8], scales [groups, out]
           numbers along `out`, eight of an i32 in the order 0 2 4 6 1 3 5 7
    compressed-tensors
           weight_packed i32 [out, in * bits / 32], weight_shape [2], weight_scale [out, groups] and, where it is not
           symmetric, weight_zero_point i32 [out * bits / 32, groups]; signed numbers with half the range added
           weight i8 or f8 [out, in], weight_scale [out, groups], [1] or none of a dimension, weight_zero_point alike
    float8 weight f8 [out, in], weight_scale as above, or weight_scale_inv [out / 128, in / 128] for blocks

Sources: AutoGPTQ's and GPTQModel's QuantLinear, AutoAWQ's WQLinear_GEMM, compressed-tensors' compressors, and
transformers' finegrained_fp8. A weight is (number - zero) * scale.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.quant.formats import QuantTensor, from_plain
from argosy_worker.models.tensor_file import TensorFile

_DTYPES = {
    "I32": torch.int32, "I64": torch.int64, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn, "F16": torch.float16,
    "F8_E5M2": torch.float8_e5m2, "BF16": torch.bfloat16, "F32": torch.float32,
}  # fmt: skip
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Of the eight numbers in an i32 from the lowest bits on, where the i-th of the row lies."""


@dataclass(frozen=True, slots=True)
class Module:
    """A quantized linear layer: its parts, each with the file and the name of its tensor."""

    name: str
    parts: Mapping[str, tuple[TensorFile, str]]

    def has(self, part: str) -> bool:
        """Whether there is such a part."""
        return part in self.parts

    def shape(self, part: str) -> tuple[int, ...]:
        """Of a part's tensor. Raises ModelInvalidError when it is missing."""
        if part not in self.parts:
            raise ModelInvalidError(f"quantized module {self.name!r} has no {part!r}")
        file, name = self.parts[part]
        return file.tensors[name].shape

    def read(self, part: str, *types: str) -> Tensor:
        """All of a part. Raises ModelInvalidError when it is missing or of none of these types."""
        self.shape(part)
        file, name = self.parts[part]
        info = file.tensors[name]
        if info.format not in types:
            raise ModelInvalidError(f"tensor {name!r} is {info.format}; must be {', '.join(types)}")
        return torch.from_numpy(file.whole(name)).view(_DTYPES[info.format]).view(info.shape)

    def floats(self, part: str) -> Tensor:
        """A part with scales as fp32."""
        return self.read(part, "F32", "F16", "BF16").float()

    def wrong(self, part: str, wanted: tuple[int, ...]) -> ModelInvalidError:
        """What to raise for a part of another shape."""
        return ModelInvalidError(
            f"quantized module {self.name!r}: {part} has shape {self.shape(part)}; must be {wanted}"
        )


class Layout(ABC):
    """What a module holds."""

    format: str
    shape: tuple[int, int]
    """(out, in)."""

    def __init__(self, module: Module) -> None:
        self._module = module

    @abstractmethod
    def read(self) -> QuantTensor:
        """All of the matrix [out, in]."""

    def _check(self, part: str, wanted: tuple[int, ...]) -> None:
        if self._module.shape(part) != wanted:
            raise self._module.wrong(part, wanted)

    def _groups(self, groups: int) -> None:
        if not groups or self.shape[1] % groups:
            raise ModelInvalidError(
                f"quantized module {self._module.name!r}: {self.shape[1]} inputs in {groups} groups"
            )


def layout(module: Module, settings: dict[str, Any]) -> Layout:
    """The layout of a module of a checkpoint with this quantization_config. Raises ModelErrors."""
    if settings["quant_method"] == "gptq":
        return _Gptq(module, settings["bits"], first=settings.get("checkpoint_format", "gptq") == "gptq")
    if settings["quant_method"] == "awq":
        return _Awq(module)
    return _Packed(module) if module.has("weight_packed") else _Scaled(module, settings.get("weight_block_size"))


class _Gptq(Layout):
    def __init__(self, module: Module, bits: int, *, first: bool) -> None:
        super().__init__(module)
        self._bits, self._first, self.format = bits, first, "INT4" if bits == 4 else "UINT8"
        (words, out), (self._count, _) = _two(module, "qweight"), _two(module, "scales")
        self.shape = (out, words * 32 // bits)
        self._groups(self._count)
        self._check("scales", (self._count, out))
        self._check("qzeros", (self._count, out * bits // 32))

    def read(self) -> QuantTensor:
        """Numbers [out, in]; with act-order as floats, since the columns of a group lie apart."""
        module, bits, (_, inputs) = self._module, self._bits, self.shape
        numbers = _unpacked(module.read("qweight", "I32").t(), bits)
        zero = _unpacked(module.read("qzeros", "I32"), bits).t()
        if self._first:
            zero = (zero + 1) & (2**bits - 1)
        scale, zeros = module.floats("scales").t().contiguous(), zero.float().contiguous()
        if module.has("g_idx"):
            self._check("g_idx", (inputs,))
            group = module.read("g_idx", "I32").long()
            if bool((group < 0).any()) or bool((group >= self._count).any()):
                raise ModelInvalidError(f"quantized module {module.name!r}: g_idx leads out of {self._count} groups")
            if not torch.equal(group, torch.arange(inputs) // (inputs // self._count)):
                return from_plain((numbers.float() - zeros[:, group]) * scale[:, group])
        return QuantTensor(self.format, numbers.contiguous(), inputs, scale, zeros)


class _Awq(Layout):
    def __init__(self, module: Module) -> None:
        super().__init__(module)
        self.format = "INT4"
        (inputs, _), (count, out) = _two(module, "qweight"), _two(module, "scales")
        self.shape = (out, inputs)
        self._groups(count)
        self._check("qweight", (inputs, out // 8))
        self._check("qzeros", (count, out // 8))

    def read(self) -> QuantTensor:
        """Numbers [out, in]."""
        numbers, zero = (self._in_order(part) for part in ("qweight", "qzeros"))
        scale = self._module.floats("scales").t().contiguous()
        return QuantTensor(self.format, numbers.t().contiguous(), self.shape[1], scale, zero.t().float().contiguous())

    def _in_order(self, part: str) -> Tensor:
        numbers = _unpacked(self._module.read(part, "I32"), 4)
        return numbers.view(len(numbers), -1, 8)[..., list(_AWQ_ORDER)].reshape(len(numbers), -1)


class _Packed(Layout):
    def __init__(self, module: Module) -> None:
        super().__init__(module)
        found = module.read("weight_shape", "I64", "I32").tolist()
        out, words = _two(module, "weight_packed")
        if len(found) != 2 or found[0] != out or not 0 < found[1] <= words * 32:
            raise ModelInvalidError(f"quantized module {module.name!r}: weight_shape is {found}")
        self.shape = (out, found[1])
        self._bits = next((b for b in (4, 8) if words == -(-found[1] * b // 32)), 0)
        if not self._bits:
            raise ModelUnsupportedError(
                f"quantized module {module.name!r} has {words * 32 / found[1]:g} bits a weight; supported are 4 and 8"
            )
        self._signed = self._bits == 8 and not module.has("weight_zero_point")
        self.format = "INT4" if self._bits == 4 else "INT8" if self._signed else "UINT8"
        self._count = _two(module, "weight_scale")[1]
        self._groups(self._count)
        self._check("weight_scale", (out, self._count))

    def read(self) -> QuantTensor:
        """Numbers [out, in]; with act-order as floats, since the columns of a group lie apart."""
        module, (out, inputs) = self._module, self.shape
        numbers = _unpacked(module.read("weight_packed", "I32"), self._bits)[:, :inputs].contiguous()
        scale = module.floats("weight_scale")
        zero = torch.full_like(scale, 2 ** (self._bits - 1))
        if module.has("weight_zero_point"):
            self._check("weight_zero_point", (-(-out * self._bits // 32), self._count))
            packed = module.read("weight_zero_point", "I32")
            zero = _unpacked(packed.t().contiguous(), self._bits)[:, :out].t().float().contiguous()
        if module.has("weight_g_idx"):
            self._check("weight_g_idx", (inputs,))
            group = module.read("weight_g_idx", "I32").long()
            if bool((group < 0).any()) or bool((group >= self._count).any()):
                raise ModelInvalidError(f"quantized module {module.name!r}: weight_g_idx leads out of its groups")
            return from_plain((numbers.float() - zero[:, group]) * scale[:, group])
        if self._signed:
            return QuantTensor("INT8", numbers ^ 128, inputs, scale)
        return QuantTensor(self.format, numbers, inputs, scale, zero)


class _Scaled(Layout):
    """Numbers of 8 bits as they are, with scales of rows, groups, blocks or all of them."""

    def __init__(self, module: Module, block: Any) -> None:
        super().__init__(module)
        self.shape = _two(module, "weight")
        file, name = module.parts["weight"]
        kind = file.tensors[name].format
        self.format = "INT8" if kind == "I8" else kind
        if self.format not in ("INT8", "F8_E4M3", "F8_E5M2"):
            raise ModelUnsupportedError(f"tensor {name!r} is {kind} and has scales; supported are I8, F8_E4M3, F8_E5M2")
        self._block: tuple[int, int] | None = None
        if module.has("weight_scale_inv"):
            sizes = block if isinstance(block, list) else []
            if len(sizes) != 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
                raise ModelInvalidError(f"config.json: weight_block_size is {block!r}; must be two sizes")
            self._block = (sizes[0], sizes[1])
            self._check("weight_scale_inv", (-(-self.shape[0] // sizes[0]), -(-self.shape[1] // sizes[1])))

    def read(self) -> QuantTensor:
        """The numbers, with the scales that each row has; as floats where blocks are cut by the matrix' edge."""
        module, (out, inputs) = self._module, self.shape
        numbers = module.read("weight", "I8", "F8_E4M3", "F8_E5M2")
        if self._block is None:
            scale = self._for_rows("weight_scale", module.floats("weight_scale"))
            zero = None
            if module.has("weight_zero_point"):
                zero = self._for_rows("weight_zero_point", module.read("weight_zero_point", "I8").float())
            return QuantTensor(self.format, numbers.view(torch.uint8), inputs, scale, zero)
        high, wide = self._block
        scale = module.floats("weight_scale_inv").repeat_interleave(high, 0)[:out]
        if inputs % wide:
            return from_plain(numbers.float() * scale.repeat_interleave(wide, 1)[:, :inputs])
        return QuantTensor(self.format, numbers.view(torch.uint8), inputs, scale.contiguous())

    def _for_rows(self, part: str, found: Tensor) -> Tensor:
        """[out, groups] of [out, groups], [out], or a single number."""
        out = self.shape[0]
        if found.numel() == 1:
            return found.reshape(1, 1).expand(out, 1).contiguous()
        if found.dim() == 1 and len(found) == out:
            return found[:, None].contiguous()
        if found.dim() != 2 or len(found) != out:
            raise self._module.wrong(part, (out, 1))
        self._groups(found.shape[1])
        return found.contiguous()


def _two(module: Module, part: str) -> tuple[int, int]:
    """The shape of a matrix."""
    shape = module.shape(part)
    if len(shape) != 2:
        raise ModelInvalidError(f"quantized module {module.name!r}: {part} has shape {shape}; must have two dimensions")
    return shape[0], shape[1]


def _unpacked(words: Tensor, bits: int) -> Tensor:
    """i32 [n, m] -> uint8 [n, m * 32 / bits], the lowest bits first."""
    found = words.contiguous().view(torch.uint8)  # little-endian, as the file
    return found if bits == 8 else torch.stack((found & 15, found >> 4), -1).view(len(words), -1)
