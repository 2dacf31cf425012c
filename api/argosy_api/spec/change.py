"""How workers are replaced, and how they end."""

from typing import Annotated, Literal

from pydantic import Field

from argosy_api.spec.strict import Strict


class CanaryStep(Strict):
    """A part of the requests goes to workers of the new revision, for a while."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """Percent of the requests."""
    pause_seconds: Annotated[int, Field(ge=0, le=604_800)] = 60
    """The step lasts this long at least, and until there are enough requests to judge by."""


class CanaryAnalysis(Strict):
    """When a canary is taken back: what routers measure at it, beside the same at the other workers meanwhile."""

    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Requests of the canary, and of the others, before it is judged by time; a step does not end before."""
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Part of the canary's requests that may fail, also where they went well elsewhere; more only if others fail as
    often."""
    max_ttft_ratio: Annotated[float, Field(ge=1, le=1000)] = 1.5
    """Median time to the first token, as a multiple of the others'."""
    max_itl_ratio: Annotated[float, Field(ge=1, le=1000)] = 1.5
    """Median time between tokens, as a multiple of the others'."""


class CanarySpec(Strict):
    """A new revision first gets a part of the requests, and all of them only if it does well."""

    steps: Annotated[list[CanaryStep], Field(min_length=1, max_length=20)]
    """One after another; after the last one all workers are replaced."""
    analysis: CanaryAnalysis = CanaryAnalysis()
    """When the canary is taken back."""


class RolloutSpec(Strict):
    """How a change of the resource reaches its workers."""

    strategy: Literal["RollingUpdate", "Recreate", "Canary"] = "RollingUpdate"
    """RollingUpdate replaces workers step by step. Recreate ends all of them first, where there is no room for both.
    Canary tries the new ones on a part of the requests, then replaces step by step."""
    max_surge: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers above `replicas` while rolling."""
    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 0
    """Workers that may be missing while rolling."""
    partition: Annotated[int, Field(ge=0, le=1000)] = 0
    """Workers that stay as they were; lower it to let a change go on."""
    progress_deadline_seconds: Annotated[int, Field(ge=10, le=86_400)] = 600
    """After this long without another worker that routers reach, the change is taken back. It must leave time to load
    the model."""
    restart: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Another number replaces all workers though nothing else has changed, or tries once more what was taken back."""
    revision_history_limit: Annotated[int, Field(ge=1, le=20)] = 3
    """Former revisions that are kept as ControllerRevisions."""
    canary: CanarySpec | None = None
    """For strategy Canary."""


class DisruptionSpec(Strict):
    """How many workers may be away at once for reasons of the cluster (drained nodes)."""

    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 1
    """Of the PodDisruptionBudget."""


class DrainSpec(Strict):
    """How a worker that must go ends."""

    timeout_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Time for running requests to finish; then they are aborted."""
