"""What the rest of the worker may know about a loaded model: plain values, no torch."""

from dataclasses import dataclass

EXACT = "exact"
"""Answers do not depend on a request's company."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    """What a model's files say about its tokenizer."""

    tokenizer_json: bytes
    """A `tokenizers` JSON document."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    """Tokens that end a sequence unless the request ignores them."""
    add_bos: bool
    """Whether the tokenizer puts the bos token before a plain prompt (the tokenizer's own JSON does it already)."""
    special_tokens: dict[str, str]
    """Special tokens by the names that the model's files give them (`bos_token`, `pad_token`, ...): variables of the
    chat template."""
    chat_template: str
    """Jinja source; empty when the model has none."""
    decoder_json: bytes = b""
    """The document without what only turns text into tokens, and is known to be sound: to turn tokens into text it
    does, and is read in a quarter of the time. Empty: there is none, `tokenizer_json` does."""

    @property
    def decoding(self) -> bytes:
        """The document from which to turn tokens into text."""
        return self.decoder_json or self.tokenizer_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts(TokenizerFacts):
    """Facts of a loaded model, for the engine, the gRPC server and the router.

    A field whose name `ModelInfo` has, too, is told to routers as it is.
    """

    architecture: str
    """Family of the decoder, as the file names it: `llama`, `qwen2`, ..."""
    quantization: str
    """How the weights are stored in the file, by share of the parameters: `Q4_1+Q8_0`, `BF16`, ..."""
    compute: str
    """How the linear layers are computed: `int8`, `fp32` or `bf16`."""
    kv_dtype: str
    """Type of the numbers in the KV cache: `fp32`, `fp16`, `bf16`, `int8` or `fp8`; `sim` for the simulated model."""
    device: str
    """`cpu` or `cuda`."""
    vocab_size: int
    context_length: int
    """Most tokens (prompt and output) of one sequence."""
    fingerprint: str
    """Hex digest of the tensor table, sampled tensor contents, tokenizer, compute, and of what this machine computes
    from fixed numbers: replicas have the same one only where they compute the same bits. Part of every block id."""
    window: int = 0
    """Positions up to its own that a row sees in any layer; 0: all of them. Blocks that lie before are let go."""
    weights_bytes: int = 0
    """What the weights take, packed; 0 for a simulated model."""
    embedding_size: int = 0
    """Numbers of an embedding; 0: the model gives none."""
    pooling: str = ""
    """How hidden states become one (`core.pool.Pooling`); empty: it gives none."""
    exactness: str = EXACT
    """EXACT, or why answers may depend on a request's company on this machine."""
    instruction_set: str = ""
    """What the kernels use: `avx512-vnni`, ...; empty for a simulated model."""
