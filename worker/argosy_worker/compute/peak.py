"""What the largest steps take of a GPU beside weights and KV cache: measured before the cache is made."""

from collections.abc import Callable
from typing import Protocol

import torch

from argosy_worker.compute.warm import largest
from argosy_worker.core.batch import Runner


class Meter(Protocol):
    """Of a device's memory."""

    def begin(self) -> None:
        """Count from here on."""
        ...

    def most(self) -> int:
        """Bytes that were taken at most since, beside those that were before; gives back what nobody has any more."""
        ...


class CudaMeter:
    """As torch's allocator counts: what it holds of the device, gaps between tensors among it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0

    def begin(self) -> None:
        """See `Meter`."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_reserved(self._device)

    def most(self) -> int:
        """See `Meter`."""
        torch.cuda.synchronize(self._device)
        most = torch.cuda.max_memory_reserved(self._device) - self._before
        torch.cuda.empty_cache()
        return most


def step_bytes(
    make_runner: Callable[[], Runner], meter: Meter, *, block_size: int, longest: int, tokens: int, sequences: int
) -> int:
    """Bytes that the largest steps take at most, with the runner's own KV cache, which should be small.

    `longest` is the model's context; a step has at most so many `tokens`, of so many `sequences`.

    Raises:
        torch.OutOfMemoryError: there is not so much.

    """
    meter.begin()
    runner = make_runner()
    for batch in largest(block_size=block_size, longest=longest, tokens=tokens, sequences=sequences):
        runner.launch(batch).result()
    del runner
    return meter.most()
