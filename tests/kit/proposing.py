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

    def ended(self, request):
        self.requests.discard(request)
