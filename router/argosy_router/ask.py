"""What a front asks of the service: one client request, parsed, in the terms of no protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams, check_priority
from argosy_api.structured.constraint import Constraint
from argosy_router.picked import NO_PICK, Picked
from argosy_router.resumption import Resumption
from argosy_router.tenants.tenant import ANYBODY, Tenant
from argosy_router.text.messages import Extras, Message, Prompt
from argosy_router.tools.forms import Offer

DEFAULT_MAX_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and since when."""

    request_id: str
    deadline: float | None = None
    """Monotonic seconds."""
    tenant: Tenant = ANYBODY
    pick: Picked = NO_PICK
    """What a picker has chosen for it."""
    trace: Mapping[str, str] = field(default_factory=dict[str, str])
    """What joins spans to the client's (`argosy_api.tracing.CARRIED`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Either `prompts` or `messages` (one chat). Choice i of the answer is prompt `i // n`, sample `i % n`."""

    model: str
    fields: Sequence[str]
    """The protocol's name of each prompt, for errors (of the messages, where it is a chat)."""
    prompts: Sequence[Prompt] = ()
    messages: Sequence[Message] = ()
    extras: Extras = field(default_factory=Extras)
    """What the chat's template gets beside them."""
    offer: Offer | None = None
    """Tools that the answer may call, or must."""
    params: SamplingParams
    fill_context: bool = False
    """max_tokens was not given, and means what the context leaves."""
    n: int = 1
    bad_words: Sequence[str] = ()
    """Texts that become token sequences of `params.bad_words_ids`."""
    constraint: Constraint | None = None
    """What the answers must look like."""
    constraint_field: str = "constraint"
    """The protocol's name of it, for errors."""
    cache_salt: str = ""
    priority: int = 0
    echo: bool = False
    """The prompts' texts are wanted back."""
    special: bool = True
    """Whether a plain prompt gets what the model's tokenizer puts around a text."""
    offsets: bool = False
    """And where each of their tokens begins in them."""
    embeds: bool = False
    """The prompts' embeddings are wanted, and no answers."""
    whole: bool = False
    """The answer is collected before it is sent, so all of it is held at once."""
    return_token_ids: bool = False
    resumption: Resumption | None = None
    """The answer began elsewhere. Only with one choice."""

    @property
    def choices(self) -> int:
        """Answers wanted."""
        return max(1, len(self.prompts)) * self.n

    def choice_params(self, params: SamplingParams, i: int, draw: Callable[[], int]) -> SamplingParams:
        """`params` for the i-th sample of a prompt: each has a seed of its own, or all would be the same.

        Without a seed in the request here is one drawn, so that whoever goes on with the request elsewhere knows it.
        """
        if self.resumption is not None:
            return replace(params, seed=self.resumption.seed, max_tokens=self.resumption.max_tokens)
        if params.greedy and params.seed is None:
            return params
        seed = draw() if params.seed is None else params.seed + i
        return replace(params, seed=seed % (limits.MAX_SEED + 1))


def of_tenant(ask: Ask, tenant: Tenant, *, share_cache: bool) -> Ask:
    """The ask with the salt and the priority that it gets as this tenant's.

    Raises:
        InvalidArgumentError: it asks for a salt or a priority that there is not.

    """
    _check_salt(ask.cache_salt)
    check_priority(ask.priority)
    salt = ask.cache_salt if share_cache else tenant.salt(ask.cache_salt)
    priority = tenant.priority(ask.priority)
    if (salt, priority) == (ask.cache_salt, ask.priority):
        return ask
    return replace(ask, cache_salt=salt, priority=priority)


def _check_salt(salt: str) -> None:
    """Refuse a cache salt that is too long or not Unicode."""
    try:
        size = len(salt.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError("cache_salt", "is not valid Unicode text") from None
    if size > limits.MAX_CACHE_SALT:
        raise InvalidArgumentError("cache_salt", f"has {size} bytes; at most {limits.MAX_CACHE_SALT}")
