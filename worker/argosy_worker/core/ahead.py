"""Whether the next step may be launched while one is out: its last tokens are not known then. Pure.

Where all that the next step needs of them is in the model's arithmetic, the runner takes them on its device, and what
comes out is the same. Else, and where waiting is worth more than what the device would idle, the loop waits.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

from argosy_worker.core.request import Request


class Verdict(NamedTuple):
    """Whether, and why not."""

    ok: bool
    reason: str = ""


def can_run_ahead(requests: Collection[Request], *, blocks: int, drafts: Callable[[], bool], copies: bool) -> Verdict:
    """Whether to schedule before the outputs of the step that is out are there.

    Args:
        requests: those that run.
        blocks: that are to be had without taking one from a request.
        drafts: whether something may be proposed to follow the last tokens; asked where nothing else speaks against it.
        copies: whether blocks are to be copied between two steps.

    """
    if copies:
        return Verdict(ok=False, reason="blocks are to be copied between two steps")
    missing = 0
    for request in requests:
        if request.drafted:
            return Verdict(ok=False, reason="a draft is out, and how many of its tokens are right is not known")
        if request.awaited and request.remaining:
            reason = needs_last_token(request)
            if reason:
                return Verdict(ok=False, reason=reason)
        missing += max(0, request.blocks_wanted - len(request.table))
    if missing > blocks:
        return Verdict(ok=False, reason="blocks are short, and who ends with this step may leave some")
    if drafts():
        return Verdict(ok=False, reason="a draft may follow the last token")
    return Verdict(ok=True)


def needs_last_token(request: Request) -> str:
    """Why the host must know a request's last token before the next one can be sampled; empty: it need not.

    (What ends an answer before its min_tokens, single banned tokens and biases are the same whatever that token is.)
    """
    params, rules = request.params, request.rules
    if params.typical_p < 1:
        return "typical_p: such tokens are drawn on the host"
    if rules is None:
        return ""
    if rules.grammar is not None:
        return "a grammar says what may follow the last token"
    if params.counts_tokens:
        return "penalties count the last token"
    if rules.words:
        return "bad_words_ids: one of several tokens may end with the next"
    return ""
