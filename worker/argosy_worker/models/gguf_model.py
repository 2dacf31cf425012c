"""A GGUF file as an OpenModel."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_tokenizer import read_tokenizer
from argosy_worker.models.gguf_weights import GgufWeights
from argosy_worker.models.open_model import SAMPLE_BYTES, OpenModel, parse_tokenizer


def open_gguf(path: Path, stack: ExitStack) -> OpenModel:
    """Open a file; `stack` closes it. Raises the ModelErrors of GgufFile, GgufWeights and read_tokenizer."""
    file = stack.enter_context(GgufFile(path))
    weights = GgufWeights(file)
    tokenizer = read_tokenizer(file.metadata, weights.config.vocab_size)
    parse_tokenizer(tokenizer.json)

    def samples() -> Iterator[bytes]:
        for name in sorted(file.tensors):
            info = file.tensors[name]
            yield f"{name} {info.format} {info.shape}".encode()
            yield file.sample(name, SAMPLE_BYTES)

    return OpenModel(weights=weights, tokenizer=tokenizer, samples=samples)
