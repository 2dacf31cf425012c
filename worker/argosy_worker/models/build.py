"""Load a model: pick its reader, and who computes it. torch is loaded only where it computes, or reads the files."""

import ctypes
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from argosy_api.blocks import DEFAULT_BLOCK_SIZE
from argosy_api.errors import ModelNotFoundError, ModelUnsupportedError
from argosy_api.pipeline import Place
from argosy_worker.compute.loaded import LoadedModel, LoadedPart
from argosy_worker.compute.quant.linear import LinearKernel
from argosy_worker.core.facts import EXACT
from argosy_worker.machine import give_back, usable_cores
from argosy_worker.models import native_build
from argosy_worker.models.facts import Progress
from argosy_worker.models.open_model import OpenModel, open_gguf

if TYPE_CHECKING:
    from argosy_worker.compute.layer import Layer
    from argosy_worker.compute.shared import Sharing
    from argosy_worker.compute.torch_model import TorchPart

log = logging.getLogger(__name__)

ALONE = Place()
DEVICES = ("auto", "cpu", "cuda")


def _silent(stage: str, fraction: float) -> None:
    del stage, fraction


def load_model(
    path: Path,
    *,
    weights: str = "auto",
    group_size: int | None = None,
    kv_cache: str = "auto",
    compute: str = "auto",
    device: str = "auto",
    threads: int = 0,
    block_size: int = DEFAULT_BLOCK_SIZE,
    max_model_len: int | None = None,
    progress: Progress = _silent,
    place: Place = ALONE,
    rest: "Layer | None" = None,
    sharing: "Sharing | None" = None,
) -> LoadedModel:
    """Load a GGUF file, or a folder with safetensors, config.json and tokenizer.tokenizer_json.

    Args:
        path: the file, or the folder (which may also hold one GGUF file).
        weights: `spec.quantization.weights`: how the linears' weights are held.
        group_size: weights that share a scale (int4, int8); None for the default.
        kv_cache: `spec.quantization.kvCache`: type of the numbers in the KV cache.
        compute: `int8`, `fp32`, `bf16`, or `auto`: what fits the weights (`quant/precision.py`).
        device: `cpu`, `cuda`, or `auto`: CUDA where there is one.
        threads: compute threads on the CPU; 0 for one per usable core.
        block_size: tokens of a KV cache block; decides the shapes of attention that are checked.
        max_model_len: tokens of the longest sequence to come; None for the model's context. LongRoPE depends on it.
        progress: told (stage, fraction of the load in 0 .. 1).
        place: of this process in its group, of which it is rank 0.
        rest: computes the layers of other stages.
        sharing: the ranks that share each layer, where there are any.

    Raises:
        ModelNotFoundError, ModelInvalidError, ModelUnsupportedError: with what is wrong, and where.

    """
    progress("open", 0.0)
    with ExitStack() as stack:
        return assemble(
            open_model(path, stack), weights=weights, group_size=group_size, kv_cache=kv_cache, compute=compute,
            device=device, threads=threads, block_size=block_size, max_model_len=max_model_len, progress=progress,
            place=place, rest=rest, sharing=sharing,
        )  # fmt: skip


def load_part(
    path: Path, *, place: Place, sharing: "Sharing | None" = None, progress: Progress = _silent, **how: Any
) -> "TorchPart":
    """Load what a rank above 0 has: some layers, or a part of them. Arguments and errors are those of `load_model`."""
    from argosy_worker.models import torch_build  # noqa: PLC0415  # loads torch

    progress("open", 0.0)
    target, asked = _device(how.pop("device", "auto")), _asked(**how)
    with ExitStack() as stack:
        part = torch_build.build(open_model(path, stack), asked, target, progress, place=place, sharing=sharing)
    _made(part, progress)
    return part


def assemble(
    model: OpenModel,
    *,
    weights: str = "auto",
    group_size: int | None = None,
    kv_cache: str = "auto",
    compute: str = "auto",
    device: str = "auto",
    threads: int = 0,
    block_size: int = DEFAULT_BLOCK_SIZE,
    max_model_len: int | None = None,
    progress: Progress = _silent,
    kernels: Sequence[LinearKernel] = (),
    place: Place = ALONE,
    rest: "Layer | None" = None,
    sharing: "Sharing | None" = None,
) -> LoadedModel:
    """Build an open model; its files may be closed afterwards. Arguments and errors are those of `load_model`.

    `kernels`: those of torch that its linears may choose from; all there are by default.
    """
    target = _device(device)
    asked = _asked(
        weights=weights, group_size=group_size, kv_cache=kv_cache, compute=compute, threads=threads,
        block_size=block_size, max_model_len=max_model_len,
    )  # fmt: skip
    progress("tokenizer", 0.02)
    found: LoadedPart | None = None
    if target == "cpu" and not kernels and place.ranks == 1:
        found = native_build.build(model, asked, progress)
    if found is None:
        from argosy_worker.models import torch_build  # noqa: PLC0415  # loads torch

        found = torch_build.build(
            model, asked, target, progress, kernels=kernels, place=place, rest=rest, sharing=sharing
        )
    _made(found, progress)
    if not isinstance(found, LoadedModel):
        raise TypeError("rank 0 without a decoder")
    return found


def _asked(*, threads: int = 0, **how: Any) -> native_build.Asked:
    return native_build.Asked(threads=threads if threads > 0 else usable_cores(), **how)


def _made(part: LoadedPart, progress: Progress) -> None:
    """Give back what loading took, and say what was done."""
    give_back()
    progress("ready", 1.0)
    for role, report in part.kernels.items():
        log.info("kernel for %s: %s", role, report)
    if part.facts.exactness != EXACT:
        log.warning("answers may depend on a request's company here: %s", part.facts.exactness)


def _device(device: str) -> str:
    """`cpu` or `cuda`; torch is asked only where there is a driver to be asked about."""
    if device not in DEVICES:
        raise ModelUnsupportedError(f"device {device!r} is unknown; must be one of {', '.join(DEVICES)}")
    if device == "cpu" or (device == "auto" and not _driver()):
        return "cpu"
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise ModelUnsupportedError("device 'cuda' was asked for, but torch finds no CUDA device here")
    return "cpu"


def _driver() -> bool:
    """Whether this machine has CUDA's driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def open_model(path: Path, stack: ExitStack) -> OpenModel:
    """Open a GGUF file, or a folder; `stack` closes it. Raises ModelErrors."""
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) > 1:
            raise ModelUnsupportedError(f"the folder has {len(files)} GGUF files; name one of them")
        if files:
            return open_gguf(files[0], stack)
        from argosy_worker.models.hf_model import open_safetensors  # noqa: PLC0415  # loads torch

        return open_safetensors(path, stack)
    if not path.is_file():
        raise ModelNotFoundError(f"no file or folder {path.name!r} at the model's source")
    return open_gguf(path, stack)
