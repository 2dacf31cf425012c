"""Numbers on their way from a device to the host."""

import torch
from torch import Tensor


class Coming:
    """A copy that was begun, behind all that the device was told to do before."""

    def __init__(self, numbers: Tensor) -> None:
        self._host, self._event = numbers, None
        if numbers.device.type == "cuda":
            self._host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._host.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def here(self) -> Tensor:
        """Wait for it."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
