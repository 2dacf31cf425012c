"""What this process may use of the machine: cores and memory, as its control groups (containers) allow. No torch."""

import ctypes
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
_FALLBACK = 1 << 30
_NO_LIMIT = 1 << 60
"""From here on a number of bytes means "no limit" (version 1 writes 2**63 less a page)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes."""

    total: int
    """The smallest limit, or what the machine has."""
    available: int
    """What can still be taken without swapping or being ended."""
    limited: bool
    """Whether a control group limits us; without one the memory is shared with everything else on the machine."""


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that we may run on, less what a CPU quota takes away; at least 1.

    More threads than the quota make every step wait until the next period.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups(root, "cpu"):
        quota = _quota(folder)
        if quota is not None:
            found = min(found, math.ceil(quota))
    return max(1, found)


def give_back() -> None:
    """Return what the C library keeps of freed memory to the system, where it is glibc: loading frees a lot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def memory(root: Path = _ROOT) -> Memory:
    """Memory of this process."""
    lines = _lines(root / "proc/meminfo")
    system = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest}
    total, available = system.get("MemTotal", _FALLBACK), system.get("MemAvailable", _FALLBACK)
    limited = False
    for folder in _groups(root, "memory"):
        limit = _first_number(folder, "memory.max", "memory.limit_in_bytes")
        used = _first_number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is None or used is None or limit >= _NO_LIMIT:
            continue
        # the cache of files counts as used, and is given back when memory is short
        cache = next((int(line.split()[1]) for line in _lines(folder / "memory.stat") if _is_cache(line)), 0)
        limited = limited or limit < total
        total, available = min(total, limit), min(available, max(0, limit - used + cache))
    return Memory(total, available, limited)


def _is_cache(line: str) -> bool:
    return line.startswith(("inactive_file ", "total_inactive_file "))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of our control groups, from our own up to the root; versions 1 and 2."""
    mount = root / "sys/fs/cgroup"
    paths = {mount: "/", mount / controller: "/", mount / "cpu,cpuacct": "/"}
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = [*line.strip().split(":", 2), "", ""][:3]
        if not names:
            paths[mount] = path
        elif controller in names.split(","):
            paths[mount / controller] = paths[mount / names] = path
    for base, path in paths.items():
        # inside a container the path may be the host's, which is not there: its ancestors are tried all the same
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents) if path.strip("/") else (Path(),):
            if (base / part).is_dir():
                yield base / part


def _quota(folder: Path) -> float | None:
    """Cores that the quota of a group amounts to."""
    words = " ".join(_lines(folder / "cpu.max")).split()
    if not words:
        words = [_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _first_number(folder: Path, *names: str) -> int | None:
    for name in names:
        text = _text(folder / name)
        if text.isdigit():
            return int(text)
    return None


def _text(path: Path) -> str:
    return "".join(_lines(path)).strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
