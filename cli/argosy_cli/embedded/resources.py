"""Resource files: every document read, checked as the API server would, and refused by file, document and field."""

import sys
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from argosy_api import resource as api
from argosy_api.errors import InvalidArgumentError
from argosy_api.resource import InferenceDeployment
from argosy_cli.errors import ResourceError

MAX_FILE_BYTES = 1024 * 1024
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A resource and where it was written."""

    resource: InferenceDeployment
    origin: str
    """As `file.yaml`, or `file.yaml, document 2`."""


def load(paths: Sequence[Path]) -> list[Loaded]:
    """All resources of all files, in order.

    Raises:
        ResourceError: with the file, the document, the path of the field and what would be right.

    """
    loaded = [item for path in paths for item in _load_file(path)]
    if not loaded:
        raise ResourceError(f"no {api.KIND} in {', '.join(map(str, paths))}")
    _refuse_twins(loaded)
    return loaded


def _load_file(path: Path) -> Iterator[Loaded]:
    documents = _documents(path, _read(path))
    for number, document in documents:
        origin = f"{path}, document {number}" if len(documents) > 1 else str(path)
        try:
            yield Loaded(api.parse(document), origin)
        except InvalidArgumentError as error:
            raise ResourceError(f"{origin}: {error.message}") from None


def _read(path: Path) -> str:
    try:
        raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if str(path) == STDIN else _read_file(path)
        if len(raw) > MAX_FILE_BYTES:
            raise ResourceError(f"{path}: is larger than {MAX_FILE_BYTES} bytes; is it a resource?")
        return raw.decode()
    except UnicodeDecodeError:
        raise ResourceError(f"{path}: is not UTF-8 text; is it a resource?") from None
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read: {error.strerror}") from None


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def _documents(path: Path, text: str) -> list[tuple[int, Any]]:
    """The documents that are not empty, with their numbers as a reader would count them."""
    try:
        documents = list(yaml.load_all(text, Loader=_StrictLoader))  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ResourceError(f"{path}{where}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ResourceError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    return [(n, d) for n, d in enumerate(documents, start=1) if d is not None]


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, where YAML libraries silently take the last one."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, Hashable) and key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        if isinstance(key, Hashable):
            seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _refuse_twins(loaded: Sequence[Loaded]) -> None:
    names: dict[tuple[str, str], str] = {}
    served: dict[str, str] = {}
    for item in loaded:
        meta, model = item.resource.metadata, item.resource.served_name
        other = names.setdefault((meta.namespace, meta.name), item.origin)
        if other is not item.origin:
            raise ResourceError(
                f"{item.origin}: metadata.name: {meta.name!r} is also the name of the resource in {other}"
            )
        other = served.setdefault(model, item.origin)
        if other is not item.origin:
            raise ResourceError(
                f"{item.origin}: spec.model.servedName: {model!r} is also served by the resource in {other}; "
                "requests could not tell them apart"
            )
