"""Files of named tensors: where each lies, and reads of whole rows. Formats say how the table is found (gguf, hf_file).

Files are read with ordinary reads and not through a memory map: a file that shrinks while it is open then gives an
error, where a map would end the process with SIGBUS, and the pages of a map would count as the worker's resident memory
after the weights are repacked.
"""

import os
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from argosy_api.errors import ModelInvalidError, ModelNotFoundError
from argosy_worker.compute.quant.formats import QuantTensor, from_bytes


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One row of a tensor table."""

    name: str
    format: str
    shape: tuple[int, ...]
    """Slowest dimension first, as in numpy: a linear layer is (out features, in features)."""
    offset: int
    """Of the first byte, from the start of the file."""
    nbytes: int


class Opened(NamedTuple):
    """A file that somebody else opened: one that is not on this machine."""

    name: str
    file: BufferedReader
    size: int
    """In bytes."""


class TensorFile:
    """An open file; `tensors` is filled by the subclass. Use as a context manager.

    Raises:
        ModelNotFoundError: no such file.
        ModelInvalidError: it cannot be read.

    """

    def __init__(self, path: Path | Opened) -> None:
        self.name, self._file, self._size = path if isinstance(path, Opened) else _open(path)
        self.tensors: dict[str, TensorInfo] = {}
        try:
            self._parse()
        except OSError as error:
            self._file.close()
            raise ModelInvalidError(f"{self.name!r} cannot be read: {error.strerror}") from error
        except BaseException:
            self._file.close()
            raise

    def _parse(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def rows(self, name: str, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """The bytes of rows begin .. end of a tensor (elements of a vector), as a fresh writable array uint8 [n]."""
        info = self.tensors[name]
        width = info.nbytes // info.shape[0]
        return self._read_at(info.offset + begin * width, (end - begin) * width, f"tensor {name!r}")

    def whole(self, name: str) -> npt.NDArray[np.uint8]:
        """All bytes of a tensor, which may be a single number of no dimension."""
        info = self.tensors[name]
        return self._read_at(info.offset, info.nbytes, f"tensor {name!r}")

    def matrix(self, name: str, begin: int, end: int) -> QuantTensor:
        """Rows begin .. end of a matrix, in its storage format."""
        info = self.tensors[name]
        return from_bytes(info.format, self.rows(name, begin, end), end - begin, info.shape[1])

    def sample(self, name: str, size: int) -> bytes:
        """The first, middle and last `size` bytes of a tensor (all of it when it is small), for fingerprints."""
        info = self.tensors[name]
        if info.nbytes <= 3 * size:
            return self._read_at(info.offset, info.nbytes, name).tobytes()
        starts = (0, (info.nbytes - size) // 2, info.nbytes - size)
        return b"".join(self._read_at(info.offset + s, size, name).tobytes() for s in starts)

    def _read_at(self, offset: int, size: int, what: str) -> npt.NDArray[np.uint8]:
        out = np.empty(size, dtype=np.uint8)
        try:
            self._file.seek(offset)
            got = self._file.readinto(out.data) if size else 0
        except OSError as error:
            raise ModelInvalidError(f"{self.name!r}: {what} cannot be read: {error.strerror}") from error
        if got != size:
            raise ModelInvalidError(f"{self.name!r}: {what} ends after {got} of {size} bytes; the file is truncated")
        return out


def _open(path: Path) -> Opened:
    try:
        file = path.open("rb")
        return Opened(path.name, file, os.fstat(file.fileno()).st_size)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ModelNotFoundError(f"no file {path.name!r} at the model's source") from error
    except OSError as error:
        raise ModelInvalidError(f"{path.name!r} cannot be opened: {error.strerror}") from error
