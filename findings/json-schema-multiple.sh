#!/usr/bin/env bash
# jsonschema 4.26.0, llguidance 1.9.1, pydantic 2.14.4
#
# Guess: an answer that was constrained with a schema passes a validator with the same schema. With {"multipleOf": 0.01}, amounts of
# money from 0.00 to 10.00 are all fine.
# Seen: llguidance's grammar takes all 1,001 texts, and pydantic's Field(multiple_of=0.01) too. jsonschema refuses 159 of them (0.07,
# 0.14, 0.28, ...): it divides binary floats and asks for a whole quotient, and 0.07 / 0.01 is 7.000000000000001. With 0.1 it refuses
# 348 of 0.0 to 100.0. When the text is read with parse_float=decimal.Decimal, and the schema too, it takes all.
# So: a client that checks constrained answers with jsonschema sees a server that breaks its promise in one of six amounts. Read both
# with Decimal, or ask for integers (cents), where nothing can differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check jsonschema==4.26.0 llguidance==1.9.1 pydantic==2.14.4
venv/bin/python - 2>stderr.txt <<'PY' || { cat stderr.txt; exit 1; }
import json
import sys
from decimal import Decimal
from typing import Annotated

from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from pydantic import Field, TypeAdapter, ValidationError


class Bytes:
    """A tokenizer with a token for each byte."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, [256]
    tokens = [bytes([i]) for i in range(256)] + [b"<eos>"]

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())


tokenizer = LLTokenizer(TokenizerWrapper(Bytes()))


def of_grammar(schema, text):
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema))
    return matcher.consume_tokens(list(text.encode())) and matcher.is_accepting()


def of_pydantic(unit):
    adapter = TypeAdapter(Annotated[float, Field(multiple_of=unit)])

    def takes(text):
        try:
            adapter.validate_json(text)
        except ValidationError:
            return False
        return True

    return takes


changed = False
for unit, places, want in [("0.01", 2, 159), ("0.1", 1, 348)]:
    schema = f'{{"type": "number", "multipleOf": {unit}}}'
    texts = [str(Decimal(i).scaleb(-places)) for i in range(1001)]
    plain = Draft202012Validator(json.loads(schema))
    exact = Draft202012Validator(json.loads(schema, parse_float=Decimal))
    pydantic = of_pydantic(float(unit))
    refused = {
        "llguidance": [t for t in texts if not of_grammar(schema, t)],
        "pydantic": [t for t in texts if not pydantic(t)],
        "jsonschema": [t for t in texts if not plain.is_valid(json.loads(t))],
        "jsonschema with Decimal": [t for t in texts if not exact.is_valid(json.loads(t, parse_float=Decimal))],
    }
    print(f"{schema}, {texts[0]} to {texts[-1]}, refused (guess: 0 each)")
    for name, some in refused.items():
        print(f"    {name}: {len(some)} {' '.join(some[:5])}")
    changed |= [len(some) for some in refused.values()] != [0, 0, want, 0]
sys.exit(changed)
PY
echo "as described"
