#!/usr/bin/env bash
# @huggingface/jinja 0.5.11 (npm), jinja2 3.1.6
#
# Guess: `continue` and `break` in a chat template leave the loop body at that point; what the body has written before stays written.
# jinja2 (with jinja2.ext.loopcontrols, as transformers sets it up) does that.
# Seen: @huggingface/jinja throws away everything that the current round has written, also without an error: the text of a message
# that ends with `continue` is not in the prompt. A variable set in that round keeps its value.
# So: the same template gives a shorter prompt in JavaScript (browser, Node) than in Python. Put what must be written after the
# decision, or use if/else instead of loop controls, and compare the prompts of the two for a conversation that takes the branch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check jinja2==3.1.6
npm install --silent --no-fund --no-audit --prefix . @huggingface/jinja@0.5.11
cat > templates.json <<'JSON'
["{% for m in messages %}[{{ m.role }}]{% if not m.content %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
 "{% for m in messages %}[{{ m.role }}]{% if not m.content %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
 "{% set seen = namespace(n=0) %}{% for m in messages %}{% set seen.n = seen.n + 1 %}{% if not m.content %}{% continue %}{% endif %}{% endfor %}{{ seen.n }}"]
JSON
cat > context.json <<'JSON'
{"messages": [{"role": "user", "content": "add 1 and 2"}, {"role": "assistant", "content": ""}, {"role": "tool", "content": "3"}]}
JSON
cat > render.mjs <<'JS'
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
const read = (name) => JSON.parse(readFileSync(name));
console.log(JSON.stringify(read("templates.json").map((text) => new Template(text).render(read("context.json")))));
JS
node render.mjs > javascript.json
venv/bin/python - <<'PY'
import json
import sys
from pathlib import Path

import jinja2

environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
context = json.loads(Path("context.json").read_text())
want = [
    ("[user]add 1 and 2[assistant][tool]3", "[user]add 1 and 2[tool]3"),
    ("[user]add 1 and 2[assistant]", "[user]add 1 and 2"),
    ("3", "3"),
]
got = []
for template, javascript in zip(json.loads(Path("templates.json").read_text()), json.loads(Path("javascript.json").read_text()), strict=True):
    got.append((environment.from_string(template).render(context), javascript))
    print(f"{template}\n    jinja2 {got[-1][0]!r}, @huggingface/jinja {got[-1][1]!r}")
sys.exit(got != want)
PY
echo "as described"
