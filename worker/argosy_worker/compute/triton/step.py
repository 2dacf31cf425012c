"""What the kernels of a step read besides tensors: a handful of int32 arrays, which go to the device in one copy."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from argosy_worker.arrays import sent
from argosy_worker.compute.triton.tiles import Plan
from argosy_worker.core.layout import Ints, StepLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class StepArrays:
    """On the device, int32: of a `StepLayout` and of a `Plan`, as these say."""

    whole: Tensor
    """All of them, one after another."""
    positions: Tensor
    cu_rows: Tensor
    context_lens: Tensor
    slots: Tensor
    table: Tensor
    sequence: Tensor
    block: Tensor


def put(layout: StepLayout, plan: Plan, device: torch.device) -> StepArrays:
    """Copy them."""
    arrays = _arrays(layout, plan)
    whole: Tensor = sent(np.concatenate([array.ravel() for array in arrays]), device)
    parts = torch.split(whole, [array.size for array in arrays])
    positions, cu_rows, context_lens, slots, table, sequence, block = parts
    return StepArrays(
        whole=whole,
        positions=positions,
        cu_rows=cu_rows,
        context_lens=context_lens,
        slots=slots,
        table=table.view(layout.block_table.shape),
        sequence=sequence,
        block=block,
    )


def put_again(held: StepArrays, layout: StepLayout, plan: Plan) -> None:
    """Copy those of another step of the same shape to the same place."""
    numbers = np.concatenate([array.ravel() for array in _arrays(layout, plan)])
    held.whole.copy_(sent(numbers, held.whole.device))


def _arrays(layout: StepLayout, plan: Plan) -> tuple[Ints, ...]:
    return (
        layout.positions, layout.cu_rows, layout.context_lens, layout.slots, layout.block_table, plan.sequence,
        plan.block,
    )  # fmt: skip
