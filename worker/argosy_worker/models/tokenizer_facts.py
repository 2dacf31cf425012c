"""What a model's files say about its tokenizer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    """The tokenizer as a `tokenizers` JSON document, and the tokens with a meaning."""

    json: bytes
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos: bool
    special_tokens: dict[str, str]
    """Special tokens by the names that the model's files give them (`bos_token`, `pad_token`, ...): variables of the
    chat template."""
    chat_template: str
