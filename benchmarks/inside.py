"""A router as it is seen from inside: where its memory lies, and what there is more of than before.

    python benchmarks/inside.py OUT.jsonl SECONDS PLACES ARGUMENTS OF THE ROUTER

Runs the router, and beside it a thread that writes one line of JSON every so many seconds: bytes that the kernel, the
C library and Python's own allocator hold and use, and how many objects there are of each type (of those that may be
part of a cycle). With PLACES 1, also how many bytes each place in the code has allocated
that live yet (`tracemalloc`, which makes the router slower, and takes memory itself; of Python's allocator nothing is
told then). `growth` tells what two such lines differ in.
"""

import ctypes
import gc
import json
import os
import re
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
MOST = 400
"""Types and places in a line."""


class Mallinfo(ctypes.Structure):
    """glibc's `struct mallinfo2`: bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def c_library() -> dict[str, int]:
    """Bytes that malloc holds: in use, free within its arenas, and each apart from them; empty without glibc."""
    try:
        told = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return {}
    told.restype = Mallinfo
    found = told()
    return {"malloc used": found.uordblks, "malloc free": found.fordblks, "malloc mapped": found.hblkhd}


def python_allocator() -> dict[str, int]:
    """Bytes that Python's allocator of small objects holds and uses: told only to standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            sys._debugmallocstats()  # noqa: SLF001 - there is no other way
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        text = file.read().decode()
    found = {}
    for name, line in (("python used", "bytes in allocated blocks"), ("python held", r"arenas \* \d+ bytes/arena")):
        if number := re.search(rf"{line}\s+= +([\d,]+)", text):
            found[name] = int(number[1].replace(",", ""))
    return found


def kernel() -> dict[str, int]:
    """Bytes of this process that are resident: all, and without files."""
    status = Path("/proc/self/status").read_text()
    names = (("resident", "VmRSS"), ("anonymous", "RssAnon"))
    return {name: 1024 * int(re.search(rf"{key}:\s+(\d+)", status)[1]) for name, key in names}  # type: ignore[index]


def types() -> Counter[str]:
    """How many objects there are of each type. One moment of the interpreter lock for all of them."""
    return Counter(f"{t.__module__}.{t.__qualname__}" for t in map(type, gc.get_objects()))


def places() -> Counter[str]:
    """Bytes that live, by the line that allocated them."""
    found: Counter[str] = Counter()
    for stat in tracemalloc.take_snapshot().statistics("lineno"):
        frame = stat.traceback[0]
        found[f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"] += stat.size
    return found


def look(began: float) -> dict[str, Any]:
    """All of it, now."""
    told: dict[str, Any] = {"at": time.monotonic() - began, "bytes": {**kernel(), **c_library(), **python_allocator()}}
    told["collections"] = [generation["collections"] for generation in gc.get_stats()]
    told["types"] = dict(types().most_common(MOST))
    if tracemalloc.is_tracing():
        told["bytes"]["traced"], told["bytes"]["tracer"] = (
            tracemalloc.get_traced_memory()[0],
            tracemalloc.get_tracemalloc_memory(),
        )
        told["places"] = dict(places().most_common(MOST))
    return told


def growth(first: Mapping[str, int], last: Mapping[str, int], most: int = 20) -> list[tuple[str, int, int]]:
    """What there is more of, most first: name, how much more, how much."""
    more = ((name, count - first.get(name, 0), count) for name, count in last.items())
    return sorted((one for one in more if one[1] > 0), key=lambda one: -one[1])[:most]


def told(first: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """Two looks beside one another, for people."""
    minutes = (last["at"] - first["at"]) / 60
    lines = [f"inside, from {first['at'] / 60:.1f} to {last['at'] / 60:.1f} minutes:"]
    for name, count in last["bytes"].items():
        more = (count - first["bytes"].get(name, 0)) / 1e6
        lines.append(f"  {name:14} {count / 1e6:8.2f} MB {more:+8.2f}, {more / minutes:+.3f} a minute")
    for what in ("types", "places"):
        lines += [f"  {m:+9} to {n:9}  {name}" for name, m, n in growth(first.get(what, {}), last.get(what, {}))]
    return lines


def main(arguments: Sequence[str]) -> int:
    out, every, traced, *rest = arguments
    if traced == "1":
        tracemalloc.start()
    from argosy_router import __main__ as router

    def watch() -> None:
        began = time.monotonic()
        with Path(out).open("w") as file:
            while True:
                time.sleep(float(every))
                file.write(json.dumps(look(began)) + "\n")
                file.flush()

    threading.Thread(target=watch, daemon=True).start()
    sys.argv = ["argosy-router", *rest]
    return router.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
