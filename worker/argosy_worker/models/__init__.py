"""Model files: readers of GGUF and safetensors, and the loader that makes a computing model of them."""

from argosy_worker.compute.loaded import LoadedModel, LoadedPart
from argosy_worker.models.build import load_model, load_part

__all__ = ["LoadedModel", "LoadedPart", "load_model", "load_part"]
