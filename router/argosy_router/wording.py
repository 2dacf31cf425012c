"""What an answer may say: a request's words and constraint, as a worker understands them."""

from dataclasses import replace

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import check_ending
from argosy_router.ask import Ask
from argosy_router.text.models import ModelCard
from argosy_router.tools import grammar


async def worded(ask: Ask, card: ModelCard) -> Ask:
    """The ask with its bad words as token ids, and its constraint tried out; tools of which one must be called
    are one.

    Raises:
        InvalidArgumentError: naming the field that no worker could keep to.
        OverloadedError, UnavailableError: the model's child processes take no more, or do not start.

    """
    if ask.offer is not None and ask.offer.must:
        ask = replace(ask, constraint=grammar.constraint(ask.offer, card.text.form), constraint_field="tools")
    check_ending(ask.params, ask.constraint)
    if ask.constraint is not None:
        await card.text.grammars.check(ask.constraint, field=ask.constraint_field)
    if not ask.bad_words:
        return ask
    words = (*ask.params.bad_words_ids, *await card.text.words(ask.bad_words, field="bad_words"))
    if len(words) > limits.MAX_BAD_WORDS:
        problem = f"comes to {len(words)} sequences of tokens; at most {limits.MAX_BAD_WORDS}"
        raise InvalidArgumentError("bad_words", problem)
    return replace(ask, params=replace(ask.params, bad_words_ids=words), bad_words=())
