"""How the adapters of a loaded model are read, and how much memory they may take."""

from hashlib import blake2b

from argosy_api.errors import ModelInvalidError
from argosy_api.model_uri import ModelUri
from argosy_api.spec.adapters import AdapterSpec
from argosy_worker.serve.adapters import Read, Source
from argosy_worker.serve.settings import Settings
from argosy_worker.serve.sizes import LoadedModel

MOST = 512 << 20
PART = 4
"""Of what the KV cache leaves adapters may take a part, and no more than MOST, where nobody says how much."""


def adapter_source(model: LoadedModel, settings: Settings) -> Source:
    """Of a model whose KV cache has its memory already."""
    if settings.model_uri.scheme == "sim":
        return Source(_simulated)
    from argosy_worker.compute.loaded import LoadedModel as Real  # noqa: PLC0415  # not for a simulated model
    from argosy_worker.fetch.uri import resolve  # noqa: PLC0415

    if not isinstance(model, Real):
        raise TypeError("a model of an unknown kind")
    config, left = model.config, model.host_memory_left()
    budget = settings.engine.adapter_bytes or min(MOST, left // PART)

    def read(spec: AdapterSpec) -> Read:
        from argosy_worker.models.peft import read_adapter  # noqa: PLC0415  # loads safetensors

        folder = resolve(
            ModelUri.parse(spec.uri), cache_dir=settings.model_cache, progress=lambda *_: None, adapter=True
        )
        found = read_adapter(folder, config, most_bytes=budget)
        return Read(found, found.nbytes)

    return Source(read, budget)


def _simulated(spec: AdapterSpec) -> Read:
    """`sim://NAME`: equal names are equal adapters. `?fail=1` is one that cannot be read."""
    from argosy_worker.sim import SimAdapter  # noqa: PLC0415

    uri = ModelUri.parse(spec.uri)
    if uri.options:
        raise ModelInvalidError(f"{uri}: a simulated adapter that fails, as its address asks")
    return Read(SimAdapter(blake2b(uri.place.encode(), digest_size=16).hexdigest()), 0)
