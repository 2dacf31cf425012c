"""Runs programs in a client's own environment, pointed at a server that a test started."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600
"""For one program: a benchmark asks a model that has half of a slow core."""


def variables(environment, server):
    """Where the server is, the environment's programs, and nothing of ours or of a hub's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ARGOSY_", "HF_", "TRANSFORMERS_", "PYTHON"))}
    return kept | {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "ARGOSY_HTTP": f"http://127.0.0.1:{server.http_port}",
        "ARGOSY_GRPC": f"127.0.0.1:{server.grpc_port}",
    }


def run(environment, server, *command, cwd, limit_s=LIMIT_S, **more):
    """A program's standard output; what it said otherwise, where it fails."""
    done = subprocess.run(
        list(map(str, command)), env=variables(environment, server) | more, cwd=cwd, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=limit_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done.stdout


def snippets(page, language):
    """A page's code of a language: pairs of the heading above it and the code."""
    heading, found = "", []
    for part in re.split(r"^(?=#+ |```)", (ROOT / page).read_text(), flags=re.MULTILINE):
        if part.startswith("#"):
            heading = part.splitlines()[0].lstrip("# ")
        elif part.startswith(f"```{language}\n"):
            found.append((heading, part.removeprefix(f"```{language}\n")))
    return found


def pointed_at(server, code):
    """Code with the server's addresses in the place of the documented ones."""
    return code.replace("127.0.0.1:8000", f"127.0.0.1:{server.http_port}").replace(
        "127.0.0.1:8001", f"127.0.0.1:{server.grpc_port}"
    )
