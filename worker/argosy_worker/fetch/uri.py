"""From a model's URI (its grammar: `argosy_api.model_uri`) to a path on this machine.

package:// and file:// are here already; pvc:// is a claim that is mounted below $ARGOSY_PVC_ROOT (default /models),
oci:// an image that is mounted below $ARGOSY_IMAGE_ROOT (default /images); hf:// is downloaded (see `hub`). sim:// has
no files and is not resolved here.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from argosy_api import process
from argosy_api.errors import ModelNotFoundError
from argosy_api.model_uri import ModelUri

Progress = Callable[[str, float], None]
"""Called with a sentence and how much of it is done, 0 to 1."""


def resolve(uri: ModelUri, *, cache_dir: Path, progress: Progress, adapter: bool = False) -> Path:
    """The model's file, or its folder; downloaded to `cache_dir` when it is elsewhere. `adapter`: it is an adapter's.

    Raises:
        ModelNotFoundError: there is no such file, package, claim or repository.
        ModelDownloadError: the source could not be reached, or refused us; trying again may help.

    """
    match uri.scheme:
        case "package":
            return _package(uri)
        case "file":
            return _file(uri)
        case "pvc":
            return _pvc(uri)
        case "oci":
            return _oci(uri)
        case "hf":
            from argosy_worker.fetch import hub  # noqa: PLC0415 - an HTTP client, which other sources start faster without

            return hub.download(uri, cache_dir=cache_dir, progress=progress, adapter=adapter)
        case "sim":
            raise ModelNotFoundError(f"{uri}: a simulated model has no files")


def _package(uri: ModelUri) -> Path:
    # finding the specification of a top-level package runs none of its code, importing it would
    spec = importlib.util.find_spec(uri.place)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ModelNotFoundError(f"{uri}: the Python package {uri.place} is not installed here")
    if ".." in uri.path.split("/") or uri.path.startswith("/"):
        raise ModelNotFoundError(f"{uri}: leads out of its folder")
    # links are followed: some installers fill site-packages with them
    found = [path for folder in folders if (path := Path(folder) / uri.path).exists()]
    if not found:
        raise ModelNotFoundError(f"{uri}: the Python package {uri.place} has no {uri.path}")
    return found[0]


def _file(uri: ModelUri) -> Path:
    path = Path(uri.path)
    if not path.exists():
        raise ModelNotFoundError(f"{uri}: no such file or folder")
    return path


def _pvc(uri: ModelUri) -> Path:
    root = Path(os.environ.get(process.PVC_ROOT) or process.MODELS_PATH)
    mounted = _within(uri, root, uri.place)
    if not mounted.is_dir():
        raise ModelNotFoundError(f"{uri}: the claim {uri.place} is not mounted")
    path = _within(uri, mounted, uri.path)
    if not path.exists():
        raise ModelNotFoundError(f"{uri}: the claim {uri.place} has no {uri.path}")
    return path


def _oci(uri: ModelUri) -> Path:
    mounted = Path(os.environ.get(process.IMAGE_ROOT) or process.IMAGES_PATH) / uri.folder
    if not mounted.is_dir():
        raise ModelNotFoundError(f"{uri}: the image {uri.place} is not mounted")
    path = _within(uri, mounted, uri.path)
    if not path.exists():
        raise ModelNotFoundError(f"{uri}: the image {uri.place} has no {uri.path}")
    return path


def _within(uri: ModelUri, folder: Path, inside: str) -> Path:
    """`folder/inside`, once neither `..` nor a symbolic link leads out of the folder."""
    path = folder / inside
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelNotFoundError(f"{uri}: leads out of its folder")
    return path
