"""Model files: readers of GGUF and safetensors, and the loader that makes a computing model of them. Imports torch."""

from argosy_worker.compute.loaded import LoadedModel
from argosy_worker.models.build import load_model

__all__ = ["LoadedModel", "load_model"]
