"""Which GGUF file of a repository has the quantization that somebody names. Pure."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from argosy_api.errors import ModelNotFoundError

USUAL = ("Q4_K_M", "Q4_0", "Q4_1", "Q5_K_M", "Q8_0")
"""Where nothing is named, the first of these that is there."""
_QUANT = re.compile(r"(?<![A-Za-z0-9])(I?Q[1-8](?:_[A-Z0-9]+)*|BF16|F16|F32|MXFP4)(?![A-Za-z0-9])", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf")


def gguf_of(names: Sequence[str], quant: str, what: str) -> str:
    """The file among `names` that is to be served.

    Args:
        names: paths of all files of the repository.
        quant: as `Q4_K_M`, in any case; empty for a usual one.
        what: the repository, for messages.

    Raises:
        ModelNotFoundError: none has it, with those that there are.

    """
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name.count("/"), len(name), name)):
        told = quant_of(name)
        if told and not _PART.search(name) and "mmproj" not in name.lower():
            found.setdefault(told, name)
    for wanted in (quant.upper(),) if quant else USUAL:
        if wanted in found:
            return found[wanted]
    if found and not quant:
        return next(iter(found.values()))
    there = f"; it has {', '.join(sorted(found))}" if found else " in one part"
    raise ModelNotFoundError(f"{what}: has no GGUF file {f'in {quant}' if quant else 'with a known format'}{there}")


def quant_of(name: str) -> str:
    """The quantization that a GGUF file's name tells, in capitals; empty where it tells none."""
    path = PurePosixPath(name)
    found = _QUANT.findall(path.stem) if path.suffix == ".gguf" else []
    return found[-1].upper() if found else ""
