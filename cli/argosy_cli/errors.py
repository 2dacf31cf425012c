"""What ends a command: one line for the user and an exit code for scripts."""

from typing import ClassVar

from argosy_api.errors import ArgosyError


class CommandError(ArgosyError):
    """The command cannot go on. `message` says why and what to do."""

    exit_code: ClassVar[int] = 1


class ResourceError(CommandError):
    """A resource file is wrong, or asks for what this machine cannot do."""

    exit_code = 2


class PortTakenError(CommandError):
    """Another program listens on a port that was asked for."""

    exit_code = 3


class StartError(CommandError):
    """A part of the embedded platform does not come up at all."""

    exit_code = 4


class RequestError(CommandError):
    """The router cannot be reached, or refused the request."""

    exit_code = 5


class NothingServesError(CommandError):
    """No replica of a run can ever serve: its models cannot be loaded, and no other try changes that."""
