"""What benchmarks/gpu.py writes, after each part, so that a run that is cut off keeps its figures: JSON, and tables."""

import json
import os
from pathlib import Path
from typing import Any

from argosy_worker.compute.triton import cost

HBM, BF16 = 3.0e12, 8.0e14
"""Bytes and operations in a second that the arithmetic table assumes: what an H100 is known to reach, not its data
sheet. A run measures its own."""


class Report:
    """Parts in the order in which they were measured."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.folder = Path(os.environ.get("OUT") or "build/gpu")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.facts, self.parts = facts, {}

    def add(self, part: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to a part, and write all that there is."""
        self.parts.setdefault(part, []).extend(rows)
        (self.folder / "gpu.json").write_text(json.dumps({"facts": self.facts, "parts": self.parts}, indent=1))
        (self.folder / "gpu.md").write_text(self.markdown())
        print("\n".join(table(rows)), flush=True)

    def markdown(self) -> str:
        lines = [*(f"{name}: {value}  " for name, value in self.facts.items()), ""]
        for name, rows in self.parts.items():
            lines += [f"## {name}", "", *table(rows), ""]
        return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as Markdown; columns are those of all rows."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return head + ["| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |" for row in rows]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def floors(bandwidth: float = HBM, speed: float = BF16) -> list[dict[str, Any]]:
    """The least time of decode steps, from what each launch reads, writes and computes: arithmetic, no measurement."""
    rows = []
    for name, model in {**cost.MODELS, **cost.SPARSE}.items():
        for batch, context in ((1, 512), (8, 1024), (32, 1024), (128, 1024), (256, 512), (1, 8192), (32, 8192)):
            row: dict[str, Any] = {"model": name, "sequences": batch, "context": context}
            forms = {
                "bf16": (16, 0, 2),
                "int8": (8, 0, 2),
                "int4, groups of 128": (4, 128, 2),
                "int8, kv int8": (8, 0, 1),
            }
            for form, (bits, group, kv) in forms.items():
                found = cost.decode(model, batch, context, bits, group, kv)
                row[f"{form}: ms"] = round(found.seconds(bandwidth, speed) * 1e3, 2)
            row["bf16: GB"] = round(cost.decode(model, batch, context).read / 1e9, 2)
            row["launches"] = cost.decode(model, batch, context).launches
            rows.append(row)
    return rows
