"""How many tokens of a stream go into one message. Pure.

A message costs the router about as much processor time, whether it has one token or ten: the call's read, an event, a
write to the client's socket. So where many streams are under way they share a number of messages a second, and workers
join the tokens that come in between (`GenerateRequest.message_interval_ms`); the first and the last never wait.
"""

MESSAGES_PER_S = 2500
"""Shared by all streams of a router: an eighth of a processor, about. 50 streams of 50 tokens a second are below it."""
MOST_MS = 100
"""What a reader does not see as a pause."""
UNREAD_MS = 100
"""Where nobody reads before the answer is whole."""


def interval_ms(streams: int, *, read_as_it_comes: bool, by_token: bool) -> int:
    """The least time between two messages of one of so many streams. `by_token`: its client is told of each token."""
    if by_token:
        return 0
    if not read_as_it_comes:
        return UNREAD_MS
    return min(MOST_MS, 1000 * streams // MESSAGES_PER_S)
