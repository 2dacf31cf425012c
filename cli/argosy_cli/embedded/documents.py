"""The documents of a YAML file, and on which line of it each field is."""

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

_PART = re.compile(r"[^.\[\]]+")


@dataclass(frozen=True, slots=True)
class Document:
    """One document that is not empty."""

    number: int
    """As a reader counts them, the empty ones too; from 1."""
    content: Any
    _node: yaml.Node

    def line(self, path: str) -> int:
        """Where the field of a path such as `spec.adapters[0].uri` is, or else what would hold it; from 1."""
        node, line = self._node, self._node.start_mark.line
        for part in _PART.findall(path):
            found = _child(node, part)
            if found is None:
                break
            line, node = found
        return int(line) + 1


def documents(text: str) -> Iterator[Document]:
    """All of them.

    Raises:
        yaml.YAMLError, RecursionError, ValueError: it is no YAML, or gives a key twice.

    """
    loader, number = StrictLoader(text), 0
    try:
        while loader.check_node():
            node, number = loader.get_node(), number + 1
            content = None if node is None else loader.construct_document(node)
            if node is not None and content is not None:
                yield Document(number, content, node)
    finally:
        loader.dispose()


def _child(node: yaml.Node, part: str) -> tuple[int, yaml.Node] | None:
    """Line and node of a key or of a place in a list."""
    if isinstance(node, yaml.MappingNode):
        found = [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode) and key.value == part]
        return (found[0][0].start_mark.line, found[0][1]) if found else None
    if isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item.start_mark.line, item
    return None


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, where YAML libraries silently take the last one."""


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, Hashable) and key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        if isinstance(key, Hashable):
            seen.add(key)
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
