"""Where the numbers of a role lie in a model's files, and how they are read from there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from argosy_api.errors import ModelInvalidError
from argosy_worker.arrays import Array, to_torch
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.quant.formats import QuantTensor, from_bytes, from_plain
from argosy_worker.models.tensor_file import TensorFile
from argosy_worker.models.weights import ALL, check_known, check_readable, limits_of, read_tensor, roles_of, storage

_PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a role's numbers lie: a tensor, or a part of one."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    begin: int = 0
    """First row, where several roles share a tensor (fused q, k, v)."""
    rows: int | None = None
    """Rows from there on; None for all."""
    expert: int | None = None
    """Number along the first dimension, where a tensor holds all experts."""
    every: int = 0
    """With `expert`: of a matrix [in, out] or a vector [out] the columns `begin`, `begin + every`, ..., transposed."""
    pairs: int = 0
    """Rows within heads of this many are interleaved rotary pairs; 0 where they are not."""
    plus: float = 0.0
    """Is added to a vector."""

    @property
    def whole(self) -> bool:
        """Whether a tensor holds this role alone, and its very numbers."""
        return self.rows is None and self.expert is None and not self.plus

    def order(self) -> npt.NDArray[np.int64] | None:
        """For each row of the role, which row of the tensor it is: int64 [rows]; None where they are the same."""
        if not self.pairs:
            return None
        return np.arange(self.shape[0]).reshape(-1, self.pairs // 2, 2).transpose(0, 2, 1).reshape(-1)


def read_matrix(file: TensorFile, place: Place, rows: slice = ALL, cols: slice = ALL) -> QuantTensor:
    """Rows and columns of a role's matrix, in the order of the original checkpoint; only those rows are read.

    Raises:
        ModelInvalidError: the tensor has another shape, or a type that cannot be taken apart.
        ModelUnsupportedError: a format that is not known, or columns that would cut blocks.

    """
    if place.expert is not None:
        return _expert(file, place, rows, cols)
    if place.rows is not None:
        begin, end = limits_of(rows, place.rows)
        return read_tensor(file, place.name, place.shape, slice(place.begin + begin, place.begin + end), cols)
    order = place.order()
    if order is None:
        return read_tensor(file, place.name, place.shape, rows, cols)
    # rows change places within a head: whole heads are read
    begin, end = limits_of(rows, place.shape[0])
    dim = place.pairs
    first, count = begin // dim * dim, (-(-end // dim) - begin // dim) * dim
    found = read_tensor(file, place.name, place.shape, slice(first, first + count), cols)
    order = order[begin:end] - first
    return found.permuted(order) if len(place.shape) > 1 else from_plain(found.dequantize()[:, order])


def read_vector(file: TensorFile, place: Place, part: slice = ALL) -> npt.NDArray[np.float32]:
    """A role's vector, or a range of it, as fp32."""
    found: npt.NDArray[np.float32] = read_matrix(file, place, part).of_numpy().dequantize().reshape(-1)
    return found + np.float32(place.plus) if place.plus else found


def _expert(file: TensorFile, place: Place, rows: slice, cols: slice) -> QuantTensor:
    """One expert's matrix, or its vector as one row of which `rows` is a range."""
    stored = file.tensors.get(place.name)
    turned = bool(place.every) and stored is not None and stored.format == "MXFP4"  # lies as [out, in]
    shape = (place.shape[0], *reversed(place.shape[1:])) if turned else place.shape
    info = check_readable(file, place.name, shape)
    number, inner = place.expert or 0, shape[1:]
    raw = file.rows(place.name, number, number + 1)
    found = from_bytes(info.format, raw, *(inner if len(inner) > 1 else (1, inner[0])))
    if turned:
        found = found.permuted(np.arange(place.begin, found.rows, place.every))
    elif place.every:
        if info.format not in _PLAIN:
            raise ModelInvalidError(f"tensor {place.name!r} is {info.format}; must be {', '.join(_PLAIN)}")
        taken = found.dequantize()[:, place.begin :: place.every]
        found = from_plain(np.ascontiguousarray(taken.T if len(inner) > 1 else taken))
    if len(inner) == 1:
        return from_plain(np.ascontiguousarray(found.dequantize()[:, rows]))
    if rows != ALL:
        begin, end = limits_of(rows, found.rows)
        found = QuantTensor(found.format, found.raw[begin:end], found.cols)
    return found if cols == ALL else found.columns(*limits_of(cols, found.cols))


class PlacedWeights:
    """A WeightSource over open files, given where each role lies.

    Raises:
        ModelUnsupportedError: the files have tensors that no role takes.

    """

    def __init__(
        self,
        config: DecoderConfig,
        where: Mapping[str, TensorFile],
        place: Callable[[DecoderConfig, str], Place],
        passed_over: Callable[[str], bool],
    ) -> None:
        self.config, self._where, self._place = config, where, place
        known = {place(config, role).name for role in roles_of(config)}
        check_known((name for name in where if not passed_over(name)), known)

    def has(self, role: str) -> bool:
        """Whether there is such a tensor."""
        return self._place(self.config, role).name in self._where

    def matrix(self, role: str, rows: slice = ALL, cols: slice = ALL) -> QuantTensor:
        """A matrix in its storage format, rows in the order of the original checkpoint."""
        return self._read(role, rows, cols).of_torch()

    def vector(self, role: str, part: slice = ALL) -> Array:
        """A vector as fp32."""
        return to_torch(self._vector(role, part))

    def held(self, role: str) -> QuantTensor:
        """A matrix in arrays of numpy."""
        return self._read(role, ALL, ALL).of_numpy()

    def floats(self, role: str) -> npt.NDArray[np.float32]:
        """A vector in an array of numpy."""
        return self._vector(role, ALL)

    def _read(self, role: str, rows: slice, cols: slice) -> QuantTensor:
        place = self._place(self.config, role)
        return read_matrix(self._file(place), place, rows, cols)

    def _vector(self, role: str, part: slice) -> npt.NDArray[np.float32]:
        place = self._place(self.config, role)
        return read_vector(self._file(place), place, part)

    def _file(self, place: Place) -> TensorFile:
        if place.name not in self._where:
            raise ModelInvalidError(f"the model's files have no tensor {place.name!r}")
        return self._where[place.name]

    def formats(self) -> str:
        """Storage formats of the matrices, by share of the parameters: `Q4_1+Q8_0`."""
        return storage(file.tensors[name] for name, file in self._where.items())
