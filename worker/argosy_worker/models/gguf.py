"""GGUF (version 2 and 3): metadata, tensor table and tensor bytes of one file.

Format (little-endian): magic `GGUF`, u32 version, u64 tensor count, u64 metadata count, the metadata pairs, the tensor
table (name, dimensions with the fastest first, type, offset), padding to `general.alignment`, the tensor data.
Source: the GGUF specification in the ggml repository (docs/gguf.md).

The file is untrusted. Every count, length and offset is checked against the limits and against the bytes that are
left before anything is allocated, so memory stays proportional to the file.
"""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from argosy_api import limits
from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.quant.layout import BLOCKS
from argosy_worker.models.tensor_file import Opened, TensorFile, TensorInfo

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_NAME = 1024
MAX_ARRAY_DEPTH = 2

_SCALARS: dict[int, str] = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_SIZE = struct.Struct("<Q")
_PIECE = 1 << 20

TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 30: "BF16", 39: "MXFP4",
}  # fmt: skip
"""GGML type number -> format. A file with another number is refused, naming the tensor."""
_OTHERS = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0",
    40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
"""Types that are refused by their names."""


class GgufFile(TensorFile):
    """An open GGUF file: `metadata`, `tensors`, and reads of their rows. Use as a context manager.

    Raises:
        ModelNotFoundError: no such file.
        ModelInvalidError: truncated, corrupt or hostile content; the message says what is wrong where.
        ModelUnsupportedError: a version or tensor type that this reader does not know.

    """

    def __init__(self, path: Path | Opened) -> None:
        self._at = 0
        self.metadata: dict[str, Any] = {}
        super().__init__(path)

    def _bad(self, problem: str) -> ModelInvalidError:
        return ModelInvalidError(f"{self.name!r} is no sound GGUF file: {problem}")

    def _take(self, size: int, what: str) -> bytes:
        if size > self._size - self._at:
            raise self._bad(
                f"{what} at byte {self._at} needs {size} bytes, but {self._size - self._at} are left (truncated?)"
            )
        raw = self._file.read(size)
        if len(raw) != size:
            raise self._bad(f"{what} at byte {self._at} could not be read")
        self._at += size
        return raw

    def _int(self, layout: str, what: str) -> int:
        (value,) = struct.unpack(layout, self._take(struct.calcsize(layout), what))
        return int(value)

    def _text(self, limit: int, what: str) -> str:
        size = self._int("<Q", f"length of {what}")
        if size > limit:
            raise self._bad(f"{what} has {size} bytes; at most {limit}")
        try:
            return self._take(size, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._bad(f"{what} is not UTF-8") from error

    def _parse(self) -> None:
        magic = self._take(4, "the magic number")
        if magic != MAGIC:
            raise self._bad(f"starts with {magic!r}, not with {MAGIC!r}")
        version = self._int("<I", "the version")
        if version not in VERSIONS:
            if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
                raise ModelUnsupportedError(f"{self.name!r} is a big-endian GGUF file; only little-endian is supported")
            raise ModelUnsupportedError(f"{self.name!r} has GGUF version {version}; supported are {VERSIONS}")
        tensors = self._int("<Q", "the tensor count")
        pairs = self._int("<Q", "the metadata count")
        if tensors > limits.MAX_GGUF_TENSORS:
            raise self._bad(f"tensor count {tensors} is over the limit of {limits.MAX_GGUF_TENSORS}")
        if pairs > limits.MAX_GGUF_METADATA:
            raise self._bad(f"metadata count {pairs} is over the limit of {limits.MAX_GGUF_METADATA}")
        for _ in range(pairs):
            key = self._text(MAX_NAME, "a metadata key")
            if key in self.metadata:
                raise self._bad(f"metadata key {key!r} appears twice")
            self.metadata[key] = self._value(self._int("<I", f"type of {key!r}"), key, 0)
        table = [self._tensor() for _ in range(tensors)]
        self._place(table)

    def _value(self, kind: int, key: str, depth: int) -> Any:
        if kind in _SCALARS:
            dtype = np.dtype(_SCALARS[kind])
            return np.frombuffer(self._take(dtype.itemsize, key), dtype=dtype)[0].item()
        if kind == _STRING:
            return self._text(limits.MAX_GGUF_STRING, key)
        if kind != _ARRAY:
            raise self._bad(f"metadata {key!r} has unknown type {kind}")
        if depth >= MAX_ARRAY_DEPTH:
            raise self._bad(f"metadata {key!r} nests arrays more than {MAX_ARRAY_DEPTH} deep")
        inner = self._int("<I", f"element type of {key!r}")
        count = self._int("<Q", f"length of {key!r}")
        if count > limits.MAX_GGUF_ARRAY:
            raise self._bad(f"metadata {key!r} has {count} elements; at most {limits.MAX_GGUF_ARRAY}")
        if inner in _SCALARS:
            dtype = np.dtype(_SCALARS[inner])
            return np.frombuffer(self._take(count * dtype.itemsize, key), dtype=dtype)
        # a string or an inner array takes at least 8 bytes: refuse before building a list of `count`
        if count * 8 > self._size - self._at:
            raise self._bad(f"metadata {key!r} has {count} elements, more than the file has room for")
        if inner == _STRING:
            return self._texts(count, key)
        return [self._value(inner, key, depth + 1) for _ in range(count)]

    def _texts(self, count: int, key: str) -> list[str]:
        """So many strings, taken from larger pieces: one by one a vocabulary would take longer than all weights."""
        found: list[str] = []
        unpack, width = _SIZE.unpack_from, _SIZE.size
        piece, at, last = b"", 0, -1  # the next string's place, and the last one at which its length would be whole
        try:
            for _ in range(count):
                if at <= last:
                    begin = at + width
                    end = begin + unpack(piece, at)[0]
                    if end <= len(piece):
                        found.append(piece[begin:end].decode())
                        at = end
                        continue
                # no whole string is left in this piece
                self._at += at
                self._file.seek(self._at)
                found.append(self._text(limits.MAX_GGUF_STRING, key))
                piece, at = self._file.read(min(_PIECE, self._size - self._at)), 0
                last = len(piece) - width
        except UnicodeDecodeError as error:
            raise self._bad(f"{key} is not UTF-8") from error
        self._at += at
        self._file.seek(self._at)
        return found

    def _tensor(self) -> TensorInfo:
        name = self._text(MAX_NAME, "a tensor name")
        dims = self._int("<I", f"dimension count of {name!r}")
        if not 1 <= dims <= MAX_DIMS:
            raise self._bad(f"tensor {name!r} has {dims} dimensions; must be 1 to {MAX_DIMS}")
        shape = tuple(self._int("<Q", f"shape of {name!r}") for _ in range(dims))[::-1]
        number = self._int("<I", f"type of {name!r}")
        offset = self._int("<Q", f"offset of {name!r}")
        if number not in TYPES:
            raise ModelUnsupportedError(
                f"{self.name!r}: tensor {name!r} is {_OTHERS.get(number, f'of GGML type {number}')}; supported are "
                + ", ".join(TYPES.values())
            )
        known = TYPES[number]
        block, width = BLOCKS[known]
        count = math.prod(shape)
        if count == 0 or shape[-1] % block:
            raise self._bad(
                f"tensor {name!r} of type {known} has shape {shape}; rows must be multiples of {block}, not empty"
            )
        return TensorInfo(name, known, shape, offset, count // block * width)

    def _place(self, table: list[TensorInfo]) -> None:
        """Turn offsets within the data into offsets within the file, and check that all lie inside and apart."""
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if (
            isinstance(alignment, bool)
            or not isinstance(alignment, int)
            or not 1 <= alignment <= 1 << 20
            or alignment & (alignment - 1)
        ):
            raise self._bad(f"general.alignment is {alignment!r}; must be a power of two up to 2**20")
        start = -(-self._at // alignment) * alignment
        end_before, before = start, ""
        for info in sorted(table, key=lambda t: t.offset):
            begin = start + info.offset
            if info.offset % alignment:
                raise self._bad(f"tensor {info.name!r} is not aligned to {alignment} bytes")
            if begin + info.nbytes > self._size:
                raise self._bad(
                    f"tensor {info.name!r} needs bytes {begin} to {begin + info.nbytes}, "
                    f"but the file has {self._size} (truncated?)"
                )
            if begin < end_before:
                raise self._bad(f"tensors {before!r} and {info.name!r} overlap")
            if info.name in self.tensors:
                raise self._bad(f"tensor {info.name!r} appears twice")
            end_before, before = begin + info.nbytes, info.name
            self.tensors[info.name] = TensorInfo(info.name, info.format, info.shape, begin, info.nbytes)
