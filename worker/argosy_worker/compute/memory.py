"""How much memory this process may still take."""

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_FALLBACK = 1 << 30


def available_bytes() -> int:
    """Bytes that can be allocated without swapping: the system's figure, or what the container's limit leaves."""
    found = [_FALLBACK]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")] or found
    except (OSError, ValueError, IndexError):
        pass  # not Linux
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = (_CGROUP / "memory.current").read_text(encoding="ascii").strip()
        if limit != "max":
            found.append(max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here
    return min(found)
