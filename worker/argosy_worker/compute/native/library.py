"""The compiled kernels (worker/kernels), through ctypes: structs as in argosy_cpu.h, and nothing else.

ctypes lets go of the GIL in each call, so the event loop runs on while a step is computed.
"""

import ctypes
import functools
import hashlib
import logging
import os
from pathlib import Path
from typing import Any, ClassVar

from argosy_api.errors import ModelUnsupportedError

log = logging.getLogger(__name__)

FILE = Path(__file__).with_name("libargosy_cpu.so")
SOURCES = Path(__file__).parents[3] / "kernels"
"""What it was built from, where the package is used from a checkout."""
VERSION = 12
"""Of the interface; that of a library from another build is refused."""
ISA = "ARGOSY_CPU_KERNELS"
"""Environment: the kernels to use, or `none`. Unset: the best of the processor."""
NORMS = ("attn_norm", "mlp_norm", "post_attn_norm", "post_mlp_norm", "q_norm", "k_norm")
"""Of a layer, in the order of the struct."""
NAMES = ("avx512-vnni", "avx-vnni", "avx2", "neon-i8mm", "neon-dotprod", "portable")


GATED = 2
"""What is joined in records of its own; see argosy_cpu.h."""
Join = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
"""`Step.join`."""


class Linear(ctypes.Structure):
    """Packed weights; see argosy_cpu.h."""

    _fields_: ClassVar[list[Any]] = [
        ("data", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("scale_bits", ctypes.c_int32),
    ]


class LowRank(ctypes.Structure):
    """What an adapter adds to a linear; see argosy_cpu.h."""

    _fields_: ClassVar[list[Any]] = [
        ("down", ctypes.c_void_p),
        ("up", ctypes.c_void_p * 3),
        ("rank", ctypes.c_int32),
        ("first", ctypes.c_int32 * 3),
        ("ranks", ctypes.c_int32 * 3),
    ]


class Step(ctypes.Structure):
    """Where the rows of a step lie: a `StepLayout`."""

    _fields_: ClassVar[list[Any]] = [
        ("rows", ctypes.c_int32),
        ("slices", ctypes.c_int32),
        ("positions", ctypes.c_void_p),
        ("cu_rows", ctypes.c_void_p),
        ("context_lens", ctypes.c_void_p),
        ("block_table", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("table_width", ctypes.c_int32),
        ("block_size", ctypes.c_int32),
        ("most_rank", ctypes.c_int32),
        ("adapter_of", ctypes.c_void_p),
        ("adapters", ctypes.c_void_p),
        ("turns", ctypes.c_void_p),
        ("join", ctypes.c_void_p),
    ]


class Ends(ctypes.Structure):
    """What stands before the layers of a model, and behind them; see argosy_cpu.h."""

    _fields_: ClassVar[list[Any]] = [
        ("embedding", ctypes.c_void_p),
        ("factor", ctypes.c_float),
        ("head", Linear),
        ("norm", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    ]


class Layer(ctypes.Structure):
    """One layer: its linears, its norms, its cache and its shape."""

    _fields_: ClassVar[list[Any]] = [
        ("qkv", Linear),
        ("o", Linear),
        ("gate_up", Linear),
        ("down", Linear),
        *((name, ctypes.c_void_p) for name in NORMS),
        ("cache", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("hidden", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("ffn", ctypes.c_int32),
        ("rotary", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("cache_bits", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("together", ctypes.c_int32),
        ("eps", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("residual", ctypes.c_float),
    ]


class Draw(ctypes.Structure):
    """How a token is drawn."""

    _fields_: ClassVar[list[Any]] = [
        ("temperature", ctypes.c_double),
        ("least", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("u", ctypes.c_double),
        ("top_k", ctypes.c_int32),
        ("open", ctypes.c_void_p),
    ]


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library; None where it was not built, or is of another build. The log says so once."""
    try:
        found = ctypes.CDLL(str(FILE))
        version = found.argosy_version()
    except (OSError, AttributeError) as error:
        log.warning("no native CPU kernels (%s): torch computes, several times slower", error)
        return None
    if version != VERSION:
        log.warning("the native CPU kernels are of another build (%d): torch computes, several times slower", version)
        return None
    found.argosy_sources.restype = ctypes.c_char_p
    if SOURCES.is_dir() and found.argosy_sources().decode() != _digest(SOURCES):
        log.warning("the native CPU kernels were built from other files than %s: install the package again", SOURCES)
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    found.argosy_kernels.restype, found.argosy_kernels.argtypes = ctypes.c_char_p, [ctypes.c_char_p]
    found.argosy_open.restype, found.argosy_open.argtypes = pointer, [integer, ctypes.c_char_p]
    found.argosy_close.restype, found.argosy_close.argtypes = None, [pointer]
    found.argosy_pack.restype = None
    found.argosy_pack.argtypes = [integer, integer, pointer, integer, integer, integer, pointer]
    found.argosy_forward.restype = integer
    found.argosy_forward.argtypes = [pointer, pointer, integer, pointer, pointer, pointer, pointer, integer]
    found.argosy_step.restype, found.argosy_step.argtypes = (
        integer,
        [pointer, pointer, integer, *[pointer] * 9, integer],
    )
    found.argosy_project.restype = integer
    found.argosy_project.argtypes = [pointer, pointer, pointer, ctypes.c_float, pointer, integer, pointer, integer]
    found.argosy_healthy.restype = found.argosy_pick.restype = integer
    found.argosy_healthy.argtypes = [pointer, pointer, integer, integer, pointer, integer]
    found.argosy_pick.argtypes = [pointer, pointer, integer, integer, pointer, pointer, integer]
    return found


def sources() -> str:
    """What the library was built from; empty where there is none. Part of the fingerprint of models on it."""
    library = load()
    return library.argosy_sources().decode() if library is not None else ""


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()  # as in hatch_build.py
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def kernels() -> str:
    """Name of the kernels that this process uses; empty where there are none, or none are wanted.

    Portable ones are used only where they are asked for: torch is faster than plain loops.

    Raises:
        ModelUnsupportedError: what is asked for is not there.

    """
    wanted = os.environ.get(ISA, "")
    library = load() if wanted != "none" else None
    if library is None:
        return ""
    name: bytes | None = library.argosy_kernels(wanted.encode())
    if name is None:
        raise ModelUnsupportedError(
            f"{ISA} {wanted!r}: is not known, or this processor lacks it; it can: {_able(library)}"
        )
    return "" if not wanted and name == b"portable" else name.decode()


def _able(library: ctypes.CDLL) -> str:
    return ", ".join([name for name in NAMES if library.argosy_kernels(name.encode())] + ["none"])
