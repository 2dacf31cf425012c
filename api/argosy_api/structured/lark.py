"""Pieces of grammars in the language of `compile`."""

import json
from collections.abc import Mapping

_JSON = {
    # models without an end in sight write blanks for ever
    "whitespace_pattern": r" |\n[ \t]{0,40}",
    # without \\uXXXX: a declared key in that spelling would count as one that is not declared
    "json_allowed_escapes": '"\\bfnrt',
}


def json_rule(schema: Mapping[str, object] | bool) -> str:
    """A schema as a part of a rule."""
    whole = schema if isinstance(schema, Mapping) else {} if schema else {"enum": []}
    return f"%json {json.dumps({**whole, 'x-guidance': _JSON})}"
