"""The layers of other ranks, as rank 0 sees them; and what such a rank does all day."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from argosy_api.faults import is_fault
from argosy_worker.compute.attention.backend import AttentionBackend
from argosy_worker.compute.layer import Step
from argosy_worker.compute.torch_model import TorchPart
from argosy_worker.compute.torch_runner import threads_for
from argosy_worker.core.batch import RunnerBrokenError
from argosy_worker.group.ring import Kind, Ring

log = logging.getLogger(__name__)


class RemoteLayers:
    """A `Layer` that has those of all other ranks computed. `connect` comes before the first step."""

    def __init__(self) -> None:
        self._ring: Ring | None = None

    def connect(self, ring: Ring) -> None:
        """The others are there."""
        self._ring = ring

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """[rows, hidden] -> [rows, hidden]; the others write the rows' keys and values.

        Raises:
            RunnerBrokenError: another rank is gone.

        """
        if self._ring is None:
            raise RunnerBrokenError("the group has not begun")
        self._ring.send(step.attention.layout, x)
        passed = self._ring.receive()
        if passed.kind is Kind.FAILED or passed.rows is None:
            raise RuntimeError("another rank of the group could not compute the step; its log has the cause")
        return passed.rows


def follow(
    part: TorchPart, attention: AttentionBackend, ring: Ring, head: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Compute this rank's layers of all steps that come. A step that raises is told to have failed.

    `head`: this rank's part of the head, where it has one.

    Raises:
        RunnerBrokenError: another rank is gone; or this one has failed in layers that it shares, where others wait.

    """
    with torch.inference_mode():
        while True:
            passed = ring.receive()
            if passed.kind is Kind.HEAD and passed.rows is not None and head is not None:
                ring.answer(head(passed.rows))
                continue
            rows = None
            if passed.kind is Kind.STEP and passed.layout is not None and passed.rows is not None:
                torch.set_num_threads(threads_for(part.config, len(passed.rows), part.threads))
                try:
                    attention.prepare(passed.layout)
                    positions = torch.from_numpy(passed.layout.positions).to(part.stack.device)
                    rows = part.stack(passed.rows, positions, attention)
                except BaseException as error:
                    if not is_fault(error):
                        raise
                    if ring.place.parts > 1:
                        raise RunnerBrokenError("a step failed in layers that ranks share") from error
                    log.exception("a step failed")
            if rows is None:
                ring.fail()
            else:
                ring.send(None if ring.place.after == 0 else passed.layout, rows)
