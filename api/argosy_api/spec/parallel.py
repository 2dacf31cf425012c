"""How many processes share one model."""

from typing import Annotated

from pydantic import Field

from argosy_api import limits
from argosy_api.spec.strict import Strict


class ParallelismSpec(Strict):
    """A model that is cut into parts, of which a pod has one, or as many as it has GPUs. Several pods are a group."""

    tensor: Annotated[int, Field(ge=1, le=limits.MAX_PIPELINE)] = 1
    """Parts of each layer, by outputs and by key/value heads: at most as many as the model has of these."""
    pipeline: Annotated[int, Field(ge=1, le=limits.MAX_PIPELINE)] = 1
    """Parts that have some of the layers each, one after another, and are no faster together than one. With tensor each
    of them is cut again."""

    @property
    def ranks(self) -> int:
        """Processes that share the model."""
        return self.tensor * self.pipeline
