"""Work that may take long, take much memory or come from a stranger runs in child processes, which can be killed."""


class RefusedError(Exception):
    """A child's job cannot be done, for a reason that its sender may be told."""
