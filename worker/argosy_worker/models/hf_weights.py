"""Weights of safetensors files: one `model.safetensors`, or shards named by `model.safetensors.index.json`.

safetensors holds a JSON header and plain numbers, no code. Files in pickle formats (`*.bin`, `*.pt`) are never opened.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from argosy_api import limits
from argosy_api.errors import ModelInvalidError, ModelNotFoundError
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.quant.formats import QuantTensor
from argosy_worker.models.files import read_json
from argosy_worker.models.hf_file import SafetensorsFile
from argosy_worker.models.hf_quantized import unpacked
from argosy_worker.models.weights import ALL, check_known, read_tensor, shape_of, storage

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
_IGNORED = re.compile(
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
)  # old exports keep a table that is computed

_NAMES = {
    "embed": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "final_norm": "model.norm.weight",
}
_LAYER_NAMES = {
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q.bias": "self_attn.q_proj.bias",
    "k.bias": "self_attn.k_proj.bias",
    "v.bias": "self_attn.v_proj.bias",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "attn_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
}


class SafetensorsWeights:
    """A WeightSource over a folder's safetensors files."""

    def __init__(
        self, folder: Path, config: DecoderConfig, stack: ExitStack, quantization: dict[str, Any] | None = None
    ) -> None:
        self.config = config
        self._where = unpacked(_open_all(folder, stack), quantization)
        known = {
            *_NAMES.values(),
            *(tensor_name(f"layers.{i}.{n}") for i in range(config.layers) for n in _LAYER_NAMES),
        }
        check_known((name for name in self._where if not _IGNORED.fullmatch(name)), known)

    def has(self, role: str) -> bool:
        """Whether there is such a tensor."""
        return tensor_name(role) in self._where

    def matrix(self, role: str, rows: slice = ALL, cols: slice = ALL) -> QuantTensor:
        """A matrix in its storage format."""
        name = tensor_name(role)
        if name not in self._where:
            raise ModelInvalidError(f"the model's files have no tensor {name!r}")
        return read_tensor(self._where[name], name, shape_of(self.config, role), rows, cols)

    def vector(self, role: str, part: slice = ALL) -> Tensor:
        """A vector as fp32."""
        return self.matrix(role, part).dequantize().view(-1)

    def rope_factors(self) -> Tensor | None:
        """None: scaling is in the configuration here."""
        return None

    def formats(self) -> str:
        """Storage formats of the matrices, by share of the parameters."""
        return storage(file.tensors[name] for name, file in self._where.items())

    def samples(self, size: int) -> Iterator[bytes]:
        """For each tensor, sorted: its name, type and shape; its first, middle and last `size` bytes."""
        for name, file in sorted(self._where.items()):
            info = file.tensors[name]
            yield f"{name} {info.format} {info.shape}".encode()
            yield file.sample(name, size)


def tensor_name(role: str) -> str:
    """Name in the files of a role of `weights.py`."""
    if role in _NAMES:
        return _NAMES[role]
    _, layer, part = role.split(".", 2)
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}"


def _open_all(folder: Path, stack: ExitStack) -> dict[str, SafetensorsFile]:
    """Tensor name -> the open file that holds it."""
    if (folder / SINGLE).is_file():
        file = stack.enter_context(SafetensorsFile(folder / SINGLE))
        return dict.fromkeys(file.tensors, file)
    if not (folder / INDEX).is_file():
        raise ModelNotFoundError(f"the model's folder has neither {SINGLE} nor {INDEX}")
    where = read_json(folder / INDEX, limits.MAX_SAFETENSORS_HEADER).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise ModelInvalidError(f"{INDEX} has no object 'weight_map'")
    files: dict[str, SafetensorsFile] = {}
    for name, shard in where.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise ModelInvalidError(f"{INDEX} names the file {shard!r}; must be a plain name that ends in .safetensors")
        if shard not in files:
            if not (folder / shard).is_file():
                raise ModelInvalidError(f"{INDEX} names {shard!r}, which is missing")
            files[shard] = stack.enter_context(SafetensorsFile(folder / shard))
        if name not in files[shard].tensors:
            raise ModelInvalidError(f"{INDEX} says that {shard!r} holds {name!r}, but it does not")
    return {name: files[shard] for name, shard in where.items()}
