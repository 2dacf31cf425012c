"""Writing a GGUF file: another one's metadata and tensors, with its matrices in another format."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch

from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.quant.formats import QuantTensor, from_bytes
from argosy_worker.compute.quant.layout import BLOCKS
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_names import place
from argosy_worker.models.places import Place
from argosy_worker.models.tensor_file import TensorInfo
from argosy_worker.quantize import blocks
from argosy_worker.quantize.gptq import round_plainly
from argosy_worker.quantize.grids import Coded
from argosy_worker.quantize.targets import GGUF, Target

_ENDS = ("token_embd.weight", "output.weight")
_KEPT = ("norm", "ffn_gate_inp")
"""Parts of the names of matrices that stay: norms, and what chooses experts, are small and decide much."""
_ROWS_AT_ONCE = 4096
_FALLBACK = "F16"
"""Of matrices whose rows are no whole blocks."""
_FIRST = "GGUF."
"""Names that gguf's reader gives to the file's head."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor to write."""

    name: str
    format: str
    shape: tuple[int, ...]
    """Slowest dimension first."""
    nbytes: int
    make: Callable[[], Iterable[npt.NDArray[np.uint8]]]
    """Its bytes, in pieces."""


def pieces(file: GgufFile, config: DecoderConfig, target: Target, coded: Mapping[str, Coded]) -> list[Piece]:
    """All tensors of a file, those of `coded` (by role) as they are there.

    Other matrices are rounded plainly, embedding and head to the target's own format for them; vectors stay.
    """
    held: dict[str, list[tuple[Place, Coded]]] = {}
    for role, one in coded.items():
        found_at = place(config, role)
        held.setdefault(found_at.name, []).append((found_at, one))
    found = []
    for info in file.tensors.values():
        parts = held.get(info.name, [])
        if parts and sum(len(one.codes) for _, one in parts) == math.prod(info.shape[:-1]):
            found.append(_coded(info, target.for_rows(info.shape[-1]), parts))
        elif len(info.shape) < 2 or not info.name.endswith(".weight") or any(part in info.name for part in _KEPT):
            found.append(Piece(info.name, info.format, info.shape, info.nbytes, partial(_as_it_is, file, info)))
        else:
            found.append(_converted(file, info, target))
    return found


def _as_it_is(file: GgufFile, info: TensorInfo) -> list[npt.NDArray[np.uint8]]:
    return [file.rows(info.name, 0, info.shape[0])]


def _coded(info: TensorInfo, target: Target, parts: list[tuple[Place, Coded]]) -> Piece:
    """A tensor that is one role's matrix, or several: experts one after the other, fused ones one below the other."""
    parts = sorted(parts, key=lambda part: (part[0].expert or 0, part[0].begin))

    def make() -> Iterator[npt.NDArray[np.uint8]]:
        for where, coded in parts:
            found, order = blocks.pack(target.format, coded), where.order()
            yield (found if order is None else found.permuted(order.argsort())).raw.numpy()

    return _sized(info, target.format, make)


def _converted(file: GgufFile, info: TensorInfo, target: Target) -> Piece:
    target = target.for_rows(info.shape[-1])
    format_ = target.plain if target.grid is None or info.name in _ENDS else target.format
    if info.shape[-1] % BLOCKS[format_][0]:
        format_ = _FALLBACK

    def make() -> Iterator[npt.NDArray[np.uint8]]:
        for part in _slices(file, info):
            yield convert(part, format_).raw.numpy()

    return _sized(info, format_, make)


def _sized(info: TensorInfo, format_: str, make: Callable[[], Iterable[npt.NDArray[np.uint8]]]) -> Piece:
    block, width = BLOCKS[format_]
    return Piece(info.name, format_, info.shape, math.prod(info.shape) // block * width, make)


def _slices(file: GgufFile, info: TensorInfo) -> Iterator[QuantTensor]:
    """The rows of a matrix, or of a stack of them, a few at a time."""
    inner = math.prod(info.shape[1:-1])  # rows of the matrix for each step along the first dimension
    step = max(1, _ROWS_AT_ONCE // inner)
    for begin in range(0, info.shape[0], step):
        end = min(begin + step, info.shape[0])
        raw = torch.from_numpy(file.rows(info.name, begin, end))
        yield from_bytes(info.format, raw, (end - begin) * inner, info.shape[-1])


def convert(matrix: QuantTensor, format_: str) -> QuantTensor:
    """A matrix in another of ggml's formats, rounded plainly; the same one where nothing changes."""
    if matrix.format == format_:
        return matrix
    if format_ in FLOATS:
        values = matrix.dequantize().to(FLOATS[format_])
        return QuantTensor(format_, values.contiguous().view(torch.uint8), matrix.cols)
    target = GGUF[format_.lower()]
    if target.grid is None:
        raise ValueError(f"{format_} has no grid")
    return blocks.pack(format_, round_plainly(matrix.dequantize(), target.grid, target.group))


FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def write(
    path: Path, source: Path, table: list[Piece], target: Target, *, progress: Callable[[str, float], None]
) -> None:
    """Write a file with the metadata of `source`.

    Raises:
        OSError: the disk is full, or the like.

    """
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path, architecture)
    replaced = {"general.architecture", "general.file_type", "general.quantization_version"}
    for field in reader.fields.values():
        if field.name in replaced or field.name.startswith(_FIRST):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(target.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for piece in table:
        kind = gguf.GGMLQuantizationType[piece.format]
        block, width = BLOCKS[piece.format]
        bytes_shape = (*piece.shape[:-1], piece.shape[-1] // block * width)
        writer.add_tensor_info(piece.name, bytes_shape, np.dtype(np.uint8), piece.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, piece in enumerate(table):
        writer.write_tensor_data(np.concatenate([part.reshape(-1) for part in piece.make()]))
        progress("writing", (done + 1) / len(table))
    writer.close()
