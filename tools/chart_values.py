"""The table of the chart's values in its README, from the comments in values.yaml and from values.schema.json.

A comment directly above a key, or behind it, is its description; a key without one takes that of the schema. A mapping
in block style is a group of values, one in flow style is a value. Called by tools/generate.py.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

HEAD = """\
# The chart of Argosy

Installs the CustomResourceDefinition, the operator, the router and a Valkey. [docs/install.md](../../docs/install.md)
tells how, and what each group of values is for; [docs/operations.md](../../docs/operations.md) tells what to look at
afterwards. `ci/` has a file of values for each setting, and the tests render all of them.

Generated from `values.yaml` and `values.schema.json` by `make generate`. A value that is not in these tables is refused
by name, never ignored.
"""


class UndocumentedError(Exception):
    """A value without a description or without a schema."""


@dataclass(frozen=True)
class Row:
    """One value, or one group of values (no default)."""

    path: str
    kind: str
    default: str
    text: str


@dataclass(frozen=True)
class _Reader:
    lines: list[str]
    schema: dict[str, Any]

    def rows(self, key: yaml.Node, node: yaml.Node, part: dict[str, Any] | None, at: str) -> Iterator[Row]:
        path = f"{at}.{key.value}".lstrip(".")
        if part is None:
            raise UndocumentedError(f"{path} is not in values.schema.json")
        described = self._resolved(part)
        text = self._comment(key, node) or described.get("description", "")
        if not text and (not at or not _is_group(node)):
            raise UndocumentedError(f"{path} has a description neither in values.yaml nor in values.schema.json")
        if not _is_group(node):
            default = json.dumps(yaml.safe_load(yaml.serialize(node)), ensure_ascii=False)
            yield Row(path, self._kind(described), f"`{default}`", text)
            return
        if text:
            yield Row(path, "", "", text)
        for child, below in node.value:
            yield from self.rows(child, below, described.get("properties", {}).get(child.value), path)

    def _resolved(self, part: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in part:
            return part
        return self.schema["definitions"][part["$ref"].rsplit("/", 1)[-1]]

    def _kind(self, part: dict[str, Any]) -> str:
        if "enum" in part:
            return " or ".join(f"`{json.dumps(word)}`" for word in part["enum"])
        kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
        if kinds == ["array"]:
            items = self._resolved(part.get("items", {})).get("type", "any")
            return "list of " + " or ".join(f"{item}s" for item in ([items] if isinstance(items, str) else items))
        return " or ".join("map" if kind == "object" else kind for kind in kinds)

    def _comment(self, key: yaml.Node, node: yaml.Node) -> str:
        """What stands directly above a key, in its column, or behind its value."""
        line, column = key.start_mark.line, key.start_mark.column
        found: list[str] = []
        for above in reversed(self.lines[:line]):
            if not above.startswith(" " * column + "#"):
                break
            found.insert(0, above.strip()[1:].strip())
        behind = "" if _is_group(node) else self.lines[node.end_mark.line][node.end_mark.column :].strip()
        if behind.startswith("#"):
            found.append(behind[1:].strip())
        text = " ".join(found)
        return text[:1].upper() + text[1:] if text.split(" ")[0].isalpha() else text


def page(values: str, schema: dict[str, Any]) -> str:
    """The Markdown page.

    Raises:
        UndocumentedError: naming the value.

    """
    reader = _Reader(values.splitlines(), schema)
    general: list[Row] = []
    groups: list[tuple[Row, list[Row]]] = []
    for key, node in yaml.compose(values, Loader=yaml.SafeLoader).value:
        rows = list(reader.rows(key, node, schema["properties"].get(key.value), ""))
        if _is_group(node):
            groups.append((rows[0], rows[1:]))
        else:
            general += rows
    out = [HEAD, "## General", "", *_table(general)]
    for head, rows in groups:
        out += ["", f"## {head.path}", "", head.text, "", *_table(rows)]
    return "\n".join(out) + "\n"


def _is_group(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode) and not node.flow_style and bool(node.value)


def _table(rows: list[Row]) -> list[str]:
    cells = (" | ".join((f"`{r.path}`", r.kind, r.default, _plain(r.text))) for r in rows)
    return ["| value | type | default | meaning |", "|---|---|---|---|", *(f"| {row} |" for row in cells)]


def _plain(text: str) -> str:
    """As Markdown shows it: a table's cell holds no bar, and <name> is no tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")
