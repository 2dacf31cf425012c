"""Schemas of all kinds of keywords that answers keep to: each of some values, in each of some places."""

VALUES = {
    "null": {"type": "null"},
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "integer from to": {"type": "integer", "minimum": -5, "maximum": 1200},
    "integer above below": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 11},
    "integer up to": {"type": "integer", "maximum": -3},
    "multiple": {"type": "integer", "multipleOf": 12, "minimum": 0, "maximum": 9999},
    "half": {"type": "number", "multipleOf": 0.5, "minimum": -10, "maximum": 10},
    "number": {"type": "number"},
    "number from to": {"type": "number", "minimum": 0, "maximum": 1},
    "number above": {"type": "number", "exclusiveMinimum": 2.5, "maximum": 99},
    "string": {"type": "string", "maxLength": 24},
    "string of a length": {"type": "string", "minLength": 3, "maxLength": 5},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
    "pattern anywhere": {"type": "string", "pattern": "[0-9]{2}", "maxLength": 20},
    "pattern of choices": {"type": "string", "pattern": "^(red|green|blue)( (light|dark))?$"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "uuid": {"type": "string", "format": "uuid"},
    "a format without meaning here": {"type": "string", "format": "password", "maxLength": 9},
    "enum": {"enum": ["red", "green", 'with "quotes"', 7, -1.5, None, True]},
    "enum of objects": {"enum": [{"a": 1}, {"b": [1, 2]}, []]},
    "enum with a type": {"type": "string", "enum": ["one", 2]},
    "const": {"const": "fixed é 漢"},
    "const number": {"const": 42},
    "types": {"type": ["integer", "null", "boolean"]},
    "any of": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}]},
    "one of": {"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0}]},
    "all of": {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 30}]},
    "beside any of": {"type": "integer", "anyOf": [{"minimum": 100}, {"maximum": -100}]},
    "array": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 4},
    "array of at least": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False},
    "tuple and more": {
        "type": "array", "prefixItems": [{"const": "x"}], "items": {"type": "null"}, "minItems": 1, "maxItems": 3,
    },
    "object": {
        "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["a"],
        "additionalProperties": False,
    },
    "object of optional keys": {
        "type": "object", "properties": {k: {"type": "boolean"} for k in "abcde"}, "additionalProperties": False,
    },
    "map": {
        "type": "object", "patternProperties": {"^k[0-9]$": {"type": "integer"}}, "additionalProperties": False,
    },
    "required but not described": {"type": "object", "required": ["z"], "properties": {"y": {"type": "null"}},
                                   "additionalProperties": {"type": "boolean"}},
    "nested": {
        "type": "object", "required": ["in"], "additionalProperties": False,
        "properties": {"in": {"type": "object", "required": ["list"], "additionalProperties": False, "properties": {
            "list": {"type": "array", "maxItems": 2, "items": {"enum": ["p", "q"]}}}}},
    },
}  # fmt: skip


def _object(value, *, required):
    return {"type": "object", "properties": {"value": value}, "required": ["value"] if required else [],
            "additionalProperties": False}  # fmt: skip


PLACES = {
    "itself": lambda value: value,
    "in an array": lambda value: {"type": "array", "items": value, "minItems": 1, "maxItems": 2},
    "a key": lambda value: _object(value, required=True),
    "a key that may lack": lambda value: _object(value, required=False),
    "referred to": lambda value: {**_object({"$ref": "#/$defs/it"}, required=True), "$defs": {"it": value}},
    "or nothing": lambda value: _object({"anyOf": [value, {"type": "null"}]}, required=True),
    "with words about it": lambda value: {**value, "title": "T", "description": "D", "examples": [1], "default": None},
    "in a list that refers to itself": lambda value: {
        "$ref": "#/$defs/list",
        "$defs": {"list": {"type": "object", "properties": {"value": value, "next": {
            "anyOf": [{"type": "null"}, {"$ref": "#/$defs/list"}]}}, "required": ["value", "next"],
            "additionalProperties": False}},
    },
}  # fmt: skip
SCHEMAS = {f"{v}, {p}": place(value) for v, value in VALUES.items() for p, place in PLACES.items()}


