"""What tenants use, and whether they may have more. Pure: the caller gives the time (monotonic seconds).

Each router keeps whole buckets of every tenant and takes from them what the other routers have used, too, as far as it
has heard of it. Where it hears of nobody it takes its share alone (`share`).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from argosy_api import limits
from argosy_api.errors import OverloadedError
from argosy_router.tenants.bucket import Bucket
from argosy_router.tenants.tenant import Tenant

MINUTE = 60.0
BUSY_S = 1.0
"""When another try makes sense for who has as many answers under way as he may."""


@dataclass(slots=True)
class Usage:
    """Of one tenant at this router, since its start."""

    requests: int = 0
    tokens: int = 0
    running: int = 0
    """Answers under way now."""


@dataclass(slots=True)
class _Account:
    own: Usage = field(default_factory=Usage)
    others_running: int = 0
    requests: Bucket | None = None
    tokens: Bucket | None = None


class Quotas:
    """Of all tenants at one router."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self.share = 1.0
        """Part of each limit that this router gives out: 1 while it hears what the others use."""

    def begin(self, tenant: Tenant, answers: int, now: float) -> None:
        """A request with so many answers begins; it ends with `end`. Raises as `check`."""
        account = self.check(tenant, answers, now)
        account.own.requests += 1
        account.own.running += answers
        if account.requests is not None:
            account.requests.take(1, now)

    def check(self, tenant: Tenant, answers: int, now: float) -> _Account:
        """Whether a request with so many answers may begin.

        Raises:
            OverloadedError: the tenant has what he may have; tells when another try makes sense.

        """
        account = self._account(tenant, now)
        allowed = tenant.limits.concurrency
        if allowed is not None:
            here = max(1.0, self.share * allowed)
            running = account.own.running + account.others_running
            if running and running + answers > here:
                raise OverloadedError(
                    f"this tenant has {running} answers under way; at most {allowed}", retry_after_s=BUSY_S
                )
        for bucket, what in ((account.requests, "requests"), (account.tokens, "tokens")):
            if bucket is not None and (wait := bucket.wait(now)) > 0:
                raise OverloadedError(f"this tenant has used its {what} per minute", retry_after_s=wait)
        return account

    def end(self, tenant: Tenant, answers: int) -> None:
        """It has ended, in whatever way."""
        if (account := self._accounts.get(tenant.name)) is not None:
            account.own.running -= answers

    def used(self, tenant: Tenant, tokens: int, now: float) -> None:
        """Tokens of its prompt or answer."""
        account = self._account(tenant, now)
        account.own.tokens += tokens
        if account.tokens is not None:
            account.tokens.take(tokens, now)

    def usage(self) -> Mapping[str, Usage]:
        """Of every tenant, for the other routers."""
        return {name: account.own for name, account in self._accounts.items()}

    def heard(self, tenant: str, *, requests: int, tokens: int, running: int, now: float) -> None:
        """What other routers have used since the last time, and have under way now."""
        account = self._accounts.get(tenant)
        if account is None:
            return  # he has asked nothing here: what is owed is forgotten, as with a new router
        account.others_running = running
        if account.requests is not None:
            account.requests.take(requests, now)
        if account.tokens is not None:
            account.tokens.take(tokens, now)

    def _account(self, tenant: Tenant, now: float) -> _Account:
        account = self._accounts.get(tenant.name)
        if account is None:
            account = self._accounts[tenant.name] = _Account()
            self._forget()
        self._accounts.move_to_end(tenant.name)
        account.requests = self._bucket(account.requests, tenant.limits.requests_per_minute, now)
        account.tokens = self._bucket(account.tokens, tenant.limits.tokens_per_minute, now)
        return account

    def _bucket(self, bucket: Bucket | None, per_minute: float | None, now: float) -> Bucket | None:
        if per_minute is None:
            return None
        rate = self.share * per_minute / MINUTE
        if bucket is None:
            return Bucket(rate, now)
        bucket.follow(rate, now)
        return bucket

    def _forget(self) -> None:
        while len(self._accounts) > limits.MAX_TENANTS:
            idle = next((name for name, a in self._accounts.items() if not a.own.running), None)
            if idle is None:
                return
            del self._accounts[idle]
