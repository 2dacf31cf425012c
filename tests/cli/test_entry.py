"""The program without what it needs."""

import subprocess
import sys

import pytest

BARE = """
import sys
sys.modules[{missing!r}] = None
from argosy_cli.entry import main
main()
"""


@pytest.mark.parametrize("missing", ["typer", "aiohttp"])
def test_what_is_missing_is_said_with_the_remedy(missing):
    """A command imports what it needs when it runs, so only what all of them need is missed at once."""
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(missing=missing), "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if missing == "typer":
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "error: typer is not installed; the command needs: pip install 'argosy[cli]'\n"
    else:
        assert (done.returncode, done.stdout[:7]) == (0, "argosy ")
