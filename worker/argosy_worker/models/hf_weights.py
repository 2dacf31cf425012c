"""Weights of safetensors files: one `model.safetensors`, or shards named by `model.safetensors.index.json`.

safetensors holds a JSON header and plain numbers, no code. Files in pickle formats (`*.bin`, `*.pt`) are never opened.
"""

import re
import struct
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from argosy_api import limits
from argosy_api.errors import ModelInvalidError, ModelNotFoundError, ModelUnsupportedError
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.quant.formats import QuantTensor, from_plain
from argosy_worker.models.files import read_json
from argosy_worker.models.weights import check_known, check_shape

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
_IGNORED = re.compile(
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
)  # old exports keep a table that is computed
_FORMATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

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

    def __init__(self, folder: Path, config: DecoderConfig, stack: ExitStack) -> None:
        self.config = config
        self._where = _open_all(folder, stack)
        known = {
            *_NAMES.values(),
            *(tensor_name(f"layers.{i}.{n}") for i in range(config.layers) for n in _LAYER_NAMES),
        }
        check_known((name for name in self._where if not _IGNORED.fullmatch(name)), known)

    def has(self, role: str) -> bool:
        """Whether there is such a tensor."""
        return tensor_name(role) in self._where

    def matrix(self, role: str, rows: int, cols: int) -> QuantTensor:
        """A matrix in its storage format."""
        return from_plain(self._load(role, (rows, cols)))

    def vector(self, role: str, size: int) -> Tensor:
        """A vector as fp32 [size]."""
        return self._load(role, (size,)).float()

    def rope_factors(self) -> Tensor | None:
        """None: scaling is in the configuration here."""
        return None

    def formats(self) -> str:
        """Storage formats of the matrices, by share of the parameters."""
        sizes: Counter[str] = Counter()
        for name, file in self._where.items():
            view = file.get_slice(name)
            shape = view.get_shape()
            if len(shape) > 1:
                sizes[str(view.get_dtype())] += shape[0] * shape[1]
        return "+".join(name for name, _ in sizes.most_common())

    def table(self) -> list[str]:
        """One line for each tensor, sorted: name, type, shape."""
        views = ((name, self._where[name].get_slice(name)) for name in sorted(self._where))
        return [f"{name} {view.get_dtype()} {tuple(view.get_shape())}" for name, view in views]

    def sample(self, line: str, size: int) -> bytes:
        """The first, middle and last `size` bytes of the tensor of a line of `table`."""
        name = line.split(" ", 1)[0]
        flat = self._read(name).contiguous().view(-1).view(torch.uint8)
        middle = max(0, (len(flat) - size) // 2)
        parts = (flat[:size], flat[middle : middle + size], flat[-size:])
        return b"".join(part.numpy().tobytes() for part in parts)

    def _read(self, name: str) -> Tensor:
        try:
            found: Tensor = self._where[name].get_tensor(name)
        except SafetensorError as error:
            raise ModelInvalidError(f"tensor {name!r} cannot be read: {error}") from error
        return found

    def _load(self, role: str, shape: tuple[int, ...]) -> Tensor:
        name = tensor_name(role)
        if name not in self._where:
            raise ModelInvalidError(f"the model's files have no tensor {name!r}")
        found = self._read(name)
        check_shape(name, tuple(found.shape), shape)
        if found.dtype not in _FORMATS:
            raise ModelUnsupportedError(f"tensor {name!r} is {found.dtype}; supported are F32, F16 and BF16")
        return found


def tensor_name(role: str) -> str:
    """Name in the files of a role of `source.py`."""
    if role in _NAMES:
        return _NAMES[role]
    _, layer, part = role.split(".", 2)
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}"


def _open_all(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Tensor name -> the open file that holds it."""
    if (folder / SINGLE).is_file():
        file = _open(folder / SINGLE, stack)
        return dict.fromkeys(file.keys(), file)
    if not (folder / INDEX).is_file():
        raise ModelNotFoundError(f"the model's folder has neither {SINGLE} nor {INDEX}")
    where = read_json(folder / INDEX, limits.MAX_SAFETENSORS_HEADER).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise ModelInvalidError(f"{INDEX} has no object 'weight_map'")
    files: dict[str, Any] = {}
    for name, shard in where.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise ModelInvalidError(f"{INDEX} names the file {shard!r}; must be a plain name that ends in .safetensors")
        if shard not in files:
            if not (folder / shard).is_file():
                raise ModelInvalidError(f"{INDEX} names {shard!r}, which is missing")
            files[shard] = _open(folder / shard, stack)
        if name not in files[shard].keys():  # noqa: SIM118  # a safetensors handle is no mapping
            raise ModelInvalidError(f"{INDEX} says that {shard!r} holds {name!r}, but it does not")
    return {name: files[shard] for name, shard in where.items()}


def _open(path: Path, stack: ExitStack) -> Any:
    with path.open("rb") as file:
        head = file.read(8)
    if len(head) < 8:
        raise ModelInvalidError(f"{path.name!r} is truncated: it has {len(head)} bytes")
    (size,) = struct.unpack("<Q", head)
    if size > limits.MAX_SAFETENSORS_HEADER:
        raise ModelInvalidError(f"{path.name!r} has a header of {size} bytes; at most {limits.MAX_SAFETENSORS_HEADER}")
    try:
        return stack.enter_context(safe_open(str(path), framework="pt"))
    except (SafetensorError, OSError) as error:
        raise ModelInvalidError(f"{path.name!r} is no sound safetensors file: {error}") from error
