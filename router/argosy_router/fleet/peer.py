"""One worker as the router knows it."""

import asyncio
from collections.abc import Callable, Mapping

from argosy_api import limits
from argosy_api.keys import LEASE_TTL_S
from argosy_api.membership import Worker
from argosy_api.v1 import worker_pb2 as pb
from argosy_router import clock
from argosy_router.fleet import channels
from argosy_router.fleet.calls import Call, Metadata, OwnCall
from argosy_router.fleet.session import Session
from argosy_router.routing.books import REPORT_GOOD_S, Books, Report, reported_line
from argosy_router.routing.line import Waiting
from argosy_router.text.models import ServedModel

EJECT_S = 1.0
"""How long a worker that failed is passed over, unless a probe finds it well before."""
ACQUAINTANCE_S = 10.0
"""A request that finds no worker but new ones, whose model the router does not know yet, waits for so long: after the
router's start, and when the last of the old workers leaves at the moment at which the new ones come."""
HUNG_S = 10.0
"""A step takes longer only in an engine that hangs: requests go elsewhere, also those that wait there. (`silence.py`
notices most of them before.)"""
MAX_NUMBER = 1e12
OWN_CALL_BYTES = limits.MAX_GRPC_MESSAGE // 2
"""A larger request has a call of its own: were it larger than a message may be, a session would break of it."""


class Peer:
    """One worker: its channel, and what is known of it. Times are monotonic seconds."""

    def __init__(self, spec: Worker) -> None:
        self.spec = spec
        self.worker_id = spec.worker_id
        self.channel, self.stub = channels.open_channel(spec.address)
        self.session = Session(self.stub)
        self.facts: ServedModel | None = None
        self.load: pb.Load | None = None
        """The newest report of its process."""
        self.load_at = float("-inf")
        self.books = Books()
        self.covered: bool | None = None
        """Whether the index covers it; None while that is not known."""
        self.ejected_until = 0.0
        self.index_heard_at = float("-inf")
        """When a live lease or a live subscription last said that the index follows its cache."""
        self.met_at = clock.now()
        """When it was heard of."""
        self.heard_at = 0.0
        """When a token came last, or when it was sent the first request after it had none."""
        self.suspected = asyncio.Event()
        """Set when a call failed or the connection broke: the monitor looks at once."""

    @property
    def revision(self) -> str:
        """Of the resource; empty: it has not said yet."""
        return self.facts.revision if self.facts is not None else ""

    @property
    def role(self) -> str:
        """`prefill` or `decode`; empty: it does everything, or has not said yet."""
        return self.facts.role if self.facts is not None else ""

    @property
    def adapters(self) -> Mapping[str, str]:
        """Adapters that it has, as it said last: name -> digest."""
        return self.load.adapters if self.load is not None else {}

    def generate(
        self,
        request: pb.GenerateRequest,
        *,
        timeout: float | None,
        metadata: Metadata | None,
        accepted: Callable[[int], object],
    ) -> Call:
        """Begin a call, on the session with it where it offers one. `accepted`: see `OwnCall`."""
        offered = self.facts is not None and self.facts.sessions and not self.session.refused
        if offered and request.ByteSize() <= OWN_CALL_BYTES:
            return self.session.begin(request, timeout=timeout, metadata=metadata, accepted=accepted)
        return OwnCall(self.stub, request, timeout=timeout, metadata=metadata, accepted=accepted)

    def take_load(self, load: pb.Load, now: float, *, age: float = 0.0) -> None:
        """A report, from the worker or through Redis, about `age` seconds old.

        One that was seen before is no news, however often it is read; one of another process, with absurd numbers, or
        that names more requests than any worker does, is ignored.
        """
        if len(load.queue) > limits.MAX_REPORTED or len(load.adapters) > limits.MAX_ADAPTERS:
            return
        numbers = [
            load.prefill_tokens_per_second, load.decode_tokens, load.uncached_tokens, load.last_step_age_seconds,
            load.transfer_bytes_per_second, load.inter_token_seconds, load.slow_step_seconds,
        ]  # fmt: skip
        numbers += [n for q in load.queue for n in (q.uncached_tokens, q.waited_seconds)]
        if self.facts is None or load.epoch != self.facts.epoch or not all(0 <= n < MAX_NUMBER for n in numbers):
            return
        known = self.load
        if known is not None and known.epoch == load.epoch and load.sequence <= known.sequence:
            return
        self.load, self.load_at = load, now
        queue = (Waiting(q.uncached_tokens, q.waited_seconds, 1, q.priority) for q in load.queue)
        line = reported_line(queue, total=load.uncached_tokens, requests=load.running + load.waiting)
        report = Report(accepted=load.accepted, line=line, at=now - age, decode=load.decode_tokens)
        self.books.take(report)
        if self.hangs(now):
            self.suspected.set()
            self.abandon()

    def abandon(self) -> int:
        """It hangs: its requests go elsewhere, where somebody can take them. Returns how many it has."""
        entries = self.books.entries()
        for entry in entries:
            entry.abandon()
        return len(entries)

    def take_facts(self, facts: ServedModel) -> None:
        """What the worker says of its model. A new process begins with an empty line and counts anew."""
        if self.facts is not None and facts.epoch != self.facts.epoch:
            self.load, self.load_at = None, float("-inf")
            self.books.take(None)
            self.session.refused = False
        self.facts = facts

    @property
    def about_to_be_known(self) -> bool:
        """Whether it takes requests and was not asked in vain: its model's description is on its way."""
        return self.spec.serving and self.facts is None and self.ejected_until == 0

    def hangs(self, now: float) -> bool:
        """Whether it has requests, and its engine has not come around for too long."""
        load = self.fresh_load(now)
        return load is not None and load.running + load.waiting > 0 and load.last_step_age_seconds > HUNG_S

    def fits(self, wanted: int) -> bool:
        """Whether a request of so many tokens, prompt and answer, fits this worker, which may be a smaller one."""
        facts = self.facts
        return (
            facts is not None and wanted <= facts.max_model_len and wanted - 1 <= facts.total_blocks * facts.block_size
        )

    def fresh_load(self, now: float) -> pb.Load | None:
        """The last report, if it is recent."""
        return self.load if now - self.load_at <= REPORT_GOOD_S else None

    def index_counts(self, now: float) -> bool:
        """Whether what the index says of it may still be believed."""
        return now - self.index_heard_at < LEASE_TTL_S

    def index_age(self, now: float) -> float:
        """For how long the index has not been known to follow its cache."""
        return max(0.0, now - max(self.index_heard_at, self.met_at))

    def eject(self, now: float, seconds: float = EJECT_S) -> None:
        """Pass it over for a while, and have it looked at."""
        self.ejected_until = max(self.ejected_until, now + seconds)
        self.suspected.set()

    def healthy(self, now: float) -> bool:
        """Whether it takes new requests, as far as is known."""
        return self.spec.serving and self.answers(now)

    def answers(self, now: float) -> bool:
        """Whether it would take requests, for all that is known of itself."""
        load = self.fresh_load(now)
        draining = load is not None and load.draining
        return now >= self.ejected_until and not draining and not self.hangs(now)
