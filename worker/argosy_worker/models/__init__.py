"""Model files and the decoder. `load_model` and `LoadedModel` are imported lazily: they need torch."""

import os
from typing import TYPE_CHECKING, Any

from argosy_worker.models.facts import ModelFacts

if TYPE_CHECKING:
    from argosy_worker.compute.loaded import LoadedModel
    from argosy_worker.models.build import load_model

__all__ = ["LoadedModel", "ModelFacts", "load_model"]


def __getattr__(name: str) -> Any:
    # The simulated model needs the facts without the seconds that importing torch takes. And OpenMP reads its settings
    # when torch is loaded: without this a waiting thread spins, and where another process has the other core every
    # parallel operation takes 4 to 8 ms instead of 0.1.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if name == "load_model":
        from argosy_worker.models.build import load_model  # noqa: PLC0415

        return load_model
    if name == "LoadedModel":
        from argosy_worker.compute.loaded import LoadedModel  # noqa: PLC0415

        return LoadedModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
