"""What a worker is asked for: a prompt to generate from, checked and tokenized, and what is left of it later."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

from argosy_api.blocks import iter_block_ids, root_id
from argosy_api.params import SamplingParams
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.picked import NO_PICK, Picked
from argosy_router.resumption import Resumption
from argosy_router.tenants.tenant import ANYBODY, Tenant


@dataclass(frozen=True, kw_only=True)  # no slots, for what is cached
class Job:
    """One prompt to generate from, checked and tokenized."""

    deployment: DeploymentState
    request_id: str
    """Chosen or accepted by the front; a worker sees it with a suffix, so that equal ones cannot meet there."""
    tokens: list[int]
    block_ids: list[bytes]
    params: SamplingParams
    tenant: Tenant = ANYBODY
    cache_salt: str = ""
    adapter: str = ""
    """Digest of the adapter that is asked for."""
    priority: int = 0
    deadline: float | None = None
    """Monotonic seconds."""
    received_at: float = 0.0
    key: str = ""
    """Decides whether it is for a canary, where there is one."""
    pick: Picked = NO_PICK
    constraint: str = ""
    """What the answer must look like (`argosy_api.structured.constraint`)."""
    embeds: bool = False
    """Its prompt's embedding is wanted, which comes with the first token."""
    resumption: Resumption | None = None
    """The answer began at another router."""

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return len(self.tokens) + self.params.max_tokens

    @cached_property
    def digest(self) -> bytes:
        """Equal for equal prompts of one tenant to the model, or to the same adapter."""
        prompt = array("I", self.tokens).tobytes() + self.adapter.encode()
        return blake2b(prompt, key=self.cache_salt.encode()[:64], digest_size=16).digest()


def continued(job: Job, answer: Sequence[int]) -> Job:
    """The job of going on after so much of the answer: what is to be computed, and which blocks may be there."""
    tokens, card, ids = [*job.tokens, *answer], job.deployment.card, list(job.block_ids)
    if card is not None:
        size = card.facts.block_size
        parent = ids[-1] if ids else root_id(card.facts.fingerprint, adapter=job.adapter, salt=job.cache_salt)
        ids += iter_block_ids(parent, tokens[len(ids) * size :], size)
    left = replace(job.params, max_tokens=job.params.max_tokens - len(answer), prompt_logprobs=None)
    return replace(job, tokens=tokens, block_ids=ids, params=left)
