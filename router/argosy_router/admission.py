"""What all requests together may hold: places for choices, and bytes."""

from argosy_api import limits
from argosy_api.errors import OverloadedError, TooLargeError


class Admission:
    """The router's counts."""

    def __init__(self, *, places: int = limits.MAX_INFLIGHT, held: int = limits.MAX_HELD_BYTES) -> None:
        self._places = places
        self._most = held
        self.running = 0
        """Choices that are on their way."""
        self.held = 0
        """Bytes that requests hold: bodies, prompts and collected answers."""

    def account(self) -> "Account":
        """A new request's account."""
        return Account(self)

    def place(self, count: int) -> None:
        """Takes places.

        Raises:
            OverloadedError: there are not so many.

        """
        self.check(count)
        self.running += count

    def check(self, count: int = 1) -> None:
        """Whether there are so many places. Raises OverloadedError."""
        if self.running + count > self._places:
            raise OverloadedError("the router carries as many requests as it may")

    def take(self, count: int) -> None:
        """Takes bytes. Raises OverloadedError."""
        if self.held + count > self._most:
            raise OverloadedError("the router holds as many bytes of requests as it may")
        self.held += count


class Account:
    """What one request holds; given back as a whole by `close`."""

    __slots__ = ("_admission", "held", "places")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.places = 0
        self.held = 0

    def place(self, count: int) -> None:
        """Places for so many choices. Raises OverloadedError."""
        self._admission.place(count)
        self.places += count

    def take(self, count: int, field: str = "body") -> None:
        """So many bytes more.

        Raises:
            OverloadedError: all requests together hold too much.
            TooLargeError: this one does; `field` is what made it grow.

        """
        if self.held + count > limits.MAX_REQUEST_BYTES:
            raise TooLargeError(
                field, f"makes the request hold more than {limits.MAX_REQUEST_BYTES} bytes: ask for less at once"
            )
        self._admission.take(count)
        self.held += count

    def close(self) -> None:
        """Gives all back."""
        self._admission.running -= self.places
        self._admission.held -= self.held
        self.places = self.held = 0
