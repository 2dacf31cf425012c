"""`argosy status` against a cluster: with kubectl's own access and habits."""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import yaml

from argosy_api import resource as api
from argosy_cli.cluster.explain import explain, row, table
from argosy_cli.errors import CommandError
from argosy_kube import access
from argosy_kube.http import HttpTransport, session
from argosy_kube.reflector import WatchError

OUTPUTS = ("json", "yaml", "wide")


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """As kubectl's options have it."""

    namespace: str | None = None
    """None: that of the context."""
    everywhere: bool = False
    context: str | None = None
    kubeconfig: str | None = None


def check_output(output: str | None) -> None:
    """Refuse a form that there is none of. Raises CommandError."""
    if output not in (None, *OUTPUTS):
        raise CommandError(f"-o {output} is not known; it can: {', '.join(OUTPUTS)}")


def status(name: str | None, where: Where, output: str | None, say: Callable[[str], None]) -> None:
    """Print a table of all resources, or why one is not ready.

    Raises:
        CommandError: no cluster, no such resource, or no right to see it.

    """
    environment = dict(os.environ) | ({"KUBECONFIG": where.kubeconfig} if where.kubeconfig else {})
    found = access.find(environment, context=where.context)
    namespace = where.namespace or found.namespace
    place = "" if where.everywhere and not name else f"/namespaces/{quote(namespace, safe='')}"
    path = f"/apis/{api.API_VERSION}{place}/{api.PLURAL}"
    document = asyncio.run(_get(found, path + (f"/{quote(name, safe='')}" if name else "")))
    now = datetime.now(UTC)
    if output == "json":
        say(json.dumps(document, indent=1))
    elif output == "yaml":
        say(yaml.safe_dump(document, sort_keys=False).rstrip())
    elif name and output is None:
        for line in explain(document, now):
            say(line)
    else:
        bodies = [document] if name else document["items"]
        if not bodies:
            raise CommandError(f"no {api.KIND} in {f'namespace {namespace}' if place else 'this cluster'}")
        for line in table([row(body, now, wide=output == "wide") for body in bodies], wide=output == "wide"):
            say(line)


async def _get(found: access.Access, path: str) -> dict[str, Any]:
    async with session(found) as http:
        try:
            return await HttpTransport(http, found).get(path, {})
        except WatchError as error:
            raise CommandError(refusal(error, path)) from None


def refusal(error: WatchError, path: str) -> str:
    """What to tell the user of an answer to a question for this path."""
    name = path.rpartition("/")[2]
    if error.status == 404 and name != api.PLURAL:
        return f"there is no {api.KIND} {name} in that namespace"
    if error.status == 404:
        return f"this cluster knows no {api.KIND}: is Argosy installed (helm install argosy charts/argosy)?"
    if error.status in (401, 403):
        return f"the API server refuses: {error}"
    return f"the API server cannot be asked: {error}"
