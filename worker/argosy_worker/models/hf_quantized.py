"""Quantized safetensors checkpoints (AWQ, GPTQ, compressed-tensors, float8, MXFP4): which modules are quantized, and a
view of each as one matrix that is read like any other.

What a checkpoint says of activations (their types and scales) is not followed: they are computed in more bits than it
asks for. Other methods are refused by name.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.models import hf_mxfp4, hf_packed
from argosy_worker.models.hf_packed import Module
from argosy_worker.models.tensor_file import TensorFile, TensorInfo

METHODS = ("awq", "gptq", "compressed-tensors", "fp8", "fbgemm_fp8", "mxfp4")
_COMPRESSED = ("dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
_OF_ACTIVATIONS = re.compile(r".*\.(input_scale|input_zero_point|input_scale_ub|output_scale|k_scale|v_scale)")
_PARTS = (
    "qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_scale_inv", "weight_zero_point",
    "weight_shape", "weight_g_idx",
)  # fmt: skip


def read_settings(config: dict[str, Any]) -> dict[str, Any] | None:
    """`quantization_config` of a config.json, checked; None where there is none.

    Raises:
        ModelUnsupportedError: another method, or a variant of it that changes what the numbers mean.
        ModelInvalidError: it is no object.

    """
    found = config.get("quantization_config")
    if not found:
        return None
    if not isinstance(found, dict):
        raise ModelInvalidError("config.json: quantization_config is no object")
    method = found.get("quant_method")
    if method not in METHODS:
        raise ModelUnsupportedError(
            f"quantization method {method!r} is not supported; supported are {', '.join(METHODS)}"
        )
    if method == "awq" and found.get("version", "gemm") != "gemm":
        raise ModelUnsupportedError(f"AWQ version {found.get('version')!r} is not supported; supported is 'gemm'")
    if method == "gptq":
        _check_gptq(found)
    if method == "compressed-tensors":
        _check_compressed(found)
    return found


def _check_gptq(found: dict[str, Any]) -> None:
    if found.get("bits") not in (4, 8):
        raise ModelUnsupportedError(f"GPTQ with {found.get('bits')!r} bits is not supported; supported are 4 and 8")
    if found.get("checkpoint_format", "gptq") not in ("gptq", "gptq_v2"):
        raise ModelUnsupportedError(f"GPTQ checkpoint_format {found['checkpoint_format']!r} is not supported")
    if found.get("dynamic"):
        raise ModelUnsupportedError("GPTQ with settings for single modules ('dynamic') is not supported")


def _check_compressed(found: dict[str, Any]) -> None:
    groups = found.get("config_groups")
    named = [g for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []
    for name in {str(found.get("format") or "dense"), *(str(g["format"]) for g in named if g.get("format"))}:
        if name not in _COMPRESSED:
            raise ModelUnsupportedError(
                f"compressed-tensors format {name!r} is not supported; supported are {', '.join(_COMPRESSED)}"
            )
    if found.get("transform_config"):
        raise ModelUnsupportedError("compressed-tensors with transforms (transform_config) is not supported")
    sparsity = found.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        raise ModelUnsupportedError(f"sparse compressed-tensors ({sparsity['format']}) are not supported")


def unpacked(where: Mapping[str, TensorFile], settings: dict[str, Any] | None) -> dict[str, TensorFile]:
    """Tensor name -> file, each quantized module as one tensor `<module>.weight`; without what is about activations.

    Raises:
        ModelInvalidError: parts of a module are missing, or do not fit together.
        ModelUnsupportedError: numbers of other sizes than 4 and 8 bits.

    """
    if settings is None:
        return dict(where)
    if settings["quant_method"] == "mxfp4":
        return hf_mxfp4.stacked(where)
    found = {name: file for name, file in where.items() if not _OF_ACTIVATIONS.fullmatch(name)}
    parts: dict[str, dict[str, str]] = {}
    for name in found:
        module, _, part = name.rpartition(".")
        if part in _PARTS:
            parts.setdefault(module, {})[part] = name
    for module, names in parts.items():
        if f"{module}.weight" in found:
            names["weight"] = f"{module}.weight"
        view = ModuleFile(Module(module, {part: (found[name], name) for part, name in names.items()}), settings)
        for name in names.values():
            del found[name]
        found[f"{module}.weight"] = view
    return found


class ModuleFile(TensorFile):
    """One quantized module as a file with one tensor. It opens nothing: the parts' files are open already."""

    def __init__(self, module: Module, settings: dict[str, Any]) -> None:
        self._module = module
        self._layout = hf_packed.layout(module, settings)
        self.name = module.name
        weight = f"{module.name}.weight"
        size = sum(file.tensors[name].nbytes for file, name in module.parts.values())
        self.tensors = {weight: TensorInfo(weight, self._layout.format, self._layout.shape, 0, size)}

    def matrix(self, name: str, begin: int, end: int) -> QuantTensor:
        """Read all parts, and give these rows."""
        del name
        return self._layout.read().part(begin, end)

    def rows(self, name: str, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """Refuse: the bytes of a row lie apart."""
        raise ModelUnsupportedError(f"tensor {name!r} is quantized and cannot be read as rows {begin} to {end}")

    def sample(self, name: str, size: int) -> bytes:
        """Samples of all parts."""
        del name
        return b"".join(
            file.sample(part, size) if file.tensors[part].shape else file.whole(part).tobytes()
            for _, (file, part) in sorted(self._module.parts.items())
        )
