"""`argosy key`: a new API key for a tenant, and what routers keep of it."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from argosy_api.access import new_key
from argosy_cli.errors import CommandError


def key(
    tenant: Annotated[str, typer.Argument(help="Whose requests it stands for.")],
    admin: Annotated[bool, typer.Option("--admin", help="May be told why a worker was chosen.")] = False,
    into: Annotated[
        Path | None, typer.Option(help="Directory that routers read (--api-keys); their entry is written there.")
    ] = None,
    to: Annotated[str, typer.Option(help="In a cluster: name of the Secret that it is to be in.")] = "argosy-api-keys",
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Of that Secret.")] = "argosy-system",
) -> None:
    """Make an API key. It goes to stdout and is kept nowhere; routers get a hash of it."""
    made, key_id, entry = new_key(tenant, admin=admin)
    if into is not None:
        try:
            into.mkdir(parents=True, exist_ok=True)
            (into / key_id).write_text(entry.to_json() + "\n")
        except OSError as error:
            raise CommandError(f"{into}: {error.strerror}") from None
    else:
        patch = json.dumps({"stringData": {key_id: entry.to_json()}})
        command = ["kubectl", "--namespace", namespace, "patch", "secret", to, "-p", patch]
        print(f"Tell the routers of it:\n  {shlex.join(command)}", file=sys.stderr)
    print(made)
