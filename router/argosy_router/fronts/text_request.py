"""What a client of any HTTP front asks for in text, parsed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from argosy_api.params import SamplingParams
from argosy_api.structured.constraint import Constraint
from argosy_router.ask import Ask
from argosy_router.text.messages import Extras, Message, Prompt
from argosy_router.tools.forms import Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """Either `prompts` or `messages` (a chat)."""

    model: str
    params: SamplingParams
    max_tokens_given: bool
    """Where not: 16 for completions, and for chat what the context leaves."""
    prompts: Sequence[Prompt] = ()
    messages: tuple[Message, ...] = ()
    extras: Extras = field(default_factory=Extras)
    offer: Offer | None = None
    n: int = 1
    best_of: int = 0
    """So many choices of each prompt are generated, and the `n` likeliest told; 0: all are."""
    stream: bool = False
    include_usage: bool = False
    usage_always: bool = False
    """With every event, not only the last."""
    ignored: tuple[str, ...] = ()
    """Fields that change nothing here: the client is told which."""
    echo: bool = False
    only_prompt: bool = False
    """max_tokens 0 with echo: the client wants the prompt's log-probabilities and no new token."""
    return_token_ids: bool = False
    wants_prompt_logprobs: bool = False
    """Whether the client asked for them by name; `echo` with `logprobs` needs them, too, but shows them elsewhere."""
    cache_salt: str = ""
    priority: int = 0
    bad_words: tuple[str, ...] = ()
    constraint: Constraint | None = None
    constraint_field: str = "constraint"
    fills: bool = False
    """Without max_tokens an answer to `prompts`, too, goes on as far as the context reaches."""
    embeds: bool = False
    """Embeddings of `prompts` are wanted."""
    timeout_s: float | None = None
    """Seconds from now until nobody wants the answer any more."""
    special: bool = True
    """Whether a plain prompt gets what the tokenizer puts around a text."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What this protocol calls those of our fields that it has other names for, for errors."""
    told: dict[str, Any] = field(default_factory=dict)
    """What the answer's form depends on, or tells again, in this protocol only."""

    @property
    def each(self) -> int:
        """Choices that are generated of each prompt."""
        return max(self.n, self.best_of)

    def ask(self) -> Ask:
        """What the service is asked."""
        many = len(self.prompts) > 1
        return Ask(
            model=self.model,
            fields=["messages"]
            if self.messages
            else [f"prompt[{i}]" for i in range(len(self.prompts))]
            if many
            else ["prompt"],
            prompts=self.prompts,
            messages=self.messages,
            extras=self.extras,
            offer=self.offer,
            params=self.params,
            fill_context=not self.max_tokens_given and (self.fills or bool(self.messages)),
            n=self.each,
            cache_salt=self.cache_salt,
            priority=self.priority,
            bad_words=self.bad_words,
            constraint=self.constraint,
            constraint_field=self.constraint_field,
            echo=self.echo,
            offsets=self.echo and self.params.logprobs is not None,
            whole=not self.stream,
            return_token_ids=self.return_token_ids,
            special=self.special,
            embeds=self.embeds,
        )
