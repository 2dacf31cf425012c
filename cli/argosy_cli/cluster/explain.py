"""Why a resource is not ready, in sentences, and what to do. Pure: from the object as the API server has it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from argosy_api.advice import advice

_BAD_WHEN_TRUE = {"NameTaken", "Degraded"}
_ASKING = "kubectl get pods -A -l app.kubernetes.io/component=operator"


def explain(body: Mapping[str, Any], now: datetime) -> list[str]:
    """Lines: first where it stands, then each cause with what to do about it."""
    metadata, status = body["metadata"], body.get("status") or {}
    name = f"{metadata.get('namespace', 'default')}/{metadata['name']}"
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    ready = conditions.get("Ready")
    if ready is None:
        return [f"{name}: the operator has said nothing about it yet.", f"  What to do: see whether it runs: {_ASKING}"]
    well = ready["status"] == "True"
    serve = f"{status.get('ready', '?')} workers serve ({ready['reason']})"
    lines = [f"{name}: {'ready' if well else 'not ready'}, {serve}, {_since(ready, now)}."]
    generation, seen = metadata.get("generation", 0), status.get("observedGeneration", 0)
    if seen < generation:
        lines.append(f"  The operator has not taken up the last change (generation {generation}, it is at {seen}).")
        lines.append(f"  What to do: wait some seconds; if it lasts, see whether it runs: {_ASKING}")
    told: set[str] = set()
    for condition in _worst_first(conditions):
        message = condition.get("message", "")
        if not _is_bad(condition, well=well) or message in told:
            continue
        told.add(message)
        lines.append(f"  {condition['type']} is {condition['status']} ({condition['reason']}): {message}")
        if todo := advice(condition["reason"]):
            lines.append(f"  What to do: {todo}")
    return lines


def _worst_first(conditions: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(conditions.values(), key=lambda c: (c["type"] != "Ready", c["status"] == "Unknown"))


def _is_bad(condition: Mapping[str, Any], *, well: bool) -> bool:
    """An unknown state is worth telling only where something is wrong."""
    if condition["status"] == "Unknown":
        return not well
    bad = "True" if condition["type"] in _BAD_WHEN_TRUE else "False"
    return str(condition["status"]) == bad


def _since(condition: Mapping[str, Any], now: datetime) -> str:
    try:
        seconds = (now - datetime.fromisoformat(condition["lastTransitionTime"])).total_seconds()
    except (KeyError, ValueError, TypeError):
        return "for an unknown time"
    return f"for {age(seconds)}"


def age(seconds: float) -> str:
    """As kubectl has it: 42s, 7m, 3h, 12d."""
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= unit:
            return f"{int(seconds // unit)}{name}"
    return f"{max(0, int(seconds))}s"


COLUMNS = ("NAMESPACE", "NAME", "READY", "REASON", "AGE")
WIDE = ("MODEL", "COMPUTE", "LONGEST", "REVISION", "ENDPOINT")


def row(body: Mapping[str, Any], now: datetime, *, wide: bool) -> list[str]:
    """One line of the table."""
    metadata, status = body["metadata"], body.get("status") or {}
    try:
        lived = age((now - datetime.fromisoformat(metadata["creationTimestamp"])).total_seconds())
    except (KeyError, ValueError, TypeError):
        lived = "?"
    cells = [metadata.get("namespace", ""), metadata["name"], status.get("ready", ""), status.get("reason", ""), lived]
    if wide:
        model = status.get("model") or {}
        cells += [str((body.get("spec") or {}).get("model", {}).get("uri", "")), model.get("compute", "")]
        cells += [str(model.get("maxModelLen", "")), status.get("revision", ""), status.get("endpoint", "")]
    return cells


def table(rows: list[list[str]], *, wide: bool) -> list[str]:
    """Aligned columns, as kubectl prints them."""
    lines = [list(COLUMNS + (WIDE if wide else ())), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
