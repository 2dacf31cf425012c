"""Stacked experts of gpt-oss in MXFP4, as safetensors hold them: read as ggml's blocks of the same numbers.

    NAME_blocks u8 [experts, out, in / 32, 16]   two numbers (FP4, E2M1) a byte: an even column in the low four bits
    NAME_scales u8 [experts, out, in / 32]       exponents, 127 more than they are (E8M0)

A block of ggml has the scale before its 16 bytes, of which byte i holds columns i (low) and i + 16 (high). Nothing is
rounded. The matrices lie as [out, in], where the same model in floats has them as [in, out].

Source: OCP Microscaling Formats 1.0, and transformers' integrations/mxfp4.py.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.models.tensor_file import TensorFile, TensorInfo

BLOCKS, SCALES = "_blocks", "_scales"
_SIZE = 32


class ExpertsFile(TensorFile):
    """The blocks and scales of one stack, as a file with one tensor. It opens nothing: the parts' files are open.

    Raises:
        ModelInvalidError: a part is missing, or the two do not fit together.

    """

    def __init__(self, name: str, parts: dict[str, TensorFile]) -> None:
        self.name, self._parts = name, {}
        for part in (BLOCKS, SCALES):
            if part not in parts:
                raise ModelInvalidError(f"the model's files have no tensor {name + part!r}")
            self._parts[name + part] = parts[part]
            info = parts[part].tensors[name + part]
            if info.format != "U8":
                raise ModelInvalidError(f"tensor {info.name!r} is {info.format}; must be U8")
        blocks, scales = (file.tensors[part] for part, file in self._parts.items())
        if len(blocks.shape) != 4 or blocks.shape != (*scales.shape, _SIZE // 2):
            raise ModelInvalidError(
                f"tensor {blocks.name!r} has shape {blocks.shape}, its scales {scales.shape}; must be [experts, out, "
                "groups, 16] and [experts, out, groups]"
            )
        experts, out, groups, _ = blocks.shape
        size = blocks.nbytes + scales.nbytes
        self.tensors = {name: TensorInfo(name, "MXFP4", (experts, out, groups * _SIZE), 0, size)}

    def rows(self, name: str, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """Ggml's blocks of experts begin .. end: uint8 [n]."""
        _, out, inputs = self.tensors[name].shape
        (blocks, first), (scales, second) = self._parts.items()
        packed = first.rows(blocks, begin, end).reshape(-1, _SIZE // 2)
        numbers = np.stack((packed & 15, packed >> 4), -1).reshape(-1, _SIZE)
        found = np.empty(((end - begin) * out * inputs // _SIZE, 1 + _SIZE // 2), dtype=np.uint8)
        found[:, 0] = second.rows(scales, begin, end)
        found[:, 1:] = numbers[:, : _SIZE // 2] | numbers[:, _SIZE // 2 :] << 4
        return found.reshape(-1)

    def matrix(self, name: str, begin: int, end: int) -> QuantTensor:
        """Refuse: a stack is no matrix."""
        raise ModelUnsupportedError(f"tensor {name!r} holds several matrices, not one of rows {begin} to {end}")

    def sample(self, name: str, size: int) -> bytes:
        """Samples of both parts."""
        del name
        return b"".join(file.sample(part, size) for part, file in self._parts.items())


def stacked(where: Mapping[str, TensorFile]) -> dict[str, TensorFile]:
    """Tensor name -> file, each pair of blocks and scales as one tensor. Raises ModelInvalidError."""
    found: dict[str, TensorFile] = {}
    parts: dict[str, dict[str, TensorFile]] = {}
    for name, file in where.items():
        part = next((part for part in (BLOCKS, SCALES) if name.endswith(part)), "")
        if part:
            parts.setdefault(name.removesuffix(part), {})[part] = file
        else:
            found[name] = file
    return found | {name: ExpertsFile(name, both) for name, both in parts.items()}
