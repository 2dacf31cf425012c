"""How many processes share one model."""

from typing import Annotated

from pydantic import Field

from argosy_api import limits
from argosy_api.spec.strict import Strict


class ParallelismSpec(Strict):
    """A model that is cut into parts, each in a pod of its own; the pods of all parts are a group."""

    tensor: Annotated[int, Field(ge=1, le=limits.MAX_PIPELINE)] = 1
    """Pods that share each layer, by outputs and by key/value heads: at most as many as the model has of these."""
    pipeline: Annotated[int, Field(ge=1, le=limits.MAX_PIPELINE)] = 1
    """Pods that have some of the layers each, one after another. A group needs the memory of so many pods, and answers
    no faster than one. With tensor each part is that many pods."""

    @property
    def ranks(self) -> int:
        """Pods of a group."""
        return self.tensor * self.pipeline
