"""Which way the rows of a step take between the ranks of a group. Pure but for `offer`, which looks at the machine.

NCCL reads and writes the memory of GPUs; Gloo knows the host's alone, so that rows on a GPU are copied there and back.
Headers and layouts take Gloo in any case: they are made and read by the CPU.
"""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from argosy_api.errors import ModelUnsupportedError


class Backend(StrEnum):
    """What moves the rows."""

    GLOO = "gloo"
    NCCL = "nccl"


class Offer(BaseModel):
    """What a rank computes on, and what its torch can."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", defer_build=True)

    device: str = "cpu"
    """`cpu` or `cuda`."""
    gpu: str = ""
    """Which of all GPUs it is; empty on a CPU."""
    nccl: bool = False
    """Whether its torch was built with NCCL."""


def choose(offers: Sequence[Offer]) -> Backend:
    """NCCL where every rank has it and a GPU of its own: two ranks of one GPU are an error to NCCL. Gloo elsewhere.

    `offers`: of all ranks, in order.

    Raises:
        ModelUnsupportedError: some compute on CPUs and some on GPUs, in other numbers.

    """
    first = offers[0].device
    for rank, offer in enumerate(offers):
        if offer.device != first:
            raise ModelUnsupportedError(
                f"rank {rank} of the group computes on {offer.device}, rank 0 on {first}; set engine.device to what "
                "all pods have"
            )
    apart = len({offer.gpu for offer in offers}) == len(offers)
    return Backend.NCCL if first == "cuda" and apart and all(offer.nccl for offer in offers) else Backend.GLOO


def offer(device: str) -> Offer:
    """What this process can, on its `device`, `cpu` or `cuda`."""
    if device != "cuda":
        return Offer(device=device)
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415

    gpu = str(torch.cuda.get_device_properties().uuid)
    return Offer(device=device, gpu=gpu, nccl=dist.is_nccl_available())
