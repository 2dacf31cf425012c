"""What this computer has: cores and GPUs."""

import ctypes
from dataclasses import dataclass

from argosy_worker.machine import usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Cores that we may use, and CUDA devices that we can see."""

    cores: int
    gpus: int


def detect() -> Machine:
    """Look at this machine. Needs no torch: the supervisor stays small."""
    return Machine(cores=usable_cores(), gpus=_gpus())


def threads_per_worker(cores: int, workers: int) -> int:
    """A fair share for each: more threads than cores make every step wait for the one that was descheduled."""
    return max(1, cores // max(1, workers))


def _gpus() -> int:
    """Ask the driver itself, which also heeds CUDA_VISIBLE_DEVICES."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
