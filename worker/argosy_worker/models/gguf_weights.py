"""Weights of a GGUF file."""

from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_config import FACTORS, read_config
from argosy_worker.models.gguf_names import place
from argosy_worker.models.places import PlacedWeights


class GgufWeights(PlacedWeights):
    """A WeightSource over an open GGUF file."""

    def __init__(self, file: GgufFile) -> None:
        config = read_config(file)
        super().__init__(config, dict.fromkeys(file.tensors, file), place, lambda name: name in FACTORS)
