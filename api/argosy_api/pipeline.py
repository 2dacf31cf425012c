"""Which part of a model each rank of a group has: one arithmetic for the worker and for the plan of its memory.

Ranks are counted stage by stage: `parallelism.pipeline` stages have layers that follow one another, and
`parallelism.tensor` ranks share each layer of a stage. Rank 0 has the embedding besides; the head is shared by stage 0.
"""

from typing import NamedTuple

from argosy_api.errors import ModelUnsupportedError

OUTPUTS = 32
"""Outputs of a linear that stay together: whole tiles of all kernels."""


def layers_of(layers: int, stages: int, stage: int) -> range:
    """The layers of a stage, 0 to `stages` - 1: as even as can be, and more at the end than at the beginning.

    Raises:
        ModelUnsupportedError: there are fewer layers than stages.

    """
    if stages > layers:
        raise ModelUnsupportedError(f"parallelism.pipeline is {stages}, but the model has {layers} layers")
    return _even(layers, stages, stage)


class Cut(NamedTuple):
    """What one of `parts` ranks has of every layer of its stage."""

    part: int
    parts: int

    def heads(self, kv_heads: int) -> range:
        """Its key/value heads; their query heads go with them.

        Raises:
            ModelUnsupportedError: there are fewer of them than ranks.

        """
        if self.parts > kv_heads:
            raise ModelUnsupportedError(
                f"parallelism.tensor is {self.parts}, but the model has {kv_heads} key/value heads, which cannot be cut"
            )
        return _even(kv_heads, self.parts, self.part)

    def outputs(self, size: int) -> range:
        """Its outputs of a linear of `size`.

        Raises:
            ModelUnsupportedError: there are too few.

        """
        whole = -(-size // OUTPUTS)
        if self.parts > whole:
            raise ModelUnsupportedError(f"parallelism.tensor is {self.parts}, too many for a width of {size}")
        found = _even(whole, self.parts, self.part)
        return range(found.start * OUTPUTS, min(found.stop * OUTPUTS, size))


WHOLE = Cut(0, 1)


class Place(NamedTuple):
    """Where a rank is in its group."""

    rank: int = 0
    stages: int = 1
    parts: int = 1

    @property
    def ranks(self) -> int:
        """Of the whole group."""
        return self.stages * self.parts

    @property
    def stage(self) -> int:
        """Which layers it has."""
        return self.rank // self.parts

    @property
    def cut(self) -> Cut:
        """What it has of each of them."""
        return Cut(self.rank % self.parts, self.parts)

    @property
    def before(self) -> int:
        """The rank that it gets rows from: of the stage before. In stage 0 that is rank 0; to it the last stage's."""
        if self.stage == 0:
            return (self.stages - 1) * self.parts if self.rank == 0 else 0
        return self.rank - self.parts

    @property
    def after(self) -> int | None:
        """The rank that it passes rows on to: of the next stage, and at the end of all rank 0. None: to nobody."""
        if self.stage < self.stages - 1:
            return self.rank + self.parts
        return 0 if self.stages > 1 and self.cut.part == 0 else None

    @property
    def peers(self) -> range:
        """The other ranks of stage 0, which rank 0 gives its rows to."""
        return range(1, self.parts)


def _even(count: int, parts: int, part: int) -> range:
    """As even as can be, with more at the end than at the beginning."""
    each, more = divmod(count, parts)
    few = parts - more
    begin = part * each + max(0, part - few)
    return range(begin, begin + each + (part >= few))
