"""Where a named model is: which file of a hub's repository is meant, and what of it is on this machine."""

from dataclasses import replace
from pathlib import Path

from argosy_api.errors import ModelDownloadError, ModelNotFoundError
from argosy_api.model_uri import ModelUri
from argosy_cli.errors import CommandError
from argosy_cli.source.names import Source

try:
    from argosy_worker.fetch import cached, quants
    from argosy_worker.fetch import uri as sources
except ImportError as error:
    raise CommandError(
        f"this needs the worker's packages ({error.name} is missing): pip install 'argosy[worker]'"
    ) from None


def chosen(source: Source, cache_dir: Path) -> Source:
    """The same with a URI that names what is served; a hub is asked where the name leaves that open.

    Raises:
        ModelNotFoundError: nothing there is what was asked for.
        ModelDownloadError: the hub cannot be asked, and nothing here answers instead.

    """
    place = source.place
    if place.scheme != "hf" or place.path or (not source.quant and here(place, cache_dir) is not None):
        return source
    from argosy_worker.fetch import hub  # noqa: PLC0415 - an HTTP client

    try:
        names = hub.names(place)
    except ModelDownloadError:
        names = _kept(place, cache_dir)
        if not names:
            raise
    if not source.quant and any(name.endswith(".safetensors") for name in names):
        return source
    file = quants.gguf_of(names, source.quant, str(place))
    revision = f"@{place.revision}" if place.revision else ""
    return replace(source, uri=f"hf://{place.place}/{file}{revision}", quant="")


def here(uri: ModelUri, cache_dir: Path) -> Path | None:
    """Its file or folder on this machine; None where it is not here. Downloads nothing."""
    if uri.scheme == "hf":
        return cached.known(cached.record_of(uri, cache_dir), cache_dir)
    if uri.scheme == "sim":
        return None
    try:
        return sources.resolve(uri, cache_dir=cache_dir, progress=lambda *_: None)
    except ModelNotFoundError:
        return None


def _kept(repository: ModelUri, cache_dir: Path) -> list[str]:
    """Files of a repository that were downloaded completely, by their paths in it."""
    found = []
    for item in cached.stored(cache_dir):
        uri = ModelUri.parse(item.uri)
        if uri.place == repository.place and (uri.revision or "main") == (repository.revision or "main") and uri.path:
            found.append(uri.path)
    return found
