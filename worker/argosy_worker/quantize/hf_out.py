"""Writing a folder of safetensors with config.json and tokenizer; quantized ones as compressed-tensors lays them out.

Of a linear layer `NAME.weight` [out, in] there are then, in groups along the inputs (source: the compressed-tensors
library, compressors/quantized_compressors and quant_config.py):

    int4 (pack-quantized)    NAME.weight_packed int32 [out, in / 8], codes 0 to 15 from the low bits on, 8 means zero
                             NAME.weight_scale [out, in / group], NAME.weight_shape int64 [2]
    int8 (int-quantized)     NAME.weight int8, NAME.weight_scale [out, 1]
    fp8 (float-quantized)    NAME.weight float8 E4M3, NAME.weight_scale [out, 1]
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.core.facts import TokenizerFacts
from argosy_worker.models.files import read_json
from argosy_worker.models.hf_names import place
from argosy_worker.models.hf_weights import INDEX, SINGLE
from argosy_worker.models.weights import WeightSource, shape_of
from argosy_worker.quantize.gguf_out import FLOATS
from argosy_worker.quantize.grids import Coded
from argosy_worker.quantize.hf_config_out import config, tokenizer_files
from argosy_worker.quantize.targets import FP8_MAX, Target

SHARD_BYTES = 2 << 30
"""A file holds no more than that, or one tensor."""
_COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
    "chat_template.jinja",
)  # fmt: skip
_MAX_CONFIG = 16 << 20
_FORMATS = {"int4": "pack-quantized", "int8": "int-quantized", "fp8": "float-quantized"}
_DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_TINY = 1e-12

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What goes into a folder."""

    source: Path
    """The folder or GGUF file that `weights` reads."""
    weights: WeightSource
    facts: TokenizerFacts
    target: Target
    coded: Mapping[str, Coded]
    """Matrices on the target's grid, by role."""
    roles: Sequence[str]
    """Everything that the model reads."""


def write(folder: Path, content: Content, *, progress: Progress) -> None:
    """Write into an empty folder.

    Raises:
        ModelUnsupportedError: the source says something that config.json has no words for.
        OSError: the disk is full, or the like.

    """
    source, target = content.source, content.target
    if source.is_dir() and (source / "config.json").is_file():
        settings = read_json(source / "config.json", _MAX_CONFIG)
        for name in _COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    else:
        settings = config(content.weights, content.facts)
        for name, raw in tokenizer_files(content.facts).items():
            (folder / name).write_bytes(raw)
    for old in ("torch_dtype", "quantization_config"):
        settings.pop(old, None)
    settings["dtype"] = _DTYPE_NAMES[target.plain]
    if target.name in _FORMATS:
        settings["quantization_config"] = _quantization(target)
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    _write_tensors(folder, content, progress)


def _quantization(target: Target) -> dict[str, Any]:
    grouped = {"strategy": "group", "group_size": target.group} if target.group else {"strategy": "channel"}
    numbers = {"num_bits": 4 if target.name == "int4" else 8, "type": "float" if target.name == "fp8" else "int"}
    scheme = {**numbers, **grouped, "symmetric": True, "dynamic": False, "observer": "minmax"}
    return {
        "quant_method": "compressed-tensors",
        "format": _FORMATS[target.name],
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": scheme,
                "input_activations": None,
                "output_activations": None,
                "format": _FORMATS[target.name],
            }
        },
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


def _write_tensors(folder: Path, content: Content, progress: Progress) -> None:
    shards = _shards(content)
    table: dict[str, str] = {}
    total, done = 0, 0
    for number, shard in enumerate(shards):
        name = SINGLE if len(shards) == 1 else f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        tensors: dict[str, Tensor] = {}
        for role in shard:
            tensors |= _tensors(role, content)
            done += 1
            progress("writing", done / len(content.roles))
        save_file(tensors, folder / name, metadata={"format": "pt"})
        table |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": table}
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _shards(content: Content) -> list[list[str]]:
    """Roles by file. Sizes are those of the floats: an upper bound."""
    shards: list[list[str]] = [[]]
    left = SHARD_BYTES
    for role in content.roles:
        size = math.prod(shape_of(content.weights.config, role)) * FLOATS[content.target.plain].itemsize
        if shards[-1] and size > left:
            shards.append([])
            left = SHARD_BYTES
        shards[-1].append(role)
        left -= size
    return shards


def _name(role: str, content: Content) -> str:
    found = place(content.weights.config, role)
    if not found.whole:
        raise ModelUnsupportedError(
            f"the tensor {found.name!r} holds more than one matrix, or norms less 1: such models cannot be written as "
            "a folder of safetensors"
        )
    return found.name


def _tensors(role: str, content: Content) -> Iterator[tuple[str, Tensor]]:
    """What is stored for a role: names and tensors."""
    name, weights, target = _name(role, content), content.weights, content.target
    plain, coded = FLOATS[target.plain], content.coded.get(role)
    if len(shape_of(weights.config, role)) == 1:
        yield name, weights.vector(role)  # small, and they decide much: as exact as they were
    elif coded is not None and target.name == "int4":
        yield f"{name}_packed", pack_int4(coded.codes)
        yield f"{name}_scale", coded.scale.to(plain)
        yield f"{name}_shape", torch.tensor(coded.codes.shape)
    elif coded is not None:
        yield name, (coded.codes.short() - 128).to(torch.int8)
        yield f"{name}_scale", coded.scale.to(plain)
    elif target.name == "fp8" and role not in ("embed", "head"):
        values = weights.matrix(role).dequantize()
        scale = (values.abs().amax(1, keepdim=True) / FP8_MAX).clamp_min(_TINY).to(plain)
        yield name, (values / scale.float()).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
        yield f"{name}_scale", scale
    else:
        yield name, weights.matrix(role).dequantize().to(plain)


def pack_int4(codes: Tensor) -> Tensor:
    """uint8 [rows, cols], 8 means zero -> int32 [rows, cols / 8], the first code in the lowest bits."""
    rows, cols = codes.shape
    pairs = codes.view(rows, cols // 2, 2)
    return (pairs[..., 0] | pairs[..., 1] << 4).contiguous().view(torch.int32)
