"""Tokens that end an answer by their text, whether or not the model's files name them as ends.

Many checkpoints name only one of the tokens that their templates end a turn with, and a model that draws another one
goes on to write the user's part too. llama.cpp ends an answer at these texts for the same reason (llama-vocab.cpp).
"""

from collections.abc import Container, Iterator

_TEXTS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>")
_RETURN = "<|return|>"
"""Where this ends an answer, `<|end|>` only ends a message, and another one may follow."""


def end_texts(vocabulary: Container[str]) -> Iterator[str]:
    """The texts of `vocabulary` at which an answer ends."""
    return (text for text in _TEXTS if text in vocabulary and not (text == "<|end|>" and _RETURN in vocabulary))
