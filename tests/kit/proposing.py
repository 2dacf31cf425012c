"""A drafter over a plain function, for tests that choose the drafts themselves."""


class Proposing:
    """`propose(request, most)` plans the tokens to try; of `n` planned ones `kept(n)` are tried."""

    def __init__(self, propose, kept=lambda n: n):
        self.propose = propose
        self.kept = kept
        self.drafts = []
        self.requests = set()

    def plan(self, requests, most, budget):
        self.requests.update(requests)
        self.drafts = [list(self.propose(r, m)[:m]) if m else [] for r, m in zip(requests, most, strict=True)]
        return [len(draft) for draft in self.drafts]

    def draft(self, requests, lengths):
        return [draft[: self.kept(n)] for draft, n in zip(self.drafts, lengths, strict=True)]

    def hopes(self, requests):
        return any(self.propose(request, 2) for request in requests)

    def ended(self, request):
        self.requests.discard(request)


class Everything:
    """A policy of speculation that tries all that is offered, and measures nothing."""

    saved = 0.0

    def open_to(self, requests):
        return True

    def lengths(self, offers, budget):
        found = []
        for offer in offers:
            found.append(min(len(offer.survival), budget))
            budget -= found[-1]
        return found

    def asks_model(self, requests, most):
        return True

    def catching_up(self, rows, requests):
        return 0.0

    def learn(self, requests, drafted, right, seconds, *, spent, alone):
        pass
