"""Where the `argosy` program begins: the command line, if all that it needs is installed."""

import sys


def main() -> None:
    """Run the command line. `pip install argosy` alone brings the contracts and the client, and not what this needs."""
    try:
        from argosy_cli.main import main as run  # noqa: PLC0415 - what it imports may be missing
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0].startswith("argosy"):
            raise
        print(f"error: {error.name} is not installed; the command needs: pip install 'argosy[cli]'", file=sys.stderr)
        sys.exit(1)
    run()
