"""An ask's prompts as tokens, each once, however many choices it has."""

from collections.abc import Sequence

from argosy_api.errors import InvalidArgumentError
from argosy_api.params import check_prompt
from argosy_router.admission import Account
from argosy_router.ask import Ask
from argosy_router.text.messages import Prompt
from argosy_router.text.model_text import Encoded
from argosy_router.text.models import ModelCard

TOKEN_BYTES = 36
"""What a prompt's token takes here, roughly; and CHOICE_TOKEN_BYTES more in the message of each choice."""
CHOICE_TOKEN_BYTES = 4


async def encoded(
    account: Account, ask: Ask, card: ModelCard, adapter: str, *, most: int | None = None
) -> list[Encoded]:
    """The first `most` of them, or all; `adapter`: the digest of the one that is asked for.

    Raises:
        InvalidArgumentError: naming the prompt that the model does not take.
        OverloadedError, TooLargeError: `account` has no room for the tokens.

    """
    wanted = card.wanted(ask.cache_salt, adapter=adapter, offsets=ask.offsets, special=ask.special)
    found = []
    chat_or_prompts: Sequence[Prompt | None] = ask.prompts or (None,)
    for prompt, field in list(zip(chat_or_prompts, ask.fields, strict=True))[:most]:
        if isinstance(prompt, list):
            _check_tokens(prompt, card, field, None)
            made = await card.text.address(prompt, wanted, field=field)
        else:
            if prompt is None:
                made = await card.text.render(ask.messages, wanted, field=field, extras=ask.extras)
            else:
                made = await card.text.encode(prompt, wanted, field=field)
            _check_tokens(made.tokens, card, field, made.largest)
        account.take((TOKEN_BYTES + ask.n * CHOICE_TOKEN_BYTES) * len(made.tokens), field)
        found.append(made)
    return found


def _check_tokens(tokens: list[int], card: ModelCard, field: str, largest: int | None) -> None:
    try:
        check_prompt(tokens, vocab_size=card.facts.vocab_size, max_model_len=card.facts.max_model_len, largest=largest)
    except InvalidArgumentError as error:
        path = field + error.field.removeprefix("prompt") if field.startswith("prompt") else field
        raise InvalidArgumentError(path, error.message.partition(": ")[2]) from None
