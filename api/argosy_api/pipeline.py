"""Which layers each rank of a pipeline has: one arithmetic for the worker and for the plan of its memory."""

from argosy_api.errors import ModelUnsupportedError


def layers_of(layers: int, ranks: int, rank: int) -> range:
    """The layers of a rank, 0 to `ranks` - 1: as even as can be, and more at the end than at the beginning.

    Rank 0 has the embedding and the head besides.

    Raises:
        ModelUnsupportedError: there are fewer layers than ranks.

    """
    if ranks > layers:
        raise ModelUnsupportedError(f"parallelism.pipeline is {ranks}, but the model has {layers} layers")
    each, more = divmod(layers, ranks)
    few = ranks - more
    begin = rank * each + max(0, rank - few)
    return range(begin, begin + each + (rank >= few))
