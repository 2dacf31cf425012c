"""One safetensors file: its tensor table.

The format is a length (u64), a JSON object of names with type, shape and offsets, and the numbers; no code. The library
judges whether a file is sound. Its own reads go through a memory map, so the bytes are read here.
"""

import json
import struct
from pathlib import Path

from safetensors import SafetensorError, safe_open

from argosy_api import limits
from argosy_api.errors import ModelInvalidError
from argosy_worker.models.tensor_file import TensorFile, TensorInfo


class SafetensorsFile(TensorFile):
    """An open safetensors file.

    Raises:
        ModelNotFoundError: no such file.
        ModelInvalidError: truncated, corrupt or hostile content.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(path)

    def _parse(self) -> None:
        head = self._file.read(8)
        if len(head) < 8:
            raise ModelInvalidError(f"{self.name!r} is truncated: it has {len(head)} bytes")
        (size,) = struct.unpack("<Q", head)
        if size > limits.MAX_SAFETENSORS_HEADER:
            raise ModelInvalidError(
                f"{self.name!r} has a header of {size} bytes; at most {limits.MAX_SAFETENSORS_HEADER}"
            )
        try:
            with safe_open(str(self._path), framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelInvalidError(f"{self.name!r} is no sound safetensors file: {error}") from error
        raw = self._file.read(size)
        try:
            table = json.loads(raw)
            for name, entry in table.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    shape = tuple(entry["shape"])
                    self.tensors[name] = TensorInfo(name, entry["dtype"], shape, 8 + size + begin, end - begin)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:  # changed since it was judged
            raise ModelInvalidError(f"{self.name!r} has no sound header") from error
