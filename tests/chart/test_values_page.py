"""The table of values in the chart's README: comments become descriptions, and nothing goes without one."""

import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).resolve().parents[2] / "tools/chart_values.py"
_SPEC = importlib.util.spec_from_file_location("chart_values", _PATH)
chart_values = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(chart_values)

VALUES = """\
# Of no value: an empty line lies between.

# All | parts.
part:
  size: 3    # in <units>
  # Above,
  # in two lines.
  names: [a]
  kind: {one: x}
  inner:
    # Where.
    place: ""
"""


def schema(**part):
    text, number = {"type": "string"}, {"type": "integer"}
    names = {"type": "array", "items": text}
    kind = {"$ref": "#/definitions/kind"}
    inner = {"type": "object", "properties": {"place": {"enum": ["", "here"]}}}
    properties = {"size": number, "names": names, "kind": kind, "inner": inner, **part}
    definitions = {"kind": {"type": "object", "description": "Of the schema."}}
    return {"properties": {"part": {"type": "object", "properties": properties}}, "definitions": definitions}


def test_comments_and_the_schema_describe_values():
    page = chart_values.page(VALUES, schema())
    assert page.partition("## part")[2].splitlines()[2:] == [
        "All | parts.",
        "",
        "| value | type | default | meaning |",
        "|---|---|---|---|",
        "| `part.size` | integer | `3` | In &lt;units> |",
        '| `part.names` | list of strings | `["a"]` | Above, in two lines. |',
        '| `part.kind` | map | `{"one": "x"}` | Of the schema. |',
        '| `part.inner.place` | `""` or `"here"` | `""` | Where. |',
    ]


@pytest.mark.parametrize(
    ("values", "part", "named"),
    [
        (VALUES.replace("    # in <units>", ""), {}, "part.size has a description neither"),
        (VALUES.replace("# All | parts.\n", ""), {}, "part has a description neither"),
        (VALUES.replace("    # Where.\n", ""), {}, "part.inner.place has a description neither"),
        (VALUES + "  more: 1    # x\n", {}, "part.more is not in values.schema.json"),
    ],
)
def test_a_value_without_a_description_is_named(values, part, named):
    with pytest.raises(chart_values.UndocumentedError, match=named):
        chart_values.page(values, schema(**part))
