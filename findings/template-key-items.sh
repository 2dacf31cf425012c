#!/usr/bin/env bash
# jinja2 3.1.6, minijinja 3.1.0 (PyPI), @huggingface/jinja 0.5.11 (npm)
#
# Guess: a chat template that describes tools gives the same prompt in each of the three renderers that model files meet: Python's
# jinja2 (transformers, vLLM), minijinja (Rust servers) and @huggingface/jinja (JavaScript).
# Seen: they disagree about a mapping with the key `items`, which JSON schema uses for the element type of every array.
# - jinja2: parameter.items is the dict method, and parameter.items.type is empty, without an error.
# - minijinja and @huggingface/jinja: parameter.items is the key, and its type is found.
# - A parameter without that key: parameter.items is the method, hence true, in all three.
# - properties.items() on a tool with a parameter called "items" (a shopping cart) works in jinja2 and minijinja and raises in
#   @huggingface/jinja, where the key hides the method.
# So: in templates write parameter['items'] and properties|items, which mean the same in all three, and test a template with an array
# parameter and with a parameter that is called items (or keys, values, get) before it is moved to another renderer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check jinja2==3.1.6 minijinja==3.1.0
npm install --silent --no-fund --no-audit --prefix . @huggingface/jinja@0.5.11
cat > context.json <<'JSON'
{"array": {"type": "array", "items": {"type": "integer"}}, "text": {"type": "string"},
 "cart": {"items": {"type": "array"}, "note": {"type": "string"}}}
JSON
cat > templates.json <<'JSON'
{"element type": "<{{ array.items.type }}>",
 "guard": "{% if text.items %}array{% else %}scalar{% endif %}",
 "method": "{% for name, schema in cart.items() %}{{ name }} {% endfor %}",
 "subscript": "<{{ array['items']['type'] }}>",
 "filter": "{% for name, schema in cart|items %}{{ name }} {% endfor %}"}
JSON
cat > render.mjs <<'JS'
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
const read = (name) => JSON.parse(readFileSync(name));
const render = (text) => { try { return new Template(text).render(read("context.json")); } catch { return "error"; } };
console.log(JSON.stringify(Object.fromEntries(Object.entries(read("templates.json")).map(([k, t]) => [k, render(t)]))));
JS
node render.mjs > javascript.json
venv/bin/python - <<'PY'
import json
import sys
from pathlib import Path

import jinja2
import minijinja

context = json.loads(Path("context.json").read_text())
javascript = json.loads(Path("javascript.json").read_text())
rust = minijinja.Environment(pycompat=True)
want = {
    "element type": ("<>", "<integer>", "<integer>"),
    "method": ("items note ", "items note ", "error"),
    "subscript": ("<integer>", "<integer>", "<integer>"),
    "filter": ("items note ", "items note ", "items note "),
    "guard": ("array", "array", "array"),
}
changed = False
for name, template in json.loads(Path("templates.json").read_text()).items():
    got = (jinja2.Template(template).render(context), rust.render_str(template, **context), javascript[name])
    print(f"{name}: {template}\n    jinja2 {got[0]!r}, minijinja {got[1]!r}, @huggingface/jinja {got[2]!r}")
    changed |= got != want[name]
sys.exit(changed)
PY
echo "as described"
