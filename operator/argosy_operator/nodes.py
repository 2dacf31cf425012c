"""Which nodes there are: listed while some resource prefetches, and not more often than anybody could notice."""

import logging
import time

from argosy_operator.errors import ApiError
from argosy_operator.kube import KubeApi
from argosy_operator.prefetch import NodeView

log = logging.getLogger(__name__)

FRESH_S = 30.0


class Nodes:
    """The cluster's nodes, for all resources together."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._nodes: tuple[NodeView, ...] | None = None
        self._listed_at = float("-inf")

    async def all(self) -> tuple[NodeView, ...] | None:
        """They; None where the API server does not tell, as in an installation for some namespaces only."""
        if time.monotonic() - self._listed_at > FRESH_S:
            self._listed_at = time.monotonic()
            try:
                self._nodes = tuple(NodeView.from_body(body) for body in await self._api.nodes())
            except ApiError as error:
                log.info("the nodes cannot be listed: %s", error.message)
                self._nodes = None
        return self._nodes
