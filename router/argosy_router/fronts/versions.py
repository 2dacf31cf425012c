"""Which version of the program this is."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Of this program; where it runs from its sources without being installed there is none."""
    try:
        return version("argosy")
    except PackageNotFoundError:
        return "0"
