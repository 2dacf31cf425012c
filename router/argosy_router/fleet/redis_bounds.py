"""What stands in Redis is not trusted: an answer that is larger than anything of ours is not read to its end."""

from typing import Any

from redis._parsers import _AsyncHiredisParser
from redis.exceptions import RedisError

from argosy_api import limits


class ReplyTooLargeError(RedisError):
    """The answer to one command is longer than `limits.MAX_REDIS_REPLY`. The connection is closed."""

    def __init__(self) -> None:
        super().__init__(f"an answer of more than {limits.MAX_REDIS_REPLY} bytes")


class BoundedParser(_AsyncHiredisParser):
    """Counts the bytes of an answer as they come. redis-py itself has no bound, and so reads up to 512 MB a value."""

    __slots__ = ("_taken",)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """One answer.

        Raises:
            ReplyTooLargeError: it has too many bytes.

        """
        self._taken = 0
        return await super().read_response(*args, **kwargs)

    async def read_from_socket(self) -> bool:
        """Take what has come."""
        reader: Any = self._reader
        before = reader.len()
        done = bool(await super().read_from_socket())  # type: ignore[no-untyped-call]
        self._taken += reader.len() - before
        if self._taken > limits.MAX_REDIS_REPLY:
            raise ReplyTooLargeError
        return done
