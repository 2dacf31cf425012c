"""Weights of safetensors files: one `model.safetensors`, or shards named by `model.safetensors.index.json`.

safetensors holds a JSON header and plain numbers, no code. Files in pickle formats (`*.bin`, `*.pt`) are never opened.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from argosy_api import limits
from argosy_api.errors import ModelInvalidError, ModelNotFoundError
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.models.files import read_json
from argosy_worker.models.hf_file import SafetensorsFile
from argosy_worker.models.hf_names import place
from argosy_worker.models.hf_quantized import unpacked
from argosy_worker.models.places import PlacedWeights

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
_IGNORED = re.compile(
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
)  # old exports keep a table that is computed


class SafetensorsWeights(PlacedWeights):
    """A WeightSource over a folder's safetensors files."""

    def __init__(
        self, folder: Path, config: DecoderConfig, stack: ExitStack, quantization: dict[str, Any] | None = None
    ) -> None:
        files = unpacked(_open_all(folder, stack), quantization)
        super().__init__(config, files, place, lambda name: _IGNORED.fullmatch(name) is not None)

    def samples(self, size: int) -> Iterator[bytes]:
        """For each tensor, sorted: its name, type and shape; its first, middle and last `size` bytes."""
        for name, file in sorted(self._where.items()):
            info = file.tensors[name]
            yield f"{name} {info.format} {info.shape}".encode()
            yield file.sample(name, size)


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
