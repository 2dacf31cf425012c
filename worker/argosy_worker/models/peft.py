"""LoRA adapters in the files of the peft library: adapter_config.json and adapter_model.safetensors. No torch.

A file's tensors are `base_model.model.<module>.lora_A.weight` [rank, in] and `...lora_B.weight` [out, rank]; modules
have the names of checkpoints of the Hugging Face layout, also where the model itself is a GGUF file (whose rows of q
and k are put back into that order when it is loaded).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from argosy_api.errors import ModelInvalidError, ModelNotFoundError, ModelUnsupportedError
from argosy_worker.compute.adapter import PARTS, Floats, LoadedAdapter, LowRank, Up
from argosy_worker.compute.config import DecoderConfig, Experts
from argosy_worker.models.families import BY_ARCHITECTURE, BY_MODEL_TYPE
from argosy_worker.models.hf_file import SafetensorsFile
from argosy_worker.models.hf_names import place
from argosy_worker.models.peft_config import PeftConfig, read_config
from argosy_worker.models.weights import shape_of

NAME = "adapter_model.safetensors"
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_FLOATS = ("F32", "F16", "BF16")


class _Part(NamedTuple):
    """Of a linear of the decoder: which rows of a module's outputs it has."""

    layer: int
    role: str
    begin: int
    rows: int


def read_adapter(folder: Path, config: DecoderConfig, *, most_bytes: int | None = None) -> LoadedAdapter:
    """Read an adapter of the model that `config` describes.

    Args:
        folder: with its two files.
        config: of the model that it is for.
        most_bytes: memory that it may take at most.

    Raises:
        ModelNotFoundError: a file is missing.
        ModelInvalidError: it is unsound, or of another model; says which field or tensor.
        ModelUnsupportedError: it holds what is not supported, or takes too much memory.

    """
    told = read_config(folder)
    if not (folder / NAME).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        advice = "; adapter_model.bin is a pickle, which is never read: save it as safetensors" if pickled else ""
        raise ModelNotFoundError(f"no {NAME} at the adapter's source{advice}")
    with SafetensorsFile(folder / NAME) as file:
        modules = _modules(file, config)
        told.check_modules(list(modules))
        wanted = sum(4 * info.shape[0] * info.shape[1] for info in file.tensors.values())
        if most_bytes is not None and wanted > most_bytes:
            raise ModelUnsupportedError(
                f"takes {wanted} bytes of memory; a worker has {most_bytes} for all adapters (engine.adapterMemory)"
            )
        added = _assembled(file, told, modules, config)
    return LoadedAdapter(_digest(added), config.layers, added)


def _modules(file: SafetensorsFile, config: DecoderConfig) -> dict[str, list[_Part]]:
    """The modules that the file has tensors of, and which parts of the decoder's linears they are."""
    known = _known(config)
    found: dict[str, list[_Part]] = {}
    halves: set[tuple[str, str]] = set()
    for name in sorted(file.tensors):
        match = _TENSOR.fullmatch(name)
        module = match[1] if match is not None else ""
        if match is None or module not in known:
            raise ModelUnsupportedError(
                f"tensor {name[:120]!r} is not supported: adapters may be of attention's projections and of "
                "feed-forward parts without experts, in layers that the model has"
            )
        found[module] = known[module]
        halves.add((module, match[2]))
    for module in found:
        for half in "AB":
            if (module, half) not in halves:
                raise ModelInvalidError(f"the file has no lora_{half} of {module!r}")
    if not found:
        raise ModelInvalidError("the file has no tensors")
    return found


def _known(config: DecoderConfig) -> dict[str, list[_Part]]:
    family = BY_MODEL_TYPE.get(config.architecture) or BY_ARCHITECTURE[config.architecture]
    named = replace(config, architecture=family.model_type)
    known: dict[str, list[_Part]] = {}
    for layer, spec in enumerate(config.layer_specs()):
        roles = "qkvo" if isinstance(spec.mlp, Experts) else ("q", "k", "v", "o", "gate", "up", "down")
        for role in roles:
            at = place(named, f"layers.{layer}.{role}")
            rows = at.shape[0] if at.rows is None else at.rows
            known.setdefault(at.name.removesuffix(".weight"), []).append(_Part(layer, role, at.begin, rows))
    return known


def _assembled(
    file: SafetensorsFile, told: PeftConfig, modules: Mapping[str, list[_Part]], config: DecoderConfig
) -> dict[tuple[int, str], LowRank]:
    """All matrices, by the decoder's linears."""
    of_part = {(part.layer, part.role): (module, part) for module, parts in modules.items() for part in parts}
    added: dict[tuple[int, str], LowRank] = {}
    for layer in range(config.layers):
        for linear, parts in PARTS.items():
            downs: dict[str, tuple[int, Floats]] = {}
            ups: list[Up | None] = []
            begin = first = 0
            for role in parts:
                outputs, inputs = shape_of(config, f"layers.{layer}.{role}")
                found = of_part.get((layer, role))
                up = None
                if found is not None:
                    module, part = found
                    if module not in downs:  # a module of several parts has one `down` for all of them
                        downs[module] = first, _matrix(file, module, "A", told.rank_of(module), inputs)
                        first += len(downs[module][1])
                    whole = sum(p.rows for p in modules[module])
                    rows = _matrix(file, module, "B", whole, told.rank_of(module))[part.begin : part.begin + part.rows]
                    scaled = np.ascontiguousarray(rows.T) * np.float32(told.scale_of(module))
                    up = Up(first=downs[module][0], begin=begin, matrix=scaled)
                ups.append(up)
                begin += outputs
            if downs:
                down = np.ascontiguousarray(np.concatenate([matrix for _, matrix in downs.values()]))
                added[layer, linear] = LowRank(down=down, ups=tuple(ups))
    return added


def _matrix(file: SafetensorsFile, module: str, half: str, rows: int, cols: int) -> Floats:
    """fp32 [rows, cols]."""
    names = [f"base_model.model.{module}.lora_{half}{end}.weight" for end in ("", ".default")]
    name = next(name for name in names if name in file.tensors)
    info = file.tensors[name]
    if info.shape != (rows, cols):
        raise ModelInvalidError(f"tensor {name!r} has shape {info.shape}; model and configuration say {(rows, cols)}")
    if info.format not in _FLOATS:
        raise ModelUnsupportedError(f"tensor {name!r} is {info.format[:20]}; supported are {', '.join(_FLOATS)}")
    found: Floats = file.matrix(name, 0, rows).of_numpy().dequantize()
    if not np.isfinite(found).all():
        raise ModelInvalidError(f"tensor {name!r} has values that are no numbers")
    return np.ascontiguousarray(found)


def _digest(added: Mapping[tuple[int, str], LowRank]) -> str:
    """Of all that the adapter adds."""
    digest = hashlib.blake2b(b"argosy-adapter-1", digest_size=16)
    for (layer, role), low in sorted(added.items()):
        digest.update(f"{layer} {role} {low.down.shape}".encode())
        digest.update(low.down.tobytes())
        for up in low.ups:
            digest.update(b"-" if up is None else f"{up.first} {up.begin} {up.matrix.shape}".encode())
            digest.update(b"" if up is None else up.matrix.tobytes())
    return digest.hexdigest()
