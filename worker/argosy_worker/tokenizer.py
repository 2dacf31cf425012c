"""A tokenizer of the tokenizers library from its JSON document, parsed once in a process."""

import functools

from tokenizers import Tokenizer

from argosy_api.errors import ModelInvalidError
from argosy_api.faults import is_fault


@functools.lru_cache(maxsize=2)  # the model's, and the draft model's
def parse(document: bytes) -> Tokenizer:
    """The tokenizer, shared by all who ask for it.

    Raises:
        ModelInvalidError: the library refuses it, or panics over it.

    """
    try:
        return Tokenizer.from_buffer(document)
    except BaseException as error:  # the library raises plain Exception, and panics
        if not is_fault(error):
            raise
        raise ModelInvalidError(f"the model's tokenizer is not sound: {error}") from error
