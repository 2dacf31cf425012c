"""How workers are replaced, and how they end."""

from typing import Annotated

from pydantic import Field

from argosy_api.spec.strict import Strict


class RolloutSpec(Strict):
    """How a change of the resource reaches its workers."""

    max_surge: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers above `replicas` while rolling."""
    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 0
    """Workers that may be missing while rolling."""
    progress_deadline_seconds: Annotated[int, Field(ge=10, le=86_400)] = 600
    """After this long without progress the resource says so (Progressing=False)."""


class DisruptionSpec(Strict):
    """How many workers may be away at once for reasons of the cluster (drained nodes)."""

    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 1
    """Of the PodDisruptionBudget."""


class DrainSpec(Strict):
    """How a worker that must go ends."""

    timeout_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Time for running requests to finish; then they are aborted."""
