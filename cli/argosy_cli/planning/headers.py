"""The header of a resource's model, from wherever it is; nothing large is read or moved."""

import io
import os
from pathlib import Path

from argosy_api.errors import InvalidArgumentError, ModelInvalidError
from argosy_api.model_uri import ModelUri
from argosy_api.process import HF_TOKEN
from argosy_worker.fetch.ranges import RangedFile, hub_url
from argosy_worker.fetch.uri import resolve
from argosy_worker.models.files import parse_json
from argosy_worker.models.sizing import MAX_CONFIG_BYTES, Header, read_gguf, read_header, read_hf
from argosy_worker.models.tensor_file import Opened

CHUNK = 256 * 1024


def header_of(uri: ModelUri) -> Header:
    """The header of a model.

    Raises:
        ModelError: there is none, it cannot be reached, or it is no model that can be served.
        InvalidArgumentError: a simulated model.

    """
    if uri.scheme == "sim":
        raise InvalidArgumentError("spec.model.uri", "a simulated model takes no memory that could be planned")
    if uri.scheme == "hf":
        return remote_header(hub_url(uri), token=os.environ.get(HF_TOKEN, ""))
    return read_header(resolve(uri, cache_dir=Path(), progress=lambda _text, _share: None))


def remote_header(url: str, *, token: str = "") -> Header:
    """The header of a GGUF file, or of a `config.json`, on a server. Raises what RangedFile does, and ModelErrors."""
    with RangedFile(url, token=token) as remote:
        file: io.BufferedReader = io.BufferedReader(remote, CHUNK)
        if not remote.name.endswith(".json"):
            return read_gguf(Opened(remote.name, file, remote.size))
        if remote.size > MAX_CONFIG_BYTES:
            raise ModelInvalidError(f"{remote.name!r} has {remote.size} bytes; at most {MAX_CONFIG_BYTES}")
        return read_hf(parse_json(remote.name, file.read()))
