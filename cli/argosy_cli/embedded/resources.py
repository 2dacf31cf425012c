"""Resource files: every document read, checked as the API server would, and refused by file, line and field."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from argosy_api import resource as api
from argosy_api.resource import InferenceDeployment
from argosy_cli.embedded.documents import Document, documents
from argosy_cli.errors import ResourceError

MAX_FILE_BYTES = 1024 * 1024
STDIN = "-"
_MODELS = (".gguf", ".safetensors")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A resource and where it was written."""

    resource: InferenceDeployment
    origin: str
    """As `file.yaml`, or `file.yaml, document 2`."""
    document: Document | None = None
    """What was read, which knows the lines."""

    def at(self, path: str) -> str:
        """Origin and line of a field."""
        return self.origin if self.document is None else f"{self.origin}, line {self.document.line(path)}"


def _to_stderr(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def load(paths: Sequence[Path], note: Callable[[str], None] = _to_stderr) -> list[Loaded]:
    """All resources of all files, in order; of a folder all its YAML files. Objects of other kinds are passed over.

    Raises:
        ResourceError: all that is wrong, each with the file, the line, the path of the field and what would be right.

    """
    loaded: list[Loaded] = []
    wrong: list[str] = []
    files = [file for path in paths for file in _files(path)]
    for file in files:
        for found in _load_file(file, note):
            if isinstance(found, Loaded):
                loaded.append(found)
            else:
                wrong += found
    wrong += _twins(loaded)
    if wrong:
        raise ResourceError("\n".join(wrong) if len(wrong) == 1 else "\n  ".join((f"{len(wrong)} faults:", *wrong)))
    if not loaded:
        raise ResourceError(f"no {api.KIND} in {', '.join(map(str, paths))}")
    return loaded


def text(loaded: Sequence[Loaded]) -> str:
    """One file of them all."""
    written = (item.document.content for item in loaded if item.document is not None)
    return yaml.safe_dump_all(written, sort_keys=False, allow_unicode=True)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in {".yaml", ".yml"})
    if not found:
        hint = f"; `argosy serve {path}` serves a folder with a model" if (path / "config.json").exists() else ""
        raise ResourceError(f"{path}: cannot be read: the folder has no YAML files{hint}")
    return found


def _load_file(path: Path, note: Callable[[str], None]) -> Iterator[Loaded | list[str]]:
    """Each resource, or what is wrong with it."""
    read = _documents(path, _read(path))
    for document in read:
        origin = f"{path}, document {document.number}" if len(read) > 1 else str(path)
        if foreign := _foreign(document.content):
            note(f"{origin}: {foreign} is passed over: only {api.KIND}s are read")
            continue
        found = api.examine(document.content)
        if isinstance(found, InferenceDeployment):
            yield Loaded(found, origin, document)
        else:
            yield [f"{origin}, line {document.line(problem.field)}: {problem.message}" for problem in found]


def _foreign(content: Any) -> str:
    """The kind of an object that is whole and nothing of ours; empty for everything else."""
    if not isinstance(content, dict):
        return ""
    kind, version = content.get("kind"), content.get("apiVersion")
    if not (isinstance(kind, str) and isinstance(version, str)) or kind == api.KIND:
        return ""
    return "" if version.partition("/")[0] == api.GROUP else kind


def _read(path: Path) -> str:
    try:
        raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if str(path) == STDIN else _read_file(path)
        if path.suffix in _MODELS:
            raise ResourceError(f"{path}: is a model, no resource; `argosy serve {path}` serves it")
        if len(raw) > MAX_FILE_BYTES:
            raise ResourceError(f"{path}: is larger than {MAX_FILE_BYTES} bytes; is it a resource?")
        return raw.decode()
    except UnicodeDecodeError:
        raise ResourceError(f"{path}: is not UTF-8 text; is it a resource?") from None
    except FileNotFoundError as error:
        hint = "" if path.suffix else f"; models are served by name with `argosy serve {path}`"
        raise ResourceError(f"{path}: cannot be read: {error.strerror}{hint}") from None
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read: {error.strerror}") from None


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def _documents(path: Path, text: str) -> list[Document]:
    try:
        return list(documents(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ResourceError(f"{path}{where}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ResourceError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None


def _twins(loaded: Sequence[Loaded]) -> Iterator[str]:
    """What two resources may not have in common."""
    names: dict[tuple[str, str], Loaded] = {}
    served: dict[str, Loaded] = {}
    for item in loaded:
        meta, model = item.resource.metadata, item.resource.served_name
        other = names.setdefault((meta.namespace, meta.name), item)
        if other is not item:
            at = item.at("metadata.name")
            yield f"{at}: metadata.name: {meta.name!r} is also the name of the resource in {other.origin}"
            continue
        other = served.setdefault(model, item)
        if other is not item:
            yield (
                f"{item.at('spec.model.servedName')}: spec.model.servedName: {model!r} is also served by the resource "
                f"in {other.origin}; requests could not tell them apart"
            )
