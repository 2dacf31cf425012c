"""What is measured of a resource now, for whoever asks."""

import time
from typing import Protocol

from argosy_api.errors import NotFoundError
from argosy_operator.autoscaling.signals import Signals, Told, signals


class Teller(Protocol):
    """Keeps asking the routers."""

    def told(self, namespace: str, name: str) -> Told | None:
        """What the last round brought about one resource."""
        ...


class Source:
    """Signals by resource."""

    def __init__(self, routers: Teller) -> None:
        self._routers = routers

    def signals(self, namespace: str, name: str) -> Signals:
        """What is known of a resource; where nothing is, that is what the signals say.

        Raises:
            NotFoundError: all routers answer, and none knows such a resource.

        """
        told = self._routers.told(namespace, name)
        if told is not None and told.answers and len(told.answers) == told.asked and not any(told.answers):
            raise NotFoundError(f"no router knows an InferenceDeployment {namespace}/{name}")
        return signals(told, time.monotonic())
