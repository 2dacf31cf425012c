"""How long an answer may be, and how much its log-probabilities may be made of."""

from collections.abc import Sequence
from dataclasses import replace

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_router.ask import Ask
from argosy_router.text.model_text import Encoded
from argosy_router.text.models import ModelCard


def budgeted(ask: Ask, card: ModelCard, prompts: Sequence[Encoded]) -> list[SamplingParams]:
    """Parameters for each prompt, with max_tokens set, within what one answer may be made of.

    Log-probabilities are counted over the whole request, as tokens x (1 + alternatives): of the prompts, and of the
    generated tokens where the answer is collected. Where max_tokens is not given, it is what context and budget leave.
    """
    params = ask.params
    entries = 0
    if params.prompt_logprobs is not None:
        longest = max(len(p.tokens) for p in prompts)
        if longest > limits.MAX_PROMPT_LOGPROBS_TOKENS:
            problem = f"are given for prompts up to {limits.MAX_PROMPT_LOGPROBS_TOKENS} tokens; this has {longest}"
            raise InvalidArgumentError("prompt_logprobs", problem)
        entries = (1 + params.prompt_logprobs) * ask.n * sum(len(p.tokens) for p in prompts)
        _check_budget("prompt_logprobs", entries, limits.MAX_LOGPROB_ENTRIES)
    per_token = 0 if params.logprobs is None or not ask.whole else (1 + params.logprobs) * ask.choices
    if ask.return_token_ids:
        _check_budget("return_token_ids", ask.n * sum(len(p.tokens) for p in prompts), limits.MAX_RETURNED_IDS)
    made = []
    for prompt in prompts:
        most = params.max_tokens
        if ask.fill_context:
            most = max(1, card.facts.max_model_len - len(prompt.tokens))
            if per_token:
                most = max(1, min(most, (limits.MAX_LOGPROB_ENTRIES - entries) // per_token))
        made.append(replace(params, max_tokens=most) if ask.fill_context else params)
    if per_token and not ask.fill_context:
        # no answer is longer than its context, whatever it asks for
        longest = max(min(params.max_tokens, card.facts.max_model_len - len(p.tokens)) for p in prompts)
        _check_budget("logprobs", entries + per_token * longest, limits.MAX_LOGPROB_ENTRIES)
    return made


def _check_budget(field: str, asked: int, most: int) -> None:
    if asked > most:
        raise InvalidArgumentError(
            field,
            f"would be {asked} values in one answer; at most {most}: ask for fewer tokens, alternatives or choices",
        )
