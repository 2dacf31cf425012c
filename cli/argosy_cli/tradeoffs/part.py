"""What an unfinished run has found, kept in a file after each setup, so that the next run goes on from there."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from argosy_api.errors import InvalidArgumentError
from argosy_cli.tradeoffs.report import Row, row_of

NAME = "tradeoffs.part.json"


@dataclass(slots=True)
class Part:
    """The run so far."""

    about: dict[str, Any]
    """What was asked for, and of which machine: only the same run is gone on with."""
    texts: list[list[int]] = field(default_factory=list)
    scores: list[tuple[float, int]] = field(default_factory=list)
    """The reference's, of `texts`."""
    instructions: str = ""
    """The worker's word for the instructions that it computes with."""
    rows: list[Row] = field(default_factory=list)

    def row(self, name: str) -> Row | None:
        """The row of a setup, where it was measured."""
        return next((row for row in self.rows if row.name == name), None)

    def save(self, folder: Path) -> None:
        """Replace the file in `folder`, which is made where it is missing. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{NAME}"
        draft.write_text(json.dumps(asdict(self)), encoding="utf-8")
        draft.replace(folder / NAME)


def load(folder: Path, about: dict[str, Any]) -> Part:
    """The part in `folder`, or an empty one.

    Raises:
        InvalidArgumentError: naming `--out`: it is no such file, or of another run.

    """
    path = folder / NAME
    if not path.exists():
        return Part(about)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = [row_of(row) for row in document["rows"]]
        found = Part(
            document["about"], document["texts"], list(map(tuple, document["scores"])), document["instructions"], rows
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgumentError("--out", f"{path} is no unfinished run; remove it") from error
    if found.about != about:
        raise InvalidArgumentError(
            "--out", f"{path} is the unfinished run of {found.about}; remove it, or name another"
        )
    return found
