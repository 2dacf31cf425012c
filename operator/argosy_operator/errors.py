"""What the API server may answer instead of doing what it was asked."""


class ApiError(Exception):
    """A request that was not answered with success. Status 0: no answer, so whether it was done is not known."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def passing(self) -> bool:
        """Whether the same request may well succeed later, without anybody changing anything."""
        return self.status in (0, 401, 409, 429) or self.status >= 500


class NameConflictError(ApiError):
    """An object that is not ours has the name that a child must have."""

    def __init__(self, message: str) -> None:
        super().__init__(409, "NameConflict", message)

    @property
    def passing(self) -> bool:
        """Somebody must decide: it is not ours to change."""
        return False
