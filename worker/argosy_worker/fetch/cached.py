"""What of hubs is on this machine: a record for each model that was downloaded completely, and the files it names."""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from argosy_api.model_uri import ModelUri

DEFAULT_REVISION = "main"
_ADAPTER = "#adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One model that is here as a whole."""

    uri: str
    """As in `spec.model.uri`, with the revision that was asked for."""
    adapter: bool
    path: Path
    """Its file, or its folder."""
    files: tuple[Path, ...]
    """Its files, each a link to what is kept under the name of its content."""
    record: Path

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def at(self) -> float:
        """When it was last downloaded or found unchanged, in Unix time."""
        return self.record.stat().st_mtime


def record_of(source: ModelUri, cache_dir: Path, *, adapter: bool = False) -> Path:
    """Where the record of a model is, or would be."""
    name = f"{source}@{source.revision or DEFAULT_REVISION}".removeprefix("hf://") + (_ADAPTER if adapter else "")
    return cache_dir / "complete" / f"{quote(name, safe='')}.json"


def known(record: Path, cache_dir: Path) -> Path | None:
    """The file or folder of what was downloaded completely before, if all of it is still there."""
    found = _read(record, cache_dir)
    return None if found is None else found[0]


def write(record: Path, cache_dir: Path, result: Path, files: Sequence[str]) -> None:
    """Remember that a model is here as a whole."""
    record.parent.mkdir(parents=True, exist_ok=True)
    fresh = record.with_suffix(f".{uuid.uuid4().hex}")  # no process number: in containers all have the same
    fresh.write_text(json.dumps({"path": str(result.relative_to(cache_dir)), "files": list(files)}))
    fresh.replace(record)


def stored(cache_dir: Path) -> Iterator[Stored]:
    """All that is here as a whole, by name."""
    for record in sorted((cache_dir / "complete").glob("*.json")):
        found = _read(record, cache_dir)
        name = unquote(record.stem)
        if found is not None:
            path, files = found
            adapter = name.endswith(_ADAPTER)
            uri = "hf://" + name.removesuffix(_ADAPTER)
            yield Stored(uri=uri, adapter=adapter, path=path, files=files, record=record)


def remove(gone: Stored, cache_dir: Path) -> int:
    """Forget a model, and delete those of its files that no other one has. Returns how many bytes are free by that."""
    kept = {file for other in stored(cache_dir) if other.record != gone.record for file in other.files}
    gone.record.unlink(missing_ok=True)
    free = 0
    for file in gone.files:
        if file in kept:
            continue
        blob = file.resolve()
        file.unlink(missing_ok=True)
        links = (path for path in gone_home(blob).glob("snapshots/*/**/*") if path.is_symlink())
        if blob != file and blob.exists() and not any(link.resolve() == blob for link in links):
            free += blob.stat().st_size
            blob.unlink()
    return free


def gone_home(blob: Path) -> Path:
    """The repository's folder of a blob: `models--org--repo`, beside whose `blobs` the links are."""
    return blob.parent.parent


def _read(record: Path, cache_dir: Path) -> tuple[Path, tuple[Path, ...]] | None:
    try:
        document = json.loads(record.read_text())
        path = cache_dir / document["path"]
        folder = path.parent if path.is_file() else path
        names = [PurePosixPath(name).name for name in document["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    files = tuple(folder / name for name in names)
    return (path, files) if path.exists() and all(file.is_file() for file in files) else None
