"""Where a model comes from: a URI becomes a path on this machine.

    package://python_package/file    a file inside an installed Python package; the package is not imported
    file:///path                     a file or folder of this machine
    pvc://claim/path                 a mounted claim: $ARGOSY_PVC_ROOT/<claim>/<path> (default /models)
    hf://org/repo@revision           safetensors, configuration and tokenizer of a repository (see `hub`)
    hf://org/repo/file.gguf@revision one file of it

`%20` and the like stand for characters that a URI cannot hold. sim:// has no files and is not resolved here.
"""

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from argosy_api import labels
from argosy_api.errors import ModelNotFoundError
from argosy_worker.fetch import hub

Progress = Callable[[str, float], None]
"""Called with a sentence and how much of it is done, 0 to 1."""

PVC_ROOT = "ARGOSY_PVC_ROOT"
_PACKAGE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def resolve(uri: str, *, cache_dir: Path, progress: Progress) -> Path:
    """The model's file, or its folder; downloaded to `cache_dir` when it is elsewhere.

    Raises:
        ModelNotFoundError: there is no such file, package, claim or repository, or the URI is wrong.
        ModelDownloadError: the source could not be reached, or refused us; trying again may help.

    """
    if "\0" in unquote(uri):
        raise ModelNotFoundError(f"{uri!r}: holds a null character")
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "hf":
        return hub.download(uri, cache_dir=cache_dir, progress=progress)
    finders: dict[str, Callable[[str, str], Path]] = {"package": _package, "file": _file, "pvc": _pvc}
    if not separator or scheme not in finders:
        raise ModelNotFoundError(f"{uri}: is no model source; use package://, file:///, hf:// or pvc://")
    return finders[scheme](uri, unquote(rest))


def _package(uri: str, rest: str) -> Path:
    name, _, inside = rest.partition("/")
    if not _PACKAGE.fullmatch(name) or not inside:
        raise ModelNotFoundError(f"{uri}: must be package://python_package/file")
    # finding the specification of a top-level package runs none of its code, importing it would
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ModelNotFoundError(f"{uri}: the Python package {name} is not installed here")
    if ".." in inside.split("/") or inside.startswith("/"):
        raise ModelNotFoundError(f"{uri}: leads out of its folder")
    # links are followed: some installers fill site-packages with them
    found = [path for folder in folders if (path := Path(folder) / inside).exists()]
    if not found:
        raise ModelNotFoundError(f"{uri}: the Python package {name} has no {inside}")
    return found[0]


def _file(uri: str, rest: str) -> Path:
    if not rest.startswith("/"):
        raise ModelNotFoundError(f"{uri}: must be file:///absolute/path (three slashes)")
    path = Path(rest)
    if not path.exists():
        raise ModelNotFoundError(f"{uri}: no such file or folder")
    return path


def _pvc(uri: str, rest: str) -> Path:
    claim, _, inside = rest.partition("/")
    if not claim or not inside:
        raise ModelNotFoundError(f"{uri}: must be pvc://claim/path")
    root = Path(os.environ.get(PVC_ROOT) or labels.MODELS_PATH)
    mounted = _within(uri, root, claim)
    if not mounted.is_dir():
        raise ModelNotFoundError(f"{uri}: the claim {claim} is not mounted")
    path = _within(uri, mounted, inside)
    if not path.exists():
        raise ModelNotFoundError(f"{uri}: the claim {claim} has no {inside}")
    return path


def _within(uri: str, folder: Path, inside: str) -> Path:
    """`folder/inside`, once neither `..` nor a symbolic link leads out of the folder."""
    path = folder / inside
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelNotFoundError(f"{uri}: leads out of its folder")
    return path
