"""Free and taken TCP ports."""

import errno
import random
from collections.abc import Collection

from argosy_api import net
from argosy_cli.errors import PortTakenError, StartError

_LOW, _HIGH = 20_000, 32_000
"""Below the range that the kernel takes for outgoing connections, so that none of those lands on a chosen port."""
_TRIES = 200


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now.

    Raises:
        StartError: nobody could listen there, whoever else does.

    """
    try:
        net.listen(host, port).close()
    except PermissionError:
        raise StartError(f"port {port} needs more rights than you have; choose one above 1023") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise StartError(f"cannot listen on {host}: {error.strerror}; choose another address with --host") from None
    return True


def free_port(avoid: Collection[int] = (), host: str = "127.0.0.1") -> int:
    """A port that nobody listens on and that is not in `avoid`.

    Another program may still take it before its server starts; whoever uses it must be ready to ask again.
    """
    for _ in range(_TRIES):
        port = random.randint(_LOW, _HIGH)
        if port not in avoid and is_free(host, port):
            return port
    raise StartError(f"no free port found between {_LOW} and {_HIGH} on {host}")


def require_free(host: str, wanted: dict[str, int]) -> None:
    """Refuse to start when a port is taken or given twice. `wanted` is option name -> port."""
    seen: dict[int, str] = {}
    for option, port in wanted.items():
        if port in seen:
            raise PortTakenError(f"{seen[port]} and {option} are both {port}; they must differ")
        seen[port] = option
        if not is_free(host, port):
            raise PortTakenError(
                f"port {port} on {host} is taken by another program; end it, or choose another port with {option}"
            )
