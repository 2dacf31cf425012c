"""An open model, of whatever file format: weights, tokenizer, and samples for the fingerprint."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from argosy_api import limits
from argosy_api.errors import ModelInvalidError
from argosy_worker import tokenizer
from argosy_worker.core.facts import TokenizerFacts
from argosy_worker.core.pool import Pooling
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_meta import Metadata
from argosy_worker.models.gguf_tokenizer import read_tokenizer
from argosy_worker.models.gguf_weights import GgufWeights
from argosy_worker.models.pooling import of_gguf
from argosy_worker.models.weights import WeightSource

SAMPLE_BYTES = 4096
"""Bytes taken from the start, the middle and the end of each tensor for the fingerprint."""


@dataclass(frozen=True, slots=True)
class OpenModel:
    """Valid as long as the files are open."""

    weights: WeightSource
    tokenizer: TokenizerFacts
    samples: Callable[[], Iterable[bytes]]
    """The tensor table and sampled contents, in a fixed order."""
    pooling: Pooling | Literal[""] = Pooling.LAST
    """How hidden states become embeddings; empty where the files ask for what is not done here."""


def parse_tokenizer(document: bytes, decoding: bytes = b"") -> Tokenizer:
    """A tokenizer from its JSON document, or from what of it turns tokens into text, where that is given.

    Raises:
        ModelInvalidError: the library refuses it, or panics over it, or it is too large to be told to routers.

    """
    if len(document) > limits.MAX_TOKENIZER_BYTES:
        raise ModelInvalidError(
            f"the model's tokenizer has {len(document)} bytes; at most {limits.MAX_TOKENIZER_BYTES}"
        )
    return tokenizer.parse(decoding or document)


def open_gguf(path: Path, stack: ExitStack) -> OpenModel:
    """Open a GGUF file; `stack` closes it. Raises the ModelErrors of GgufFile, GgufWeights and read_tokenizer."""
    file = stack.enter_context(GgufFile(path))
    weights = GgufWeights(file)
    found = read_tokenizer(file.metadata, weights.config.vocab_size)
    parse_tokenizer(found.tokenizer_json, found.decoding)

    def samples() -> Iterator[bytes]:
        for name, info in sorted(file.tensors.items()):
            yield f"{name} {info.format} {info.shape}".encode()
            yield file.sample(name, SAMPLE_BYTES)

    return OpenModel(weights=weights, tokenizer=found, samples=samples, pooling=of_gguf(Metadata(file.metadata)))
