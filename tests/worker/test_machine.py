"""Cores and memory that a container leaves us, read from folders that look like the system's."""

import os
import subprocess
import sys

import pytest

from argosy_worker.machine import memory, usable_cores

GIB = 1 << 30
CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def system(tmp_path):
    """Writes files: path -> text."""

    def write(files):
        files = {"proc/meminfo": f"MemTotal: {32 * GIB // 1024} kB\nMemAvailable: {20 * GIB // 1024} kB\n", **files}
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return write


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, CORES),
        ({f"{V2}/cpu.max": "max 100000\n"}, CORES),
        ({f"{V2}/cpu.max": "50000 100000\n"}, 1),
        ({f"{V2}/cpu.max": f"{CORES * 400000} 100000\n"}, CORES),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/cpu.max": "max 100000", f"{V2}/a/cpu.max": "100000 100000"}, 1),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/x\n", f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, CORES),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/x\n", f"{V1}/x/cpu.cfs_quota_us": "90000", f"{V1}/x/cpu.cfs_period_us": "100000"}, 1),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/of/the/host\n", f"{V1}/cpu.cfs_quota_us": "90000", f"{V1}/cpu.cfs_period_us": "100000"}, 1),
        ({f"{V2}/cpu.max": "nonsense"}, CORES),
    ],
)  # fmt: skip
def test_a_cpu_quota_counts(system, files, cores):
    assert usable_cores(system(files)) == cores


@pytest.mark.parametrize(
    ("files", "total", "available", "limited"),
    [
        ({}, 32, 20, False),
        ({f"{V2}/memory.max": "max", f"{V2}/memory.current": "1"}, 32, 20, False),
        ({f"{V2}/memory.max": f"{4 * GIB}", f"{V2}/memory.current": f"{GIB}"}, 4, 3, True),
        ({f"{V2}/memory.max": f"{4 * GIB}", f"{V2}/memory.current": f"{3 * GIB}", f"{V2}/memory.stat": f"anon 5\ninactive_file {GIB}\n"}, 4, 2, True),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/memory.max": "max", f"{V2}/a/b/memory.current": "9", f"{V2}/a/memory.max": f"{2 * GIB}", f"{V2}/a/memory.current": f"{GIB}"}, 2, 1, True),
        ({"proc/self/cgroup": "5:memory:/x\n", f"{V2}/memory/x/memory.limit_in_bytes": f"{6 * GIB}", f"{V2}/memory/x/memory.usage_in_bytes": f"{GIB}"}, 6, 5, True),
        ({"proc/self/cgroup": "5:memory:/x\n", f"{V2}/memory/x/memory.limit_in_bytes": "9223372036854771712", f"{V2}/memory/x/memory.usage_in_bytes": f"{GIB}"}, 32, 20, False),
    ],
)  # fmt: skip
def test_a_memory_limit_counts(system, files, total, available, limited):
    found = memory(system(files))
    assert (found.total / GIB, found.available / GIB, found.limited) == (total, available, limited)


def test_this_machine():
    assert 1 <= usable_cores() <= CORES
    assert 0 < memory().available <= memory().total


def test_what_the_c_library_keeps_can_be_given_back():
    """In a process of its own: small pieces are freed, but the library keeps them until it is asked."""
    code = """
import ctypes, os
from argosy_worker.machine import give_back

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
pieces = [libc.malloc(100_000) for _ in range(1000)]
for piece in pieces:
    ctypes.memset(piece, 1, 100_000)
for piece in pieces[:-1]:
    libc.free(piece)
held = resident()
give_back()
assert held - resident() > 50_000_000, (held, resident())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
