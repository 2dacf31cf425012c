"""Pages of metrics in Prometheus' text format, made into one. Pure."""

from collections.abc import Iterable


def merged(pages: Iterable[tuple[str, str]]) -> str:
    """One page of several, each with the id of the worker it is from; empty for our own.

    The format wants all samples of a name together. Samples that do not say whose they are, as those of a process, get
    the worker's id.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, text in pages:
        found: set[str] = set()
        into: list[str] = []
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                name = line.split(" ", 3)[2]
                if name not in heads or name in found:
                    found.add(name)
                    heads.setdefault(name, []).append(line)
                into = samples.setdefault(name, [])
            elif line and not line.startswith("#"):
                into.append(_of(worker, line))
    return "".join(line + "\n" for name in heads for line in (*heads[name], *samples[name]))


def _of(worker: str, line: str) -> str:
    if not worker or 'worker="' in line:
        return line
    label = 'worker="{}"'.format(worker.replace("\\", r"\\").replace('"', r"\""))
    name, brace, rest = line.partition("{")
    if brace:
        return f"{name}{{{label},{rest}"
    name, _, value = line.partition(" ")
    return f"{name}{{{label}}} {value}"