def _deep(levels):
    schema = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    return schema


def _chain(keyword, length):
    """Each refers to the next one twice: 2^length ways down."""
    below = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**below, f"d{length}": {"type": "integer"}}}


HOSTILE = [
    *(("json_schema", _deep(n)) for n in (10, 20, 30, 50, 63, 64, 100, 400, 900)),
    *(("json_schema", {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(n)}})
      for n in (100, 300, 500, 501, 3000)),
    *(("json_schema", {"enum": [f"value {i}" for i in range(n)]}) for n in (100, 1000, 4000, 50_000)),
    *(("json_schema", {"type": "string", "minLength": n}) for n in (1000, 10**6, 10**9, 10**18)),
    *(("json_schema", {"type": "array", "minItems": n, "items": {"type": "integer"}}) for n in (10**3, 10**6, 10**12)),
    *(("json_schema", {"multipleOf": n}) for n in (9999, 10_001, 4096, 1e-7)),
    *(("json_schema", {"allOf": [{"type": "integer", "multipleOf": n} for n in many]})
      for many in ((97, 89), (101, 103), (16, 9, 25), (3, 7, 11, 13), range(2, 11))),
    *(("json_schema", {"anyOf": [_deep(n % 20)] * n}) for n in (10, 50, 200)),
    *(("json_schema", _chain(word, n)) for word in ("allOf", "anyOf", "oneOf") for n in (10, 40, 60)),
    ("json_schema", {"$ref": "#"}),
    ("json_schema", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
    ("json_schema", {"allOf": [{"anyOf": [{"properties": {f"x{i}{j}": {}}} for j in range(6)]} for i in range(10)]}),
    ("json_schema", {"patternProperties": {f"^.*{a}{b}.*$": {} for a in "abcdefgh" for b in "abcdefgh"}}),
    ("json_schema", {"allOf": [{"type": "string", "pattern": f".*{c}.*" * 3} for c in "abcdefghij"]}),
    *(("json_schema", {"type": "string", "pattern": p}) for p in ("(a|aa)+b", "^(a|b)*a(a|b){200}$", "(x+x+)+y")),
    *(("regex", p) for p in (
        "(a+)+$", "(a|aa|aaa)*b(.*c){20}", "(a|b)*a(a|b){30}", "([a-z]{1,5000}[0-9]{1,5000}){1,5000}", "x{60000}",
        ".*" * 500, "(" * 200 + "a" + ")" * 200, "(a?){5000}a{5000}", "[a-z]{1000000}", "((((a{99}){99}){99}){99})",
        r"(\p{L}{1,500}){500}", "(?:(?:a{1,9}){1,9}){1,9}" * 40, "|".join(f"w{i}.*" for i in range(4000)),
        "(.*a.{30}){10}", "a" * 60_000, "(?=x)", r"(a)\1", "(", "[", "a{2,1}", "(?P<x>a)(?P<x>b)", "\\", "(?i)" * 9,
    )),
    *(("choice", ["x" * n + str(i) for i in range(m)]) for n, m in ((1, 4096), (60, 1000), (30_000, 2), (10, 9999))),
    *(("grammar", g) for g in (
        "start: start start | start", "start: a\na: b\nb: a", 'start: ("a"*)*', 'start: /a*/ /a*/ /a*/ /a*/ "b"',
        "start: " + "(" * 300 + '"a"' + ")" * 300, 'start: "a" start "b" start | ""', 'root ::= root root root | "a"',
        "root ::= " + "(" * 500 + '"a"' + ")" * 500, "root ::= [", "start: /(/", "start: @nowhere", "%", "::=",
        "start: " + " | ".join(f'"w{i}" start' for i in range(3000)), "start: /[a-z]*/ & /.*q.*/", "start: ~/.*/",
        'start: %regex {"substring_chars": "' + "ab" * 9000 + '"}',
        "start: " + " ".join(["a?"] * 4000) + '\na: "a"', 'start: x{1000000}\nx: "a"', "start: <[0-300000]>",
    )),
]  # fmt: skip
"""(kind, value): deep, recursive, exponential, huge, and no grammars at all."""
