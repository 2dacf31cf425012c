"""How a model's files say that hidden states become an embedding. Decoders that say nothing take the last token's."""

import json
from pathlib import Path
from typing import Any, Literal

from argosy_worker.core.pool import Pooling
from argosy_worker.models.files import read_bytes, read_json
from argosy_worker.models.gguf_meta import Metadata

_MAX_JSON = 64 * 1024
_GGUF: dict[int, Pooling | Literal[""]] = {0: Pooling.LAST, 1: Pooling.MEAN, 2: Pooling.CLS, 3: Pooling.LAST}
"""llama.cpp's numbers; 0 is none at all, as of any decoder. 4 is a reranker's."""
_MODES = {
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_lasttoken": Pooling.LAST,
}
_MODULES = ("Transformer", "Pooling", "Normalize")
"""Of sentence-transformers, by the ends of their names: other ones compute what is not computed here."""


def of_gguf(metadata: Metadata) -> Pooling | Literal[""]:
    """What `{architecture}.pooling_type` says; empty where that is not done here. Raises ModelInvalidError."""
    return _GGUF.get(metadata.integer(f"{metadata.text('general.architecture')}.pooling_type", 0), "")


def of_folder(folder: Path) -> Pooling | Literal[""]:
    """What sentence-transformers' files beside the model say; the same. Raises ModelInvalidError."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return Pooling.LAST
    modules = folder / "modules.json"
    if modules.is_file() and not _known(read_bytes(modules, _MAX_JSON)):
        return ""
    config = read_json(path, _MAX_JSON)
    said: list[Any] = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if isinstance(config.get("pooling_mode"), str):  # as newer versions write it
        said = [f"pooling_mode_{config['pooling_mode']}", *said]
    found = {_MODES.get(_SHORT.get(name, name)) for name in said}
    return found.pop() or "" if len(found) == 1 else ""


_SHORT = {
    "pooling_mode_mean": "pooling_mode_mean_tokens",
    "pooling_mode_cls": "pooling_mode_cls_token",
}


def _known(document: bytes) -> bool:
    """Whether a list of modules names none but those that are computed here."""
    try:
        listed = json.loads(document)
    except (ValueError, RecursionError):
        return False
    if not isinstance(listed, list):
        return False
    kinds = [str(one.get("type", "")).rpartition(".")[2] for one in listed if isinstance(one, dict)]
    return bool(kinds) and all(kind in _MODULES for kind in kinds)
