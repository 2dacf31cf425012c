"""What a run of embedded mode is asked to do while it goes on: files in a folder of its user alone."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = "orders"
"""In the run's own folder, where only its user can write."""
MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One thing to do; what is empty is nothing to do."""

    key: str
    apply: Sequence[dict[str, Any]] = ()
    """Resources as they are written."""
    remove: Sequence[str] = ()
    """Names of resources."""
    kill: str = ""
    """A replica whose process is to die, as a fault would have it; it is started anew."""

    @classmethod
    def parse(cls, text: str) -> "Order":
        """Read what `place` wrote. Raises ValueError."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"no order: {error}") from error


def new_key() -> str:
    """One that no other order has; they sort as they were made."""
    return f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"


def place(where: Path, order: Order) -> None:
    """Leave an order in a folder of orders. Raises OSError."""
    where.mkdir(mode=0o700, exist_ok=True)
    fresh = where / f"{order.key}.new"
    fresh.write_text(json.dumps(asdict(order)))
    fresh.replace(where / f"{order.key}.json")


def take(where: Path) -> list[Order]:
    """The orders that are there, the oldest first; they are there no more. What is no order is dropped."""
    found = []
    for path in sorted(where.glob("*.json")):
        try:
            with path.open("rb") as file:
                found.append(Order.parse(file.read(MAX_BYTES).decode()))
        except (OSError, ValueError):
            pass
        path.unlink(missing_ok=True)
    return found
