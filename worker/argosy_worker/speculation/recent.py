"""What this worker generated lately, for guesses in later requests of the same tenant.

Kept apart by the root of the requests' block ids, which the tenant's salt is part of: a guess changes no answer, but
how soon it comes would tell one tenant what another was answered.
"""

from collections import OrderedDict
from collections.abc import Sequence

from argosy_api import limits
from argosy_api.blocks import BlockId
from argosy_worker.speculation.lookup import MIN_MATCH, SEPARATOR, TokenIndex


class _Half:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.index = TokenIndex(self.tokens)


class RecentTokens:
    """Two halves for each tenant: when the newer one is full it takes the place of the older one."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[BlockId, tuple[_Half, _Half]] = OrderedDict()

    def __len__(self) -> int:
        """Tokens that are kept."""
        return sum(len(half.tokens) for halves in self._tenants.values() for half in halves)

    def add(self, root: BlockId, prompt: Sequence[int], output: Sequence[int]) -> None:
        """An answer has ended. Of the prompt only the last tokens are kept, so that the answer's first can be found."""
        if not output:
            return
        newer, older = self._tenants.pop(root, (_Half(), _Half()))
        if len(newer.tokens) + len(output) > limits.MAX_RECENT_TOKENS:
            newer, older = _Half(), newer
        newer.tokens += prompt[-MIN_MATCH:]
        newer.tokens += output[: limits.MAX_RECENT_TOKENS - MIN_MATCH - 1]
        newer.tokens.append(SEPARATOR)
        self._tenants[root] = newer, older
        if len(self._tenants) > limits.MAX_RECENT_TENANTS:
            self._tenants.popitem(last=False)

    def find(self, root: BlockId, context: Sequence[int], most: int) -> tuple[list[int], int]:
        """Up to `most` tokens that may follow `context`, and the length of the match that says so."""
        tokens: list[int] = []
        best = 0
        for half in self._tenants.get(root, ()):
            half.index.catch_up()
            place, length = half.index.find(context)
            if length > best and (found := half.index.following(place, most)):
                tokens, best = found, length
        return tokens, best
